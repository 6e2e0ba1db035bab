"""Audit of a manifest that somebody else made: recomputed from the measurement it was made on.

A manifest is a claim: these formats, these bytes, this predicted KL, this lower bound. Everything
but what was measured on finished checkpoints follows from the measurement and the request, and is
computed here again with the code that makes manifests.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from bitbudget.app.core.allocate import allocate
from bitbudget.app.core.allocation import Allocation
from bitbudget.app.core.calibration import UNCALIBRATED, Calibration
from bitbudget.app.core.candidates import DecisionGroup, ExactSizes, Rules, decision_groups
from bitbudget.app.core.constraints import Conditions, conditions_of
from bitbudget.app.core.errors import InfeasibleBudgetError, InvalidRequestError
from bitbudget.app.core.inventory import Module
from bitbudget.app.core.kv import KvSide
from bitbudget.app.core.layout import plan_checkpoint
from bitbudget.app.core.manifest import KvChoice, Manifest
from bitbudget.app.core.measurement import Measurement, Sensitivity
from bitbudget.app.core.relinearization import LOW_BITS_PER_WEIGHT, bits_per_weight
from bitbudget.app.core.requests import AllocationRequest, Recover

__all__ = ["audit"]

_ROUNDING: Final = 1e-9
"""Relative difference of sums of the same floating point numbers in another order."""
_OPTIMAL: Final = 1e-5
"""Relative distance to the optimum of what may be called optimal, over the solver's own 1e-6."""
_Choice = TypeVar("_Choice")
_Cache = tuple[int, KvSide]
"""A layer's cache, or its keys or values."""


def audit(
    manifest: Manifest,
    measurement: Measurement,
    request: AllocationRequest,
    *,
    seconds: float = 2.0,
    is_over: Callable[[], bool] = lambda: False,
) -> None:
    """Raise InvalidRequestError unless `manifest` answers `request` on `measurement` truthfully.

    Checked are model, measurement and request, the format of every decision group, bytes, budget
    and side conditions, predicted KL and lower bound. The bound is compared with an allocation that
    is solved here in `seconds`, or until `is_over`: no true bound is above it.

    Below 3.5 bits per weight workers replace curves by errors measured together. What those sum up
    to cannot be recomputed; all else is checked there, too.
    """
    _check_identity(manifest, measurement, request)
    groups = decision_groups(measurement, Rules.of(request))
    _check_modules(manifest, measurement, groups)
    chosen = _chosen(manifest, measurement, request, groups)
    quick = request.model_copy(
        update={"time_limit_seconds": min(seconds, request.time_limit_seconds)}
    )
    best = _best(measurement, quick, is_over)
    _check_prediction(manifest, measurement, request, best, chosen)


def _require(holds: bool, what: str, found: object, expected: object) -> None:  # noqa: FBT001
    if not holds:
        raise InvalidRequestError(
            where=f"manifest: {what}",
            found=str(found)[:200],
            expected=str(expected)[:200],
            remedy="allocate again on this measurement with this version",
        )


def _same(what: str, found: object, expected: object) -> None:
    _require(found == expected, what, found, expected)


def _near(a: float, b: float, tolerance: float = _ROUNDING) -> bool:
    return math.isclose(a, b, rel_tol=tolerance, abs_tol=1e-15)


def _check_identity(
    manifest: Manifest, measurement: Measurement, request: AllocationRequest
) -> None:
    _same("measurement", manifest.measurement, measurement.key)
    _same("model digest", manifest.model.digest, measurement.model.digest)
    _same("model name", manifest.model.name, measurement.model.name)
    _same("model revision", manifest.model.revision, measurement.model.revision)
    architecture = measurement.inventory.architecture
    _same("model type", manifest.model.model_type, architecture.model_type)
    _same("origin", manifest.origin, measurement.origin)
    _same("effort", manifest.effort, measurement.effort)
    _same("encoder", manifest.encoder, measurement.encoder)
    _same("sensitivity", manifest.sensitivity, measurement.sensitivity)
    _same("rotation", manifest.rotation, measurement.rotation)
    _same("recover", manifest.recover, getattr(request, "recover", Recover.NONE))
    fields = set(AllocationRequest.model_fields)
    asked = AllocationRequest(**request.model_dump(include=fields))
    for name in fields:
        _same(f"request.{name}", getattr(manifest.request, name), getattr(asked, name))


