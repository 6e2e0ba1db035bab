"""What an allocation must respect beside its bytes, as groups and rows of the knapsack."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bitbudget.app.core.candidates import DecisionGroup
from bitbudget.app.core.decode import DECODE_EFFICIENCY, decode_bytes, passthrough_decode_bytes
from bitbudget.app.core.devices import Device, device
from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.app.core.formats import KEEP, Format
from bitbudget.app.core.inventory import CacheKind, Module
from bitbudget.app.core.kv import (
    KvFormat,
    KvSide,
    kv_format_bytes,
    kv_options,
    kv_sides,
    untaken_widths,
)
from bitbudget.app.core.mckp import Problem, Row
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.core.memory import (
    KV_BITS,
    MemoryPlan,
    cache_layer_bytes,
    element_bytes,
    plan_memory,
    prefill_bytes,
)
from bitbudget.app.core.requests import AllocationRequest
from bitbudget.app.core.runtime import Runtime

__all__ = ["DECODE_ROW", "LOW_BITS", "Conditions", "KvGroup", "conditions_of"]

DECODE_ROW: Final = "decode bytes per token"

LOW_BITS: Final = 3
"""A module at or below this many bits is a low-bit one."""


@dataclass(frozen=True, slots=True)
class KvGroup:
    """The KV cache of one full-attention layer, or its keys or values, as a decision of its own.

    Entry i of `formats`, `bytes` (at the stated context) and `costs` (nats per token) belong
    together.
    """

    layer: int
    side: KvSide
    formats: tuple[KvFormat, ...]
    bytes: tuple[int, ...]
    costs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Conditions:
    """A knapsack and its budget: first the bytes no choice changes, then groups, then KV groups.

    `file_limit` bounds the bytes of the files. `budget` is the same without KV groups; with them it
    bounds files and KV cache together.
    """

    problem: Problem
    budget: int
    file_limit: int
    kv: tuple[KvGroup, ...]
    notes: tuple[str, ...]


def conditions_of(
    measurement: Measurement,
    request: AllocationRequest,
    groups: tuple[DecisionGroup, ...],
    fixed_bytes: int,
    *,
    may_quantize_kv: bool = True,
) -> Conditions:
    """Return the knapsack of `groups` under everything that `request` states.

    `may_quantize_kv` False holds every cache of joint KV in the model's own type: prefill then
    takes less memory than with a single quantized cache, which is a case of its own.

    Raises InvalidRequestError for a device without a context, a speed without a device, joint KV
    without a device or without measured KV sensitivities.
    """
    if request.runtime is Runtime.UZU and (request.joint_kv or request.kv_bits < max(KV_BITS)):
        raise _refuse(
            "kv_bits",
            "quantized caches with runtime uzu",
            "caches of the model's own type: uzu makes its own",
            "drop --kv-bits and --joint-kv",
        )
    if request.runtime is Runtime.BITBUDGET and request.kv_bits < max(KV_BITS):
        raise _refuse(
            "kv_bits",
            f"{request.kv_bits} with runtime bitbudget",
            "formats chosen layer by layer, which its caches have",
            "use --joint-kv, or --runtime stock for one width of all caches",
        )
    plan = _plan(measurement, request)
    kv = _kv_groups(measurement, request, plan, may_quantize=may_quantize_kv)
    smallest = fixed_bytes + sum(min(group.bytes) for group in groups)
    file_limit = _file_limit(request, plan, smallest, is_joint=bool(kv))
    flat = _Flat(groups, kv)
    rows, notes = [], []
    if request.min_tokens_per_second is not None:
        rows.append(_decode_row(measurement, request, flat, plan))
        notes.append(
            f"speed: at most {rows[0].limit} bytes read per token, taking {DECODE_EFFICIENCY:.0%}"
            " of the device's bandwidth (an estimate)"
        )
    if not kv and request.kv_bits < max(KV_BITS):
        notes += _cost_of_kv(measurement, request.kv_bits)
    if request.max_low_bit_per_block is not None:
        rows += _low_bit_rows(flat, request.max_low_bit_per_block)
    file_bytes = flat.of(fixed_bytes, (g.bytes for g in groups))
    budget = file_limit
    if kv and plan is not None:
        rows.append(Row("checkpoint", file_limit, file_bytes))
        untaken = untaken_widths(measurement.inventory.architecture.cache)
        notes += [untaken] if untaken else []
        budget = _memory_limit(measurement, request, plan, kv)
    problem = Problem(
        offsets=flat.offsets,
        bytes=flat.of(fixed_bytes, (g.bytes for g in groups), (g.bytes for g in kv)),
        costs=flat.costs,
        rows=tuple(rows),
    )
    notes += measurement.inventory.notes
    return Conditions(problem, budget, file_limit, kv, tuple(notes))


@dataclass(frozen=True, slots=True)
class _Flat:
    """Lays numbers of all options out in the knapsack's order."""

    groups: tuple[DecisionGroup, ...]
    kv: tuple[KvGroup, ...]

    @property
    def offsets(self) -> NDArray[np.int64]:
        sizes = [1, *(len(g.formats) for g in self.groups), *(len(g.formats) for g in self.kv)]
        return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])

    @property
    def costs(self) -> NDArray[np.float64]:
        own = [cost for group in self.groups for cost in group.costs]
        return np.array([0.0, *own, *(cost for group in self.kv for cost in group.costs)])

    def of(
        self,
        first: int,
        per_group: Iterable[Sequence[int]],
        per_kv: Iterable[Sequence[int]] | None = None,
    ) -> NDArray[np.int64]:
        """Return one number per option; KV options count nothing unless told otherwise."""
        own = [number for numbers in per_group for number in numbers]
        kv = ([0] * len(group.formats) for group in self.kv) if per_kv is None else per_kv
        return np.array(
            [first, *own, *(number for numbers in kv for number in numbers)], dtype=np.int64
        )


