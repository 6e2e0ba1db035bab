"""One walk through the layers: the original's hidden states beside those of the coded model.

Modules of a layer are coded in the order they are called, those with the same input together.
Linear modules that are called once, and read 8192 values at most, are coded against the inputs they
will have (`shifted`), routers among them; embeddings, heads, stacked experts and other kinds as
their curves were. Two layers are in memory at a time; hidden states lie on disk, and a killed walk
goes on at the layer it was at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
import numpy as np

from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.encoders import ENCODERS, Encoder
from bitbudget.app.core.formats import KEEP, Format
from bitbudget.app.core.inventory import Inventory, Module
from bitbudget.workers.encoders.number_formats import dequantize
from bitbudget.workers.encoders.registry import ModuleEncoder
from bitbudget.workers.fisher import Statistics
from bitbudget.workers.fisher.store import PassStore
from bitbudget.workers.native.threads import default_threads
from bitbudget.workers.running.float32 import load_float32
from bitbudget.workers.running.layers import Walk, module_paths
from bitbudget.workers.running.taps import Call, Tape, tapped
from bitbudget.workers.sequential.corrected_target import Correction, Halves, Moments

__all__ = ["Plan", "code_sequentially", "read_coded"]

_ORIGINAL, _CODED = "hidden", "coded"
_WIDEST: Final = 8192
"""Input width up to which a module is shifted: moments of a wider one would fill memory."""

_Coded = dict[str, dict[str, np.ndarray]]
"""Arrays by suffix, by path."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is coded how: `plain` gives the arrays of a module coded on its own, by suffix."""

    inventory: Inventory
    formats: Mapping[str, Format]
    encoder: Encoder
    statistics: Statistics
    plain: Callable[[Module, Format], dict[str, np.ndarray]]


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
        if any(self.store.has_state(_CODED, done) for done in later):
            return
        if index == 0:
            self._embed()
        prefix = f"{self.walk.prefix}.{index}"
        pair = _Pair(self.walk, index, prefix, self.store)
        groups = pair.groups(self._is_shifted)
        pair.pass_original(groups)
        alone = set(pair.weights) & set(self.modules) - {p for group in groups for p in group}
        coded = self._alone(sorted(alone))
        pair.replace({path: self._decoded(path, arrays) for path, arrays in coded.items()})
        for group in groups:
            found = self._together(pair, group)
            pair.replace({path: self._decoded(path, arrays) for path, arrays in found.items()})
            coded |= found
        self._save(index + 1, coded)
        pair.pass_coded()
        inputs = (group[0] for group in groups)
        for name in (_ORIGINAL, _CODED, *(name for path in inputs for name in _states(path))):
            self.store.drop_state(name, index)

    def _alone(self, paths: Sequence[str]) -> _Coded:
        """Return the arrays of those modules that lose something, each coded on its own."""
        formats = self.plan.formats
        lossy = [path for path in paths if formats[path] != KEEP]
        return {path: self.plan.plain(self.modules[path], formats[path]) for path in lossy}

    def _together(self, pair: _Pair, group: Sequence[str]) -> _Coded:
        """Return the arrays of modules with one input, coded side by side against it."""
        moments = pair.moments(group)
        correction = Correction.of(*moments)
        together = _unit_trace(moments[0].own + moments[1].own)
        weights = [pair.original(path) for path in group]

        def code(path: str, weight: np.ndarray) -> dict[str, np.ndarray]:
            coder = ModuleEncoder(self.plan.statistics[path], self.plan.encoder, together)
            dtype, format_ = self.modules[path].dtype, self.plan.formats[path]
            return coder.encode(correction.shifted(weight), dtype, format_)

        with ThreadPoolExecutor(default_threads()) as pool:
            return dict(zip(group, pool.map(code, group, weights), strict=True))

    def finish(self) -> dict[str, Path]:
        """Return the file of each module."""
        found: dict[str, Path] = {}
        for file in (self._file(index) for index in range(len(self.walk.layers) + 1)):
            with np.load(file) as data:
                found |= {name.split("|")[0]: file for name in data.files}
        return found

    def _embed(self) -> None:
        """Store what enters the first layer, in the original and with coded embeddings."""
        if not self.store.has_state(_ORIGINAL, 0):
            self.store.write_state(_ORIGINAL, 0, self._first_hidden())
        inside = f"{self.walk.prefix}."
        found = self._alone([path for path in self.modules if not path.startswith(inside)])
        self._save(0, found)
        coded = [(f"{path}.weight", mx.array(self._decoded(path, a))) for path, a in found.items()]
        self.walk.model.load_weights(coded, strict=False)
        self.store.write_state(_CODED, 0, self._first_hidden())

    def _first_hidden(self) -> list[mx.array]:
        walk = self.walk
        return [walk.first_hidden(walk.ids(batch)) for batch in walk.batches]

    def _is_shifted(self, path: str) -> bool:
        module, known = self.modules.get(path), self.plan.statistics.get(path)
        if module is None or known is None or module.shape[-1] > _WIDEST:
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


