"""What a Fisher pass keeps on disk: hidden states, gradients between layers, finished layers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import mlx.core as mx
import numpy as np

from bitbudget.app.core.errors import InvalidModelError
from bitbudget.workers.fisher.kv import Costs, read_costs
from bitbudget.workers.fisher.statistics import (
    ModuleStatistics,
    module_paths,
    read_module,
    write_modules,
)

__all__ = ["PassStore", "Summary"]

_SUMMARY: Final = "summary.json"


@dataclass(frozen=True, slots=True)
class Summary:
    """What a finished pass says of itself: notes to a reader, and the cache layers it measured."""

    notes: list[str]
    kv_layers: list[int]


class PassStore:
    """Files of one pass under `place`; each appears whole or not at all."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.states = place / "states"

    def has_state(self, name: str, index: int) -> bool:
        """Whether the array `name` between layers `index - 1` and `index` is there."""
        return self._state(name, index).exists()

    def write_state(self, name: str, index: int, parts: Sequence[mx.array]) -> None:
        """Store the batches `parts` of one array; InvalidModelError when not all are finite."""
        whole = np.concatenate([np.array(part) for part in parts])
        if not np.isfinite(whole).all():
            raise InvalidModelError(
                where=f"the {name} entering layer {index}",
                found="NaN or infinite values",
                expected="finite activations and gradients in float32",
                remedy="check the checkpoint's weights",
            )
        self.states.mkdir(parents=True, exist_ok=True)
        target = self._state(name, index)
        partial = target.with_suffix(".partial")
        with partial.open("wb") as stream:
            np.save(stream, whole)
        partial.replace(target)

    def read_state(self, name: str, index: int) -> np.ndarray:
        """Return a stored array, mapped from disk."""
        array: np.ndarray = np.load(self._state(name, index), mmap_mode="r")
        return array

    def new_state(self, name: str, index: int, shape: tuple[int, ...]) -> np.ndarray:
        """Return a float32 array on disk that is filled piece by piece; it is not checked."""
        self.states.mkdir(parents=True, exist_ok=True)
        array: np.ndarray = np.lib.format.open_memmap(
            self._state(name, index), mode="w+", dtype=np.float32, shape=shape
        )
        return array

    def drop_state(self, name: str, index: int) -> None:
        """Remove a stored array that is not needed again."""
        self._state(name, index).unlink(missing_ok=True)

    def has_modules(self, name: str) -> bool:
        """Whether the statistics of the part `name` (a layer, head, lookup) are finished."""
        return self._modules(name).exists()

    def write_modules(self, name: str, modules: Iterable[ModuleStatistics]) -> None:
        """Store the statistics of one part; InvalidModelError when an alpha is not finite.

        Each module is taken when the one before is packed: a layer's are not held twice.
        """
        self.place.mkdir(parents=True, exist_ok=True)
        write_modules(self._modules(name), map(_checked, modules))

    def write_kv(self, index: int, data: bytes) -> None:
        """Store what the KV caches of layer `index` cost."""
        self._put(f"kv-{index:04d}.json", data)

    def kv_costs(self) -> dict[int, Costs]:
        """Return what was stored of KV caches, by cache layer."""
        found: dict[int, Costs] = {}
        for file in sorted(self.place.glob("kv-*.json")):
            found |= read_costs(file.read_bytes())
        return found

    def summary(self) -> Summary | None:
        """Return what the pass noted at its end, None while it is unfinished."""
        file = self.place / _SUMMARY
        return Summary(**json.loads(file.read_bytes())) if file.exists() else None

    def write_summary(self, summary: Summary) -> None:
        """Store what the pass noted: with it the pass is finished and not made again."""
        self._put(_SUMMARY, json.dumps(asdict(summary)).encode())

    def finish(self) -> dict[str, Path]:
        """Drop the states and return the file of each module.

        A tied embedding was seen twice, as head and as lookup: its two terms become one entry.
        """
        shutil.rmtree(self.states, ignore_errors=True)
        files: dict[str, Path] = {}
        tied: dict[str, ModuleStatistics] = {}
        for file in sorted(self.place.glob("*.npz")):
            for path in module_paths(file):
                if path in files and file.stem != "tied":
                    tied[path] = read_module(files[path], path).plus(read_module(file, path))
                files[path] = file
        if tied and not self.has_modules("tied"):
            self.write_modules("tied", tied.values())
        return files | dict.fromkeys(tied, self._modules("tied"))

    def _put(self, name: str, data: bytes) -> None:
        self.place.mkdir(parents=True, exist_ok=True)
        partial = (self.place / name).with_suffix(".partial")
        partial.write_bytes(data)
        partial.replace(self.place / name)

    def _state(self, name: str, index: int) -> Path:
        return self.states / f"{name}-{index:04d}.npy"

    def _modules(self, name: str) -> Path:
        return self.place / f"{name}.npz"


def _checked(entry: ModuleStatistics) -> ModuleStatistics:
    if np.isfinite(entry.alpha_nats):
        return entry
    raise InvalidModelError(
        where=f"the gradient of {entry.path}",
        found="NaN or infinite values",
        expected="finite gradients in float32",
        remedy="check its weights, or use --sensitivity probe, which needs no gradient",
    )