def _refuse(where: str, found: str, expected: str, remedy: str) -> InvalidRequestError:
    return InvalidRequestError(where=where, found=found, expected=expected, remedy=remedy)


def _chip(request: AllocationRequest) -> Device | None:
    return None if request.device is None else device(request.device)


def _plan(measurement: Measurement, request: AllocationRequest) -> MemoryPlan | None:
    chip = _chip(request)
    if chip is None:
        return None
    if request.context is None:
        raise _refuse("context", "none", "tokens of context beside a device", "add --context 8192")
    return plan_memory(
        measurement.inventory, chip, request.context, request.kv_bits, request.runtime
    )


def _file_limit(
    request: AllocationRequest, plan: MemoryPlan | None, smallest: int, *, is_joint: bool
) -> int:
    stated = [] if request.budget_bytes is None else [request.budget_bytes]
    if plan is not None:
        beside_kv = plan.kv_cache_bytes if is_joint else 0
        stated.append(max(plan.weights_limit_bytes + beside_kv, 0))
    if request.min_safe and min(stated, default=smallest) >= smallest:
        stated.append(smallest)
    if not stated:
        raise _refuse(
            "budget",
            "none",
            "bytes, a device with a context, or min_safe",
            "state a budget such as 5.5GiB",
        )
    return min(stated)


def _decode_row(
    measurement: Measurement, request: AllocationRequest, flat: _Flat, plan: MemoryPlan | None
) -> Row:
    """Return the row on bytes read per token: bandwidth x efficiency / tokens per second."""
    chip = _chip(request)
    if chip is None or plan is None or request.min_tokens_per_second is None:
        raise _refuse(
            "min_tokens_per_second",
            "no device",
            "a device whose bandwidth bounds the speed",
            "add --device and --context",
        )
    read = chip.bandwidth_bytes_per_second * DECODE_EFFICIENCY / request.min_tokens_per_second
    first = passthrough_decode_bytes(measurement.inventory)
    first += _other_caches(measurement, request) if flat.kv else plan.kv_cache_bytes
    counter = _Counter(decode_bytes)
    weights = flat.of(
        first,
        (counter.of(group) for group in flat.groups),
        (group.bytes for group in flat.kv) if flat.kv else None,
    )
    return Row(DECODE_ROW, int(min(read, 2.0**59)), weights)


@dataclass(slots=True)
class _Counter:
    """Sums a number over the modules of a group; equal modules are counted once."""

    count: Callable[[Module, Format], int]
    known: dict[tuple[object, ...], int] = field(default_factory=dict)

    def of(self, group: DecisionGroup) -> list[int]:
        return [sum(self._one(module, f) for module in group.modules) for f in group.formats]

    def _one(self, module: Module, format_: Format) -> int:
        shape = (module.shape, module.dtype, module.kind, module.is_tied_head)
        key = (*shape, module.experts_per_token, format_)
        if key not in self.known:
            self.known[key] = self.count(module, format_)
        return self.known[key]


