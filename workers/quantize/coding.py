"""The float32 values of a model as encoders store it."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from bitbudget.app.core.formats import KEEP, Format
from bitbudget.app.core.inventory import Inventory, Module
from bitbudget.app.core.measurement import Encoder
from bitbudget.workers.encoders.number_formats import dequantize
from bitbudget.workers.encoders.registry import ModuleEncoder
from bitbudget.workers.fisher import Statistics
from bitbudget.workers.fisher.statistics import ModuleStatistics
from bitbudget.workers.models import Checkpoint
from bitbudget.workers.native.arrays import as_float32
from bitbudget.workers.native.threads import default_threads
from bitbudget.workers.sequential import Plan, code_sequentially, read_coded

__all__ = [
    "arrays_alone",
    "coded_alone",
    "coded_in_sequence",
    "float32_weight",
    "stored_arrays",
    "written_arrays",
]


def coded_in_sequence(folder: Path, plan: Plan) -> dict[str, np.ndarray]:
    """Return the float32 weight of every module that `code_sequentially` codes, by path."""
    dtypes = {module.path: module.dtype for module in plan.inventory.modules}
    with tempfile.TemporaryDirectory(prefix="bitbudget-coding-") as place:
        return {
            path: dequantize(read_coded(file, path), plan.formats[path], dtypes[path])
            for path, file in code_sequentially(folder, plan, Path(place)).items()
        }


def coded_alone(
    checkpoint: Checkpoint,
    module: Module,
    format_: Format,
    encoder: Encoder,
    statistics: Mapping[str, ModuleStatistics],
) -> np.ndarray:
    """Return a module's float32 weight as it is stored when it is coded on its own."""
    if format_ == KEEP:
        return float32_weight(checkpoint, module)
    arrays = arrays_alone(checkpoint, module, format_, encoder, statistics)
    return dequantize(arrays, format_, module.dtype)


def arrays_alone(
    checkpoint: Checkpoint,
    module: Module,
    format_: Format,
    encoder: Encoder,
    statistics: Mapping[str, ModuleStatistics],
) -> dict[str, np.ndarray]:
    """Encode one module independently of the others, experts in parallel; return its arrays."""
    coder = ModuleEncoder(statistics.get(module.path), encoder)
    is_stacked = len(module.shape) > 2  # noqa: PLR2004 - stacked experts
    if coder.uses_statistics(format_):
        _ = coder.moment  # once, not by every thread

    def code(index: int, part: np.ndarray) -> dict[str, np.ndarray]:
        return coder.encode(part, module.dtype, format_, (index,) if is_stacked else ())

    with ThreadPoolExecutor(default_threads()) as pool:
        parts = list(pool.map(code, itertools.count(), checkpoint.parts(module.path)))
    if not is_stacked:
        return parts[0]
    lead = module.shape[:-2]
    stacked = {suffix: np.stack([part[suffix] for part in parts]) for suffix in parts[0]}
    return {s: array.reshape(*lead, *array.shape[1:]) for s, array in stacked.items()}


def written_arrays(
    checkpoint: Checkpoint,
    inventory: Inventory,
    formats: Mapping[str, Format],
    encoder: Encoder,
    statistics: Mapping[str, ModuleStatistics],
    *,
    place: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[Module, dict[str, np.ndarray]]]:
    """Yield what a finished checkpoint stores of each module that is not kept, by suffix.

    One module is in memory at a time. What is coded in sequence lies in `place` and stays there;
    without one it is deleted after the last module. `progress` is told layers coded in sequence
    and in all.
    """

    def alone(module: Module, format_: Format) -> dict[str, np.ndarray]:
        return arrays_alone(checkpoint, module, format_, encoder, statistics)

    with _folder(place) as kept:
        files: Mapping[str, Path] = {}
        if isinstance(statistics, Statistics):
            plan = Plan(inventory, formats, encoder, statistics, alone)
            files = code_sequentially(checkpoint.folder, plan, kept, progress)
        for module in inventory.modules:
            path, format_ = module.path, formats[module.path]
            if format_ != KEEP:
                found = read_coded(files[path], path) if path in files else alone(module, format_)
                yield module, found


@contextmanager
def _folder(place: Path | None) -> Iterator[Path]:
    if place is not None:
        yield place
        return
    with tempfile.TemporaryDirectory(prefix="bitbudget-coding-") as temporary:
        yield Path(temporary)


def stored_arrays(
    module: Module,
    parts: Iterable[np.ndarray],
    formats: Sequence[Format],
    encoder: Encoder,
    known: ModuleStatistics | None,
    *,
    sweeps: int | None = None,
) -> dict[Format, dict[str, np.ndarray]]:
    """Return what is stored of a module in every format, coded on its own, by suffix.

    What its formats have in common is computed once.

    Args:
        module: Whose shape and dtype say what is stored.
        parts: The weight in the type that carries the dtype, as one array or one for each expert.
        formats: Legal for the module, without `keep`.
        encoder: The deployed encoder.
        known: The module's statistics, where the encoder needs them.
        sweeps: Of the descent; by default as many as pay at this width.
    """
    coder, lead = ModuleEncoder(known, encoder), module.shape[:-2]
    found: dict[Format, list[dict[str, np.ndarray]]] = {format_: [] for format_ in formats}
    matrices = (matrix for part in parts for matrix in part.reshape(-1, *module.shape[-2:]))
    for index, part in zip(np.ndindex(*lead), matrices, strict=True):
        for format_, arrays in coder.encode_all(part, module.dtype, formats, index, sweeps=sweeps):
            found[format_].append(arrays)
    return {format_: _stacked(arrays, lead) for format_, arrays in found.items()}


def _stacked(
    parts: Sequence[Mapping[str, np.ndarray]], lead: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """Return the arrays of the experts as one, (*lead, ...)."""
    if not lead:
        return dict(parts[0])
    return {
        suffix: np.stack([part[suffix] for part in parts]).reshape(*lead, *array.shape)
        for suffix, array in parts[0].items()
    }


def float32_weight(checkpoint: Checkpoint, module: Module) -> np.ndarray:
    """Return a module's weight in its shape, widened to float32."""
    parts = [as_float32(part, module.dtype) for part in checkpoint.parts(module.path)]
    return np.stack(parts).reshape(module.shape)