def _check_modules(
    manifest: Manifest, measurement: Measurement, groups: Sequence[DecisionGroup]
) -> None:
    """Check that every module has a format that its group is offered, its bytes and its error."""
    paths = {module.path for module in measurement.inventory.modules}
    missing, unknown = sorted(paths - set(manifest.modules)), sorted(set(manifest.modules) - paths)
    _require(not missing, "modules", f"none called {missing[:1]}", "every module of the model")
    _require(not unknown, "modules", f"one called {unknown[:1]}", "the modules of the model")
    curves = {curve.path: curve for curve in measurement.curves}
    sizes = ExactSizes()
    for group in groups:
        for module in group.modules:
            choice = manifest.modules[module.path]
            where = f"modules.{module.path}"
            offered = ", ".join(map(str, group.formats))
            _require(choice.format in group.formats, where, choice.format, f"one of {offered}")
            _same(where, choice.format, manifest.modules[group.modules[0].path].format)
            _same(f"{where}.bytes", choice.bytes, sizes.of(module, choice.format))
            t2 = curves[module.path].point(choice.format).t2
            _require(_near(choice.t2, t2), f"{where}.t2", choice.t2, t2)


@dataclass(frozen=True, slots=True)
class _Chosen:
    """Costs in nats per token of what was chosen: by decision group, and of KV caches by layer."""

    modules: Mapping[str, tuple[Module, ...]]
    costs: Mapping[str, float]
    kv_costs: Mapping[_Cache, float]

    @property
    def cost(self) -> float:
        return math.fsum([*self.costs.values(), *self.kv_costs.values()])


def _chosen(
    manifest: Manifest,
    measurement: Measurement,
    request: AllocationRequest,
    groups: tuple[DecisionGroup, ...],
) -> _Chosen:
    """Return what was chosen; InvalidRequestError unless it is within budget and conditions.

    Where no KV cache is quantized it may be within those of either case of joint KV.
    """
    fixed = plan_checkpoint(measurement.inventory).fixed_bytes
    formats = [format_ for sides in manifest.kv_formats.values() for format_ in sides.values()]
    cases = [False, True] if all(format_.is_own_type for format_ in formats) else [True]
    for number, may_quantize in enumerate(cases, start=1):
        conditions = conditions_of(
            measurement, request, groups, fixed, may_quantize_kv=may_quantize
        )
        try:
            return _within(manifest, groups, conditions)
        except InvalidRequestError:
            if number == len(cases):
                raise
    raise AssertionError


def _within(
    manifest: Manifest, groups: tuple[DecisionGroup, ...], conditions: Conditions
) -> _Chosen:
    formats = [manifest.modules[group.modules[0].path].format for group in groups]
    indices = [0, *(_index(g.formats, f, g.name) for g, f in zip(groups, formats, strict=True))]
    kv = _kv_choices(manifest)
    _same("kv_cache", sorted(kv), sorted((group.layer, group.side) for group in conditions.kv))
    kv_bytes = 0
    kv_costs: dict[_Cache, float] = {}
    for group in conditions.kv:
        choice = kv[group.layer, group.side]
        where = f"kv_cache.{group.layer}.{group.side}"
        index = _index(group.formats, choice.format, where)
        _same(f"{where}.bytes", choice.bytes, group.bytes[index])
        kv_bytes += group.bytes[index]
        kv_costs[group.layer, group.side] = group.costs[index]
        indices.append(index)
    problem = conditions.problem
    taken = problem.offsets[:-1] + indices
    total = int(problem.bytes[taken].sum())
    _same("file_bytes", manifest.file_bytes, total - kv_bytes)
    _require(total <= conditions.budget, "file_bytes", total, f"at most {conditions.budget}")
    limit = min(conditions.file_limit, conditions.budget - kv_bytes)
    _same("budget_bytes", manifest.budget_bytes, limit)
    _require(manifest.file_bytes <= limit, "file_bytes", manifest.file_bytes, f"at most {limit}")
    for row in problem.rows:
        weight = int(row.weights[taken].sum())
        _require(weight <= row.limit, row.name, weight, f"at most {row.limit}")
    costs = {g.name: g.costs[i] for g, i in zip(groups, indices[1 : len(groups) + 1], strict=True)}
    return _Chosen({group.name: group.modules for group in groups}, costs, kv_costs)


def _index(offered: Sequence[_Choice], choice: _Choice, where: str) -> int:
    names = ", ".join(map(str, offered))
    _require(choice in offered, where, choice, f"one of {names}")
    return offered.index(choice)


def _best(
    measurement: Measurement, request: AllocationRequest, is_over: Callable[[], bool]
) -> Allocation | None:
    """Return our own allocation, its KL what the curves add up to; None if time was too short."""
    try:
        return allocate(replace(measurement, calibration=UNCALIBRATED), request, is_over=is_over)
    except InfeasibleBudgetError:  # it is feasible: what is audited shows it
        return None