class _Pair:
    """One layer twice, as it was and as it is being coded, on the same text."""

    def __init__(self, walk: Walk, index: int, prefix: str, store: PassStore) -> None:
        self.walk, self.index, self.prefix, self.store = walk, index, prefix, store
        self.layers = (walk.layer_alone(index), walk.layer_alone(index))
        self.hidden = [store.read_state(name, index) for name in (_ORIGINAL, _CODED)]
        self.weights: JsonObject = {
            path: module
            for path, module in module_paths(self.layers[1], prefix).items()
            if hasattr(module, "to_quantized")
        }
        self.originals = module_paths(self.layers[0], prefix)
        self.held: dict[str, np.ndarray] = {}

    def groups(self, wanted: Callable[[str], bool]) -> list[list[str]]:
        """Return the wanted modules in the order of their calls, those with one input together.

        Only modules that are called once, on activations.
        """
        calls, _ = next(self._run(0))
        times = [call.path for call in calls]
        groups: list[list[str]] = []
        last: mx.array | None = None
        for call in calls:
            single = times.count(call.path) == 1 and call.indices is None and not call.is_lookup
            if not single or not wanted(call.path):
                continue
            if last is not None and call.inputs is last:
                groups[-1].append(call.path)
            else:
                groups.append([call.path])
            last = call.inputs
        return groups

    def pass_original(self, groups: list[list[str]]) -> None:
        """Store what the layer returns as it was, and the input of each group on the way."""
        states: JsonObject = {}
        outputs: list[mx.array] = []
        for (calls, output), batch in zip(self._run(0), self.walk.batches, strict=True):
            inputs = {group[0]: _input(calls, group[0], output) for group in groups}
            mx.eval(output, inputs)
            outputs.append(output)
            for path, x in inputs.items():
                if path not in states:
                    shape = (len(self.walk.tokens), *x.shape[1:])
                    states[path] = self.store.new_state(_states(path)[0], self.index, shape)
                states[path][batch] = np.array(x, np.float32)
        self.store.write_state(_ORIGINAL, self.index + 1, outputs)

    def moments(self, group: Sequence[str]) -> tuple[Moments, Moments]:
        """Return the moments of a group's inputs, the original's as stored, on two halves.

        What lies before is coded by now: later runs of the coded layer go on from these inputs.
        """
        before, after = _states(group[0])
        original = self.store.read_state(before, self.index)
        coded = self.store.new_state(after, self.index, original.shape)
        moments = Halves(original.shape[-1])
        for (calls, output), batch in zip(self._run(1), self.walk.batches, strict=True):
            x = _input(calls, group[0], output)
            moments.add(mx.array(original[batch]), x)
            coded[batch] = np.array(x, np.float32)
        self.held |= dict.fromkeys(group, coded)
        return moments.finish()

    def original(self, path: str) -> np.ndarray:
        """Return a module's float32 weight."""
        module: Any = self.originals[path]
        return np.array(module.weight, np.float32)

    def replace(self, values: Mapping[str, np.ndarray]) -> None:
        """Put coded values in place of weights."""
        for path, value in values.items():
            self.weights[path].weight = mx.array(value)

    def pass_coded(self) -> None:
        """Store what the layer returns as it is coded."""
        outputs = []
        for _, output in self._run(1):
            mx.eval(output)
            outputs.append(output)
        self.store.write_state(_CODED, self.index + 1, outputs)

    def _run(self, which: int) -> Iterator[tuple[list[Call], mx.array]]:
        """Yield the calls and the output of each batch; only what is read is computed.

        Layer 0 is the original with its hidden states, 1 the one that is being coded.
        """
        layer, hidden, tape = self.layers[which], self.hidden[which], Tape()
        for number, batch in enumerate(self.walk.batches):
            tape.rewind(())
            if which == 1:
                tape.held = {path: mx.array(state[batch]) for path, state in self.held.items()}
            with tapped(layer, self.prefix, tape):
                call = self.walk.call(number, self.index)
                output = call.apply(layer, mx.array(hidden[batch]))
            yield list(tape.calls), output


def _unit_trace(moment: np.ndarray) -> np.ndarray:
    trace = float(np.trace(moment, dtype=np.float64))
    return moment / np.float32(trace) if trace > 0 else moment


def _states(path: str) -> tuple[str, str]:
    """Return the names under which the original's and the coded input of a module are stored."""
    return path, f"{path}.coded"


def _input(calls: list[Call], path: str, output: mx.array) -> mx.array:
    """Return a module's input (sequences, tokens, in), which some layers flatten before."""
    found = next(call.inputs for call in calls if call.path == path)
    return found.reshape(len(output), -1, found.shape[-1])
