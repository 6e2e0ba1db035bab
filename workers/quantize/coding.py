"""The float32 values of a model as encoders store it."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from bitbudget.app.core.formats import KEEP, Format
from bitbudget.app.core.inventory import Inventory, Module
from bitbudget.app.core.measurement import Encoder
from bitbudget.workers.curves.exact import as_carried, as_float32, decode, is_compensated
from bitbudget.workers.encoders import encode
from bitbudget.workers.encoders.gptq import ModuleEncoder
from bitbudget.workers.fisher import Statistics
from bitbudget.workers.fisher.statistics import ModuleStatistics
from bitbudget.workers.models import Checkpoint
from bitbudget.workers.native.threads import default_threads
from bitbudget.workers.sequential import Plan, code_sequentially, read_coded

__all__ = [
    "arrays_alone",
    "coded_alone",
    "coded_in_sequence",
    "coded_model",
    "coded_weights",
    "float32_weight",
]


def coded_model(
    checkpoint: Checkpoint,
    inventory: Inventory,
    formats: Mapping[str, Format],
    encoder: Encoder,
    statistics: Mapping[str, ModuleStatistics],
) -> dict[str, np.ndarray]:
    """Return the float32 weight of every module as a finished checkpoint holds it, by path."""

    def alone(module: Module, format_: Format) -> dict[str, np.ndarray]:
        return arrays_alone(checkpoint, module, format_, encoder, statistics)

    found: dict[str, np.ndarray] = {}
    if isinstance(statistics, Statistics):
        plan = Plan(inventory, formats, encoder, statistics, alone)
        found = coded_in_sequence(checkpoint.folder, plan)
    rest = [module for module in inventory.modules if module.path not in found]
    return found | {
        module.path: coded_alone(checkpoint, module, formats[module.path], encoder, statistics)
        for module in rest
    }


def coded_in_sequence(folder: Path, plan: Plan) -> dict[str, np.ndarray]:
    """Return the float32 weight of every module that `code_sequentially` codes, by path."""
    dtypes = {module.path: module.dtype for module in plan.inventory.modules}
    with tempfile.TemporaryDirectory(prefix="bitbudget-coding-") as place:
        return {
            path: decode(read_coded(file, path), plan.formats[path], dtypes[path])
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
    return decode(arrays, format_, module.dtype)


def arrays_alone(
    checkpoint: Checkpoint,
    module: Module,
    format_: Format,
    encoder: Encoder,
    statistics: Mapping[str, ModuleStatistics],
) -> dict[str, np.ndarray]:
    """Return what is stored of a module that is coded on its own, by suffix: an expert a thread."""
    known = statistics.get(module.path)
    compensating = known is not None and is_compensated(format_, encoder, known)
    coder = ModuleEncoder(known, encoder) if known is not None and compensating else None
    is_stacked = len(module.shape) > 2  # noqa: PLR2004 - stacked experts

    def code(index: int, part: np.ndarray) -> dict[str, np.ndarray]:
        if coder is None:
            return encode(part, module.dtype, format_, _plain(encoder))
        values = as_float32(part, module.dtype)
        return coder.encode(values, module.dtype, format_, (index,) if is_stacked else ())

    with ThreadPoolExecutor(default_threads()) as pool:
        parts = list(pool.map(code, itertools.count(), checkpoint.parts(module.path)))
    if not is_stacked:
        return parts[0]
    lead = module.shape[:-2]
    stacked = {suffix: np.stack([part[suffix] for part in parts]) for suffix in parts[0]}
    return {s: array.reshape(*lead, *array.shape[1:]) for s, array in stacked.items()}


def coded_weights(
    module: Module,
    values: np.ndarray,
    formats: Sequence[Format],
    encoder: Encoder,
    known: ModuleStatistics | None,
) -> dict[Format, np.ndarray]:
    """Return the float32 weight in every format, as the encoder stores it."""
    result = {format_: np.empty_like(values) for format_ in formats}
    compensating = known is not None and formats and is_compensated(formats[0], encoder, known)
    coder = ModuleEncoder(known, encoder) if known is not None and compensating else None
    for index in np.ndindex(*values.shape[:-2]):
        if coder is not None:
            for format_, part in coder.code(values[index], module.dtype, formats, index).items():
                result[format_][index] = part.values
            continue
        carried = as_carried(values[index], module.dtype)
        for format_ in formats:
            arrays = encode(carried, module.dtype, format_, _plain(encoder))
            result[format_][index] = decode(arrays, format_, module.dtype)
    return result


def float32_weight(checkpoint: Checkpoint, module: Module) -> np.ndarray:
    """Return a module's weight in its shape, widened to float32."""
    parts = [as_float32(part, module.dtype) for part in checkpoint.parts(module.path)]
    return np.stack(parts).reshape(module.shape)


def _plain(encoder: Encoder) -> Encoder:
    return encoder if encoder in (Encoder.MINMAX, Encoder.CAREFUL) else Encoder.CAREFUL