def _check_prediction(
    manifest: Manifest,
    measurement: Measurement,
    request: AllocationRequest,
    best: Allocation | None,
    chosen: _Chosen,
) -> None:
    certificate = manifest.certificate
    predicted, bound = certificate.predicted_kl_nats_per_token, certificate.bound
    _require(predicted >= 0, "predicted KL", predicted, "no negative one")
    high = predicted * (1 + _ROUNDING)
    _require(0 <= bound <= high, "bound", bound, f"at most the predicted {predicted}")
    gap = (predicted - bound) / predicted if predicted > 0 else 0.0
    _require(abs(certificate.gap - gap) <= _ROUNDING, "gap", certificate.gap, gap)
    interval = certificate.predicted_kl_interval_95
    holds = interval is None or (interval[0] <= high and predicted <= interval[1] * (1 + _ROUNDING))
    _require(holds, "interval", interval, f"one around {predicted}")
    shares = [choice.kl_nats for choice in manifest.modules.values()]
    shares += [choice.kl_nats for choice in _kv_choices(manifest).values()]
    told = math.fsum(shares)
    _require(_near(told, predicted, 1e-6), "predicted KL", predicted, f"the sum of parts, {told}")
    if _follows_curves(manifest, measurement, chosen):
        _check_law(manifest, measurement, best, chosen)
    else:
        _check_measured_together(manifest, measurement, request, best, chosen)


def _follows_curves(manifest: Manifest, measurement: Measurement, chosen: _Chosen) -> bool:
    """Whether every choice has the same share of its cost on the curves."""
    total = chosen.cost
    share = manifest.certificate.predicted_kl_nats_per_token / total if total > 0 else 1.0
    curves = {curve.path: curve for curve in measurement.curves}
    modules = all(
        _near(choice.kl_nats, share * curves[path].point(choice.format).kl_nats, 1e-6)
        for path, choice in manifest.modules.items()
    )
    caches = _kv_choices(manifest)
    return modules and all(
        _near(caches[cache].kl_nats, share * cost, 1e-6) for cache, cost in chosen.kv_costs.items()
    )


def _kv_choices(manifest: Manifest) -> dict[_Cache, KvChoice]:
    return {
        (layer, side): choice
        for layer, sides in (manifest.kv_cache or {}).items()
        for side, choice in sides.items()
    }


def _check_law(
    manifest: Manifest, measurement: Measurement, best: Allocation | None, chosen: _Chosen
) -> None:
    """Check predicted KL and bound against the calibration from costs to KL.

    Checkpoints measured since the manifest was made may have moved the calibration: then the
    prediction must be where the calibration expects it, within twice its 95 % interval.
    """
    certificate = manifest.certificate
    predicted = certificate.predicted_kl_nats_per_token
    cost, law = chosen.cost, measurement.calibration
    least = cost if best is None else min(cost, best.predicted_kl_nats_per_token)
    known = [known for known in (law, UNCALIBRATED) if _near(known.kl(cost), predicted, 1e-6)]
    if not known:
        low, high = _twice(law, cost)
        expected = f"{law.kl(cost)} ({low} to {high})"
        _require(low <= predicted <= high, "predicted KL", predicted, expected)
    if certificate.status == "optimal":
        holds = cost <= least * (1 + _OPTIMAL) + 1e-12
        _require(holds, "status", f"optimal at a cost of {cost}", f"one of {least}, which exists")
    if known:
        most = max(each.kl(least) for each in known)
        holds = certificate.bound <= most * (1 + _OPTIMAL) + 1e-12
        _require(holds, "bound", certificate.bound, f"at most {most}, which is reached")


def _twice(law: Calibration, cost: float) -> tuple[float, float]:
    expected, interval = law.kl(cost), law.interval_95(cost)
    if interval is None or expected <= 0:
        return expected, expected
    return expected * (interval[0] / expected) ** 2, expected * (interval[1] / expected) ** 2


def _check_measured_together(
    manifest: Manifest,
    measurement: Measurement,
    request: AllocationRequest,
    best: Allocation | None,
    chosen: _Chosen,
) -> None:
    """Refuse costs that are not the curves' unless bits are so few that they were measured anew."""
    each = [manifest.formats] if best is None else [manifest.formats, best.formats]
    bits = min(bits_per_weight(measurement.inventory, one) for one in each)
    wish = getattr(request, "relinearize", None)
    wanted = bits < LOW_BITS_PER_WEIGHT if wish is None else wish
    may = wanted and measurement.sensitivity is Sensitivity.FISHER and not request.joint_kv
    _require(bool(may), "kl_nats", "costs of modules", "those of the measurement's curves")
    curves = {curve.path: curve for curve in measurement.curves}
    for name, modules in chosen.modules.items():
        total = chosen.costs[name]
        told = math.fsum(manifest.modules[module.path].kl_nats for module in modules)
        factor = told / total if total > 0 else 0.0
        for module in modules:
            choice = manifest.modules[module.path]
            expected = factor * curves[module.path].point(choice.format).kl_nats
            where = f"modules.{module.path}.kl_nats"
            _require(_near(choice.kl_nats, expected, 1e-6), where, choice.kl_nats, expected)