def _low_bit_rows(flat: _Flat, most: int) -> list[Row]:
    """Return one row per block: at most `most` of its modules at `LOW_BITS` or below."""
    offsets = flat.offsets
    rows: dict[int, NDArray[np.int64]] = {}
    for place, group in enumerate(flat.groups, 1):
        is_low = np.array([f != KEEP and f.bits <= LOW_BITS for f in group.formats])
        inside = Counter(module.layer for module in group.modules if module.layer is not None)
        for layer, modules in inside.items():
            row = rows.setdefault(layer, np.zeros(offsets[-1], dtype=np.int64))
            row[offsets[place] : offsets[place + 1]] = modules * is_low
    return [Row(f"low-bit modules of block {layer}", most, rows[layer]) for layer in sorted(rows)]


def _kv_groups(
    measurement: Measurement,
    request: AllocationRequest,
    plan: MemoryPlan | None,
    *,
    may_quantize: bool,
) -> tuple[KvGroup, ...]:
    if not request.joint_kv:
        return ()
    if plan is None or request.context is None:
        raise _refuse(
            "joint_kv", "no device", "a device with a context", "add --device and --context"
        )
    curves = {curve.layer: curve for curve in measurement.kv_curves}
    itemsize = element_bytes(measurement.inventory)
    groups = []
    for cache in measurement.inventory.architecture.cache:
        if cache.kind is not CacheKind.FULL:
            continue
        if cache.layer not in curves:
            raise _refuse(
                f"measurement, KV cache of layer {cache.layer}",
                f"no sensitivity ({measurement.sensitivity.value} was measured)",
                "one for every full-attention layer",
                "measure with --sensitivity fisher or probe, or state --kv-bits",
            )
        apart = request.runtime is Runtime.BITBUDGET
        for side in kv_sides(cache, apart=apart):
            options = kv_options(measurement.inventory, curves[cache.layer], cache, side)
            formats = tuple(f for f in options if may_quantize or f.is_own_type)
            size = partial(kv_format_bytes, cache, request.context, itemsize=itemsize, side=side)
            groups.append(
                KvGroup(
                    layer=cache.layer,
                    side=side,
                    formats=formats,
                    bytes=tuple(size(f) for f in formats),
                    costs=tuple(options[f].kl_nats for f in formats),
                )
            )
    return tuple(groups)


def _cost_of_kv(measurement: Measurement, kv_bits: int) -> list[str]:
    """Say what a given quantized cache adds to the weights' KL, where that was measured."""
    costs = []
    for curve in measurement.kv_curves:
        near = [p.kl_nats for p in curve.points if p.bits == kv_bits and p.group_size in {32, 64}]
        costs += near[-1:]
    if not costs:
        return []
    added = f"the {kv_bits}-bit KV cache adds {math.fsum(costs):.3g} nats per token"
    return [f"{added} to the prediction, which is of the weights alone"]


def _memory_limit(
    measurement: Measurement,
    request: AllocationRequest,
    plan: MemoryPlan,
    kv: tuple[KvGroup, ...],
) -> int:
    """Return the bytes that files and the chosen KV caches may take together.

    Where any layer may get a quantized cache, prefill is counted as for one.
    """
    architecture = measurement.inventory.architecture
    context, itemsize = request.context or 0, element_bytes(measurement.inventory)
    other = _other_caches(measurement, request)
    narrowest = min((f.bits for group in kv for f in group.formats), default=8 * itemsize)
    prefill = prefill_bytes(architecture, context, narrowest, itemsize, request.runtime)
    return max(plan.usable_bytes - other - prefill - plan.reserve_bytes, 0)


def _other_caches(measurement: Measurement, request: AllocationRequest) -> int:
    """Return the bytes of the caches that are no decision: they keep the model's own type."""
    itemsize = element_bytes(measurement.inventory)
    return sum(
        cache_layer_bytes(cache, request.context or 0, 8 * itemsize, itemsize)
        for cache in measurement.inventory.architecture.cache
        if cache.kind is not CacheKind.FULL
    )
