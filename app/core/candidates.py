"""What may be chosen: the formats each decision group is offered, with exact bytes and costs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TypeVar

import numpy as np

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.encoders import sqnr_floor_of
from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.app.core.formats import ALL_FORMATS, KEEP, Format
from bitbudget.app.core.inventory import Module
from bitbudget.app.core.joined_groups import decision_groups_for
from bitbudget.app.core.layout import module_bytes
from bitbudget.app.core.mckp.problem import Problem
from bitbudget.app.core.measurement import CurvePoint, Measurement
from bitbudget.app.core.requests import AllocationRequest
from bitbudget.app.core.runtime import Runtime, offered_formats
from bitbudget.app.core.sqnr import DEFAULT_SQNR_FLOOR_DB

__all__ = [
    "DecisionGroup",
    "ExactSizes",
    "Rules",
    "as_problem",
    "decision_groups",
    "legal_formats",
]

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Rules:
    """Which formats may be offered. `formats` None offers every measured one of the runtime's.

    `pins` and `floors` map globs over module paths to a format or to the least bits.
    """

    formats: tuple[Format, ...] | None = None
    sqnr_floor_db: float = DEFAULT_SQNR_FLOOR_DB
    pins: Mapping[str, Format] = field(default_factory=dict)
    floors: Mapping[str, int] = field(default_factory=dict)
    runtime: Runtime = Runtime.STOCK

    @classmethod
    def of(cls, request: AllocationRequest) -> Rules:
        """Return the rules that a request states."""
        return cls(
            request.formats, request.sqnr_floor_db, request.pins, request.floors, request.runtime
        )


@dataclass(frozen=True, slots=True)
class DecisionGroup:
    """Modules that share one format, and what they may share.

    Entry i of `formats`, `bytes` (exact, header room included) and `costs` (predicted KL in nats
    per token) belong together.
    """

    name: str
    modules: tuple[Module, ...]
    formats: tuple[Format, ...]
    bytes: tuple[int, ...]
    costs: tuple[float, ...]


def decision_groups(measurement: Measurement, rules: Rules) -> tuple[DecisionGroup, ...]:
    """Return every decision group with the formats that `rules` leave it.

    A group whose wanted formats are all under the SQNR floor keeps the best of them, and one that
    has none of the wanted formats is stored as it is, so that something is always offered.

    Raises InvalidRequestError for a glob that matches nothing, pins and floors that contradict, a
    format that a module cannot have or that was not measured.
    """
    modules = measurement.inventory.modules
    _require_matches("pin", rules.pins, modules)
    _require_matches("floor", rules.floors, modules)
    points = {
        curve.path: {point.format: point for point in curve.points} for curve in measurement.curves
    }
    floor_db = sqnr_floor_of(measurement.encoder, rules.sqnr_floor_db)
    sizes = ExactSizes()
    groups = []
    for name, members in decision_groups_for(measurement.inventory, rules.runtime).items():
        curves = [_points_of(points, module) for module in members]
        formats = _offered(name, members, curves, rules, floor_db)
        groups.append(
            DecisionGroup(
                name=name,
                modules=members,
                formats=formats,
                bytes=tuple(sum(sizes.of(module, f) for module in members) for f in formats),
                costs=tuple(sum(curve[f].kl_nats for curve in curves) for f in formats),
            )
        )
    return tuple(groups)


class ExactSizes:
    """Exact bytes of modules; those of equal shape, type and length of name are counted once."""

    def __init__(self) -> None:
        self._known: dict[tuple[tuple[int, ...], Dtype, int, Format], int] = {}
        self._name_lengths: dict[str, int] = {}

    def of(self, module: Module, format_: Format) -> int:
        """Return `module_bytes(module, format_)`."""
        length = self._name_lengths.get(module.path)
        if length is None:
            length = self._name_lengths[module.path] = len(json.dumps(module.path))
        key = (module.shape, module.dtype, length, format_)
        if key not in self._known:
            self._known[key] = module_bytes(module, format_)
        return self._known[key]


def _require_matches(what: str, globs: Iterable[str], modules: tuple[Module, ...]) -> None:
    for glob in globs:
        if not any(fnmatchcase(module.path, glob) for module in modules):
            raise InvalidRequestError(
                where=f"{what} {glob!r}",
                found="no module of that name",
                expected=f"a glob over paths such as {modules[0].path!r}",
                remedy="list the paths with bitbudget measure, or drop it",
            )


def _points_of(
    points: Mapping[str, Mapping[Format, CurvePoint]], module: Module
) -> Mapping[Format, CurvePoint]:
    if module.path not in points:
        raise InvalidRequestError(
            where=f"measurement, module {module.path!r}",
            found="no curve",
            expected="a curve for every module of the inventory",
            remedy="measure the model again",
        )
    return points[module.path]


def _offered(
    name: str,
    members: tuple[Module, ...],
    curves: list[Mapping[Format, CurvePoint]],
    rules: Rules,
    floor_db: float,
) -> tuple[Format, ...]:
    measured = [f for f in ALL_FORMATS if all(f in curve for curve in curves)]
    legal = legal_formats(name, members, measured, rules)
    if any(_matching(rules.pins, members)):
        return legal
    quality = {f: min(curve[f].sqnr_db for curve in curves) for f in legal}
    safe = tuple(f for f in legal if quality[f] >= floor_db)
    return safe or (max(legal, key=quality.__getitem__),)


def legal_formats(
    name: str, members: tuple[Module, ...], candidates: Sequence[Format], rules: Rules
) -> tuple[Format, ...]:
    """Return the candidates that every module of a group may have, whatever their errors.

    That is the one it is pinned to, or those of `rules.formats` that the runtime loads and that its
    width, the model and `rules.floors` allow; `keep` where that leaves none.

    Raises InvalidRequestError for pins that contradict, and when nothing is left.
    """
    loadable = frozenset(offered_formats(rules.runtime))
    candidates = [format_ for format_ in candidates if format_ in loadable]
    floor_bits = max(_matching(rules.floors, members).values(), default=0)
    pinned = _pinned(name, members, candidates, rules, floor_bits)
    if pinned is not None:
        return (pinned,)
    allowed = [module.legal_formats(tuple(candidates)) for module in members]
    legal = [f for f in candidates if all(f in formats for formats in allowed)]
    wanted = legal if rules.formats is None else [f for f in legal if f in rules.formats]
    kept = [f for f in legal if f == KEEP]
    left = [f for f in wanted or kept if f == KEEP or f.bits >= floor_bits] or kept
    if not left:
        raise InvalidRequestError(
            where=f"decision group {name!r}",
            found=f"no format left of {', '.join(map(str, candidates)) or 'none measured'}",
            expected="at least one format above the floors",
            remedy="measure `keep`, or lower --floor or --sqnr-floor",
        )
    return tuple(left)


def _matching(globs: Mapping[str, _Value], members: tuple[Module, ...]) -> dict[str, _Value]:
    return {
        glob: value
        for glob, value in globs.items()
        if any(fnmatchcase(module.path, glob) for module in members)
    }


def _pinned(
    name: str,
    members: tuple[Module, ...],
    candidates: Sequence[Format],
    rules: Rules,
    floor_bits: int,
) -> Format | None:
    pins = _matching(rules.pins, members)
    if not pins:
        return None
    glob, format_ = next(iter(pins.items()))
    where = f"pin {glob!r} on decision group {name!r}"
    if len(set(pins.values())) > 1:
        found = " and ".join(f"{glob}={format_}" for glob, format_ in pins.items())
        raise InvalidRequestError(
            where=where, found=found, expected="one format", remedy="drop all pins but one"
        )
    if format_ != KEEP and format_.bits < floor_bits:
        raise InvalidRequestError(
            where=where,
            found=f"{format_} and a floor of {floor_bits} bits",
            expected="a pin at or above the floor",
            remedy="drop one of the two",
        )
    if format_ not in candidates or not all(_can_hold(module, format_) for module in members):
        raise InvalidRequestError(
            where=where,
            found=str(format_),
            expected=f"one of {', '.join(map(str, candidates))}",
            remedy="pin a format that was measured and whose group divides the input width",
        )
    return format_


def _can_hold(module: Module, format_: Format) -> bool:
    if format_ == KEEP:
        return True
    return module.quantizable and format_.is_legal(module.in_features, module.dtype)


def as_problem(groups: tuple[DecisionGroup, ...], fixed_bytes: int = 0) -> Problem:
    """Return the knapsack over the groups, options in the order they are offered.

    What no choice changes comes first, as a group of one option.
    """
    sizes = [1, *(len(group.formats) for group in groups)]
    bytes_ = [fixed_bytes, *(b for group in groups for b in group.bytes)]
    costs = [0.0, *(c for group in groups for c in group.costs)]
    return Problem(
        offsets=np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]),
        bytes=np.array(bytes_, dtype=np.int64),
        costs=np.array(costs, dtype=np.float64),
    )
