"""Whether a model fits a device, from headers alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bitbudget.app.core.baselines import uniform_formats
from bitbudget.app.core.candidates import ExactSizes, Rules
from bitbudget.app.core.decode import DECODE_EFFICIENCY, decode_bytes, passthrough_decode_bytes
from bitbudget.app.core.devices import Device
from bitbudget.app.core.formats import KEEP, Format
from bitbudget.app.core.inventory import Inventory
from bitbudget.app.core.layout import plan_checkpoint
from bitbudget.app.core.least import least_formats
from bitbudget.app.core.memory import MemoryPlan, largest_context, plan_memory
from bitbudget.app.core.runtime import Runtime, offered_formats

__all__ = ["FitReport", "SizedChoice", "fit"]


@dataclass(frozen=True, slots=True)
class SizedChoice:
    """One way to store the whole model.

    `fits` says whether the files are within the report's `weights_limit_bytes`. `largest_context`
    is the most tokens at which the device has room for them, 0 for none. `tokens_per_second` bounds
    decoding at the asked context by bandwidth times an estimated efficiency.
    """

    name: str
    file_bytes: int
    bits_per_weight: float
    fits: bool
    largest_context: int
    tokens_per_second: float


@dataclass(frozen=True, slots=True)
class FitReport:
    """What fits: `now` is the source dtype, `smallest` the least bits above the SQNR floor.

    What is above the floor is an expectation from headers; a job with a lower budget is refused
    before anything is measured.
    """

    device: str
    context: int
    kv_bits: int
    runtime: Runtime
    memory: MemoryPlan
    weights_limit_bytes: int
    now: SizedChoice
    smallest: SizedChoice
    uniform: tuple[SizedChoice, ...]

    @property
    def best_uniform(self) -> SizedChoice | None:
        """The largest uniform choice that fits."""
        fitting = [choice for choice in self.uniform if choice.fits]
        return max(fitting, key=lambda choice: choice.file_bytes, default=None)


def fit(
    inventory: Inventory,
    device: Device,
    context: int,
    kv_bits: int = 16,
    runtime: Runtime = Runtime.STOCK,
    *,
    most_bytes: int | None = None,
) -> FitReport:
    """Return the sizes of `inventory` against the memory of `device` at `context` tokens.

    The files must also be within `most_bytes`, where that is given. Raises InvalidRequestError for
    a context beyond the model's own limit.
    """
    plan = plan_memory(inventory, device, context, kv_bits, runtime)
    limit = min(
        plan.weights_limit_bytes, plan.weights_limit_bytes if most_bytes is None else most_bytes
    )
    sizer = _Sizer(inventory, device, plan, kv_bits, runtime, limit_bytes=limit)
    return FitReport(
        device=device.name,
        context=context,
        kv_bits=kv_bits,
        runtime=runtime,
        memory=plan,
        weights_limit_bytes=limit,
        now=sizer.choice("keep", uniform_formats(inventory, KEEP)),
        smallest=sizer.choice("smallest", least_formats(inventory, Rules(runtime=runtime))),
        uniform=tuple(
            sizer.choice(str(format_), uniform_formats(inventory, format_))
            for format_ in offered_formats(runtime)
            if format_ != KEEP
        ),
    )


class _Sizer:
    """Counts choices of formats against one plan."""

    def __init__(
        self,
        inventory: Inventory,
        device: Device,
        plan: MemoryPlan,
        kv_bits: int,
        runtime: Runtime,
        *,
        limit_bytes: int,
    ) -> None:
        self.sizes = ExactSizes()
        self._inventory = inventory
        self._device = device
        self._limit_bytes = limit_bytes
        self._kv_bits = kv_bits
        self._runtime = runtime
        self._fixed_bytes = plan_checkpoint(inventory).fixed_bytes
        self._fixed_decode_bytes = passthrough_decode_bytes(inventory) + plan.kv_cache_bytes

    def choice(self, name: str, formats: Mapping[str, Format]) -> SizedChoice:
        modules = self._inventory.modules
        nbytes = self._fixed_bytes + sum(self.sizes.of(m, formats[m.path]) for m in modules)
        read = self._fixed_decode_bytes + sum(decode_bytes(m, formats[m.path]) for m in modules)
        return SizedChoice(
            name=name,
            file_bytes=nbytes,
            bits_per_weight=8 * nbytes / max(self._inventory.weights, 1),
            fits=nbytes <= self._limit_bytes,
            largest_context=largest_context(
                self._inventory, self._device, nbytes, self._kv_bits, self._runtime
            ),
            tokens_per_second=(
                DECODE_EFFICIENCY * self._device.bandwidth_bytes_per_second / max(read, 1)
            ),
        )
