"""One walk through the layers: the original's hidden states beside those of the coded model.

Modules of a layer are coded in the order they are called, those with the same input together.
Linear modules that are called once, and read 8192 values at most, are coded against the inputs they
will have (`shifted`), routers and stacked experts among them; embeddings, heads and other kinds as
their curves were. Two layers are in memory at a time; hidden states lie on disk, and a killed walk
goes on at the layer it was at.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import mlx.core as mx
import numpy as np

from bitbudget.app.core.encoders import ENCODERS, Encoder
from bitbudget.app.core.formats import KEEP, Format
from bitbudget.app.core.inventory import Inventory, Module
from bitbudget.workers.encoders.number_formats import dequantize
from bitbudget.workers.encoders.registry import ModuleEncoder
from bitbudget.workers.fisher import Statistics
from bitbudget.workers.fisher.statistics import steadied
from bitbudget.workers.fisher.store import PassStore
from bitbudget.workers.native.memory import return_freed_memory
from bitbudget.workers.native.threads import default_threads
from bitbudget.workers.running.float32 import load_float32
from bitbudget.workers.running.layers import Walk
from bitbudget.workers.sequential.corrected_target import Correction
from bitbudget.workers.sequential.layer_pair import CODED, ORIGINAL, Group, LayerPair

__all__ = ["Plan", "code_sequentially", "read_coded"]

_WIDEST: Final = 8192
"""Input width up to which a module is shifted: moments of a wider one would fill memory."""

_FEW_TOKENS: Final = 4.0
"""Off its diagonal the second moment of coded inputs counts half at this many tokens per input: of
0, 1, 4 and 16 that which lost least of SmolLM2-135M on other text of its own (docs/effort.md)."""

_Coded = dict[str, dict[str, np.ndarray]]
"""Arrays by suffix, by path."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is coded how: `plain` gives the arrays of a module coded on its own, by suffix.

    `alone` are paths of modules that are coded so wherever they stand.
    """

    inventory: Inventory
    formats: Mapping[str, Format]
    encoder: Encoder
    statistics: Statistics
    plain: Callable[[Module, Format], dict[str, np.ndarray]]
    alone: Collection[str] = ()


def code_sequentially(
    folder: Path,
    plan: Plan,
    place: Path,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Path]:
    """Return the file that holds the arrays of each module that is not kept, by path.

    Args:
        folder: A checkpoint that mlx-lm can build.
        plan: Formats and how modules are coded; the walk is on the text of its statistics.
        place: Where hidden states and finished layers are kept; a second call goes on there.
        progress: Told layers done and in all.

    Empty when the encoder compensates nothing, or the layers form no chain.
    """
    text = plan.statistics.text
    if not ENCODERS[plan.encoder].needs_statistics or text is None:
        return {}
    run = _Run(Walk(lambda: load_float32(folder), text), plan, PassStore(place))
    if not run.walk.is_chain():
        return {}
    for index in range(len(run.walk.layers)):
        return_freed_memory()
        run.layer(index)
        if progress is not None:
            progress(index + 1, len(run.walk.layers))
    return run.finish()


def read_coded(file: Path, path: str) -> dict[str, np.ndarray]:
    """Return the arrays of one module by suffix."""
    with np.load(file) as data:
        return {
            name.removeprefix(f"{path}|"): data[name]
            for name in data.files
            if name.startswith(f"{path}|")
        }


class _Run:
    def __init__(self, walk: Walk, plan: Plan, store: PassStore) -> None:
        self.walk, self.plan, self.store = walk, plan, store
        self.modules = {module.path: module for module in plan.inventory.modules}

    def layer(self, index: int) -> None:
        """Code layer `index` and pass both hidden states through it, unless that is done."""
        later = range(index + 1, len(self.walk.layers) + 1)
        if any(self.store.has_state(CODED, done) for done in later):
            return
        if index == 0:
            self._embed()
        prefix = f"{self.walk.prefix}.{index}"
        pair = LayerPair(self.walk, index, prefix, self.store)
        groups = pair.groups(self._is_shifted)
        pair.pass_original(groups)
        alone = set(pair.weights) & set(self.modules) - {p for group in groups for p in group.paths}
        coded = self._alone(sorted(alone))
        pair.replace({path: self._decoded(path, arrays) for path, arrays in coded.items()})
        for group in groups:
            found = (self._experts if group.stack else self._together)(pair, group)
            pair.replace({path: self._decoded(path, arrays) for path, arrays in found.items()})
            coded |= found
        self._save(index + 1, coded)
        pair.pass_coded()
        for name in (ORIGINAL, CODED, *pair.stored):
            self.store.drop_state(name, index)

    def _alone(self, paths: Sequence[str]) -> _Coded:
        """Return the arrays of those modules that lose something, each coded on its own."""
        formats = self.plan.formats
        lossy = [path for path in paths if formats[path] != KEEP]
        return {path: self.plan.plain(self.modules[path], formats[path]) for path in lossy}

    def _together(self, pair: LayerPair, group: Group) -> _Coded:
        """Return the arrays of modules with one input, coded side by side against it."""
        first, second = pair.inputs(group)
        correction = Correction.of(first, second)
        together = steadied(
            _unit_trace(first.own + second.own), float(self.walk.tokens.size), _FEW_TOKENS
        )

        def code(path: str) -> dict[str, np.ndarray]:
            coder = ModuleEncoder(self.plan.statistics[path], self.plan.encoder, together)
            return self._shifted(coder, path, pair.original(path), correction)

        with ThreadPoolExecutor(default_threads()) as pool:
            return dict(zip(group.paths, pool.map(code, group.paths), strict=True))

    def _experts(self, pair: LayerPair, group: Group) -> _Coded:
        """Return the arrays of stacked modules with one input, each expert coded against its own.

        An expert's A is the mean of that of its statistics, which sees gradients, and that of the
        inputs it will have. The moments of one expert are in memory at a time.
        """
        weights = {path: pair.original(path) for path in group.paths}
        encoder, known = self.plan.encoder, self.plan.statistics
        coders = {path: ModuleEncoder(known[path], encoder) for path in group.paths}
        before = {path: coder.moment for path, coder in coders.items()}
        parts: dict[str, list[dict[str, np.ndarray]]] = {path: [] for path in group.paths}

        def code(
            path: str, expert: int, correction: Correction, own: np.ndarray
        ) -> dict[str, np.ndarray]:
            mixed = (_unit_trace(before[path][expert]) + own) / 2
            moments = np.broadcast_to(mixed, before[path].shape)
            coder = ModuleEncoder(coders[path].statistics, encoder, moments)
            return self._shifted(coder, path, weights[path][expert], correction, (expert,))

        with ThreadPoolExecutor(default_threads()) as pool:
            for expert, moments in enumerate(pair.expert_moments(group)):
                own = _unit_trace(moments[0].own + moments[1].own)
                shared = expert, Correction.of(*moments), own
                found = [pool.submit(code, path, *shared) for path in group.paths]
                for path, arrays in zip(group.paths, found, strict=True):
                    parts[path].append(arrays.result())
        return {path: _stacked(own) for path, own in parts.items()}

    def _shifted(
        self,
        coder: ModuleEncoder,
        path: str,
        weight: np.ndarray,
        correction: Correction,
        index: tuple[int, ...] = (),
    ) -> dict[str, np.ndarray]:
        """Return the arrays of one matrix, coded towards its corrected target."""
        dtype, format_ = self.modules[path].dtype, self.plan.formats[path]
        return coder.encode(correction.shifted(weight), dtype, format_, index)

    def finish(self) -> dict[str, Path]:
        """Return the file of each module."""
        found: dict[str, Path] = {}
        for file in (self._file(index) for index in range(len(self.walk.layers) + 1)):
            with np.load(file) as data:
                found |= {name.split("|")[0]: file for name in data.files}
        return found

    def _embed(self) -> None:
        """Store what enters the first layer, in the original and with coded embeddings."""
        if not self.store.has_state(ORIGINAL, 0):
            self.store.write_state(ORIGINAL, 0, self._first_hidden())
        inside = f"{self.walk.prefix}."
        found = self._alone([path for path in self.modules if not path.startswith(inside)])
        self._save(0, found)
        coded = [(f"{path}.weight", mx.array(self._decoded(path, a))) for path, a in found.items()]
        self.walk.model.load_weights(coded, strict=False)
        self.store.write_state(CODED, 0, self._first_hidden())

    def _first_hidden(self) -> list[mx.array]:
        walk = self.walk
        return [walk.first_hidden(walk.ids(batch)) for batch in walk.batches]

    def _is_shifted(self, path: str) -> bool:
        module, known = self.modules.get(path), self.plan.statistics.get(path)
        if module is None or known is None or module.shape[-1] > _WIDEST:
            return False
        if path in self.plan.alone:
            return False
        format_ = self.plan.formats[path]
        single = len(known.terms) == 1 and format_ != KEEP
        return single and ModuleEncoder(known, self.plan.encoder).uses_statistics(format_)

    def _decoded(self, path: str, arrays: dict[str, np.ndarray]) -> np.ndarray:
        return dequantize(arrays, self.plan.formats[path], self.modules[path].dtype)

    def _save(self, index: int, coded: _Coded) -> None:
        file = self._file(index)
        partial = file.with_suffix(".partial.npz")
        arrays = {f"{p}|{suffix}": a for p, found in coded.items() for suffix, a in found.items()}
        np.savez(partial, allow_pickle=False, **arrays)
        partial.replace(file)

    def _file(self, index: int) -> Path:
        """Return where layer `index - 1` is kept; 0 is what lies outside the layers."""
        return self.store.place / f"coded-{index:04d}.npz"


def _unit_trace(moment: np.ndarray) -> np.ndarray:
    """Return a moment over its trace, one without any as it is."""
    trace = float(np.trace(moment, dtype=np.float64))
    return moment / np.float32(trace) if trace > 0 else moment


def _stacked(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {suffix: np.stack([part[suffix] for part in parts]) for suffix in parts[0]}
