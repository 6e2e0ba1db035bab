"""Which Mac runs a model how well: one row per device from one measurement."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from bitbudget.app.core.allocate import allocate
from bitbudget.app.core.allocation import Allocation
from bitbudget.app.core.decode import DECODE_EFFICIENCY, decode_bytes, passthrough_decode_bytes
from bitbudget.app.core.devices import DEVICES, Device
from bitbudget.app.core.errors import InfeasibleBudgetError
from bitbudget.app.core.kv import KvSide, plan_with_caches
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.core.memory import largest_context, plan_memory
from bitbudget.app.core.requests import AllocationRequest
from bitbudget.app.core.runtime import Runtime

__all__ = ["GuideRow", "guide"]

_OWN_TYPE_BITS = 16


@dataclass(frozen=True, slots=True)
class GuideRow:
    """The best checkpoint for one device at a context; `file_bytes` 0 where none fits.

    `budget_bytes` is what the device leaves for the files. `predicted` is in the measurement's own
    objective, with its 95 % interval where that is known. `tokens_per_second` is a bound on
    decoding: the device's bandwidth times an estimated efficiency. `largest_context` is the most
    tokens at which this very checkpoint fits. `kv_cache` names the formats chosen with the weights.
    """

    device: str
    title: str
    memory_bytes: int
    budget_bytes: int
    file_bytes: int = 0
    bits_per_weight: float = 0.0
    predicted: float | None = None
    interval_95: tuple[float, float] | None = None
    tokens_per_second: float = 0.0
    largest_context: int = 0
    kv_cache: str = ""

    @property
    def fits(self) -> bool:
        """Whether some allocation fits."""
        return self.file_bytes > 0


def guide(
    measurement: Measurement,
    context: int,
    *,
    joint_kv: bool = False,
    runtime: Runtime = Runtime.STOCK,
    devices: Iterable[Device] = tuple(DEVICES.values()),
    is_over: Callable[[], bool] = lambda: False,
) -> Iterator[GuideRow]:
    """Yield a row for each device, in the order given.

    Devices whose GPU may use the same memory get the same allocation, which is solved once.
    Raises InvalidRequestError for a context beyond the model's, and with `joint_kv` where no KV
    sensitivities were measured.
    """
    solved: dict[int, Allocation | None] = {}
    for target in devices:
        memory = target.working_set_bytes
        if memory not in solved:
            request = AllocationRequest(
                device=target.name, context=context, joint_kv=joint_kv, runtime=runtime
            )
            solved[memory] = _best(measurement, request, is_over)
        yield _row(measurement, target, context, runtime, solved[memory])


def _best(
    measurement: Measurement, request: AllocationRequest, is_over: Callable[[], bool]
) -> Allocation | None:
    try:
        return allocate(measurement, request, is_over=is_over)
    except InfeasibleBudgetError:
        return None


def _row(
    measurement: Measurement,
    target: Device,
    context: int,
    runtime: Runtime,
    best: Allocation | None,
) -> GuideRow:
    inventory = measurement.inventory
    plan = plan_memory(inventory, target, context, _OWN_TYPE_BITS, runtime)
    if best is None:
        limit = max(plan.weights_limit_bytes, 0)
        return GuideRow(target.name, target.title, target.memory_bytes, limit)
    if best.kv_formats is not None:
        plan = plan_with_caches(inventory, target, context, best.kv_formats, runtime)
    read = passthrough_decode_bytes(inventory) + plan.kv_cache_bytes
    read += sum(decode_bytes(m, best.formats[m.path]) for m in inventory.modules)
    return GuideRow(
        device=target.name,
        title=target.title,
        memory_bytes=target.memory_bytes,
        budget_bytes=best.budget_bytes,
        file_bytes=best.file_bytes,
        bits_per_weight=8 * best.file_bytes / max(inventory.weights, 1),
        predicted=best.predicted_kl_nats_per_token,
        interval_95=best.interval_95,
        tokens_per_second=DECODE_EFFICIENCY * target.bandwidth_bytes_per_second / max(read, 1),
        largest_context=_largest_context(measurement, target, best, runtime),
        kv_cache=_kv_names(best),
    )


def _largest_context(
    measurement: Measurement, target: Device, best: Allocation, runtime: Runtime
) -> int:
    """Return the most tokens at which the files fit; with chosen caches, in their narrowest."""
    widths = [f.bits for sides in (best.kv_formats or {}).values() for f in sides.values()]
    quantized = [bits for bits in widths if bits < _OWN_TYPE_BITS]
    bits = _OWN_TYPE_BITS if not quantized or len(quantized) < len(widths) else max(quantized)
    nearest = min((width for width in (16, 8, 4) if width >= bits), default=_OWN_TYPE_BITS)
    return largest_context(measurement.inventory, target, best.file_bytes, nearest, runtime)


def _kv_names(best: Allocation) -> str:
    """Return the formats in use, `8g64 x 20, 16 x 4`, keys and values counted apart."""
    counts: dict[str, int] = {}
    for sides in (best.kv_formats or {}).values():
        for side, format_ in sides.items():
            counts[str(format_)] = counts.get(str(format_), 0) + 1 + (side is KvSide.BOTH)
    return ", ".join(f"{name} x {count}" for name, count in sorted(counts.items()))
