"""One layer twice, as it was and as it is being coded, on the same text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import mlx.core as mx
import numpy as np

from bitbudget.app.core.canonical import JsonObject
from bitbudget.workers.fisher.store import PassStore
from bitbudget.workers.running.layers import Walk, module_paths
from bitbudget.workers.running.numpy_functions import by_numpy
from bitbudget.workers.running.taps import Call, Tape, tapped
from bitbudget.workers.sequential.corrected_target import Halves, Inputs, Moments
from bitbudget.workers.sequential.experts import (
    ExpertRows,
    Routing,
    StackCall,
    Stacks,
    is_stack,
    routing,
    watched,
)

__all__ = ["CODED", "ORIGINAL", "Group", "LayerPair"]

ORIGINAL: Final = "hidden"
CODED: Final = "coded"
"""Names of the hidden states of the two."""


@dataclass(frozen=True, slots=True)
class Group:
    """Modules that read the same input; `stack` is the path of the experts that they belong to."""

    paths: list[str]
    stack: str | None

    @property
    def reads(self) -> str:
        """Path of the module whose input is stored: the first, or the stack."""
        return self.stack or self.paths[0]


class LayerPair:
    """One layer twice, as it was and as it is being coded, on the same text.

    `stored` are names of the arrays it leaves in the store.
    """

    def __init__(self, walk: Walk, index: int, prefix: str, store: PassStore) -> None:
        self.walk, self.index, self.prefix, self.store = walk, index, prefix, store
        self.layers = (walk.layer_alone(index), walk.layer_alone(index))
        self.hidden = [store.read_state(name, index) for name in (ORIGINAL, CODED)]
        self.modules = [module_paths(layer, prefix) for layer in self.layers]
        self.weights: JsonObject = {
            path: module
            for path, module in self.modules[1].items()
            if hasattr(module, "to_quantized")
        }
        self.held: dict[str, np.ndarray] = {}
        self.stored: list[str] = []
        self._routed: dict[str, list[np.ndarray]] = {}

    def groups(self, wanted: Callable[[str], bool]) -> list[Group]:
        """Return the wanted modules in the order of their calls, those with one input together.

        Only modules that are called once, on activations; those with several experts only inside
        of a stack.
        """
        calls, _ = next(self._run(0))
        times = [call.path for call in calls]
        groups: list[Group] = []
        last: mx.array | None = None
        for call in calls:
            stack = self._stack_of(call)
            single = times.count(call.path) == 1 and not call.is_lookup
            if not single or (call.indices is not None and stack is None) or not wanted(call.path):
                continue
            if last is not None and call.inputs is last:
                groups[-1].paths.append(call.path)
            else:
                groups.append(Group([call.path], stack))
            last = call.inputs
        return groups

    def _stack_of(self, call: Call) -> str | None:
        path = call.path.rpartition(".")[0]
        return path if call.indices is not None and is_stack(self.modules[0].get(path)) else None

    def pass_original(self, groups: list[Group]) -> None:
        """Store what the layer returns as it was, and the input of each group on the way."""
        states: dict[str, np.ndarray] = {}
        outputs: list[mx.array] = []
        seen = {group.stack: StackCall() for group in groups if group.stack}
        plain = [group.reads for group in groups if not group.stack]
        with by_numpy():
            for (calls, output), batch in zip(self._run(0, seen), self.walk.batches, strict=True):
                inputs = {path: _input(calls, path) for path in plain}
                inputs |= {path: call.inputs for path, call in seen.items()}
                mx.eval(output, inputs)
                outputs.append(output)
                for path, x in inputs.items():
                    self._fill(states, _states(path)[0], batch, _by_sequence(x, output))
        self.store.write_state(ORIGINAL, self.index + 1, outputs)

    def inputs(self, group: Group) -> tuple[Inputs, Inputs]:
        """Return what a group reads, the original's inputs as stored, in two halves.

        What lies before is coded by now: later runs of the coded layer go on from these inputs.
        """
        before, after = _states(group.reads)
        original = self.store.read_state(before, self.index)
        coded: dict[str, np.ndarray] = {}
        halves = Halves(original.shape[-1])
        for (calls, output), batch in zip(self._run(1), self.walk.batches, strict=True):
            x = _by_sequence(_input(calls, group.reads), output)
            halves.add(mx.array(original[batch]), x)
            self._fill(coded, after, batch, x)
        self.held |= dict.fromkeys(group.paths, coded[after])
        return halves.finish()

    def expert_moments(self, group: Group) -> Iterator[tuple[Moments, Moments]]:
        """Yield the moments of what each expert of a stack reads, on the tokens sent to it.

        Those of one half of the tokens and of the other.
        """
        path, stack = group.paths[0], str(group.stack)
        stacks, name = Stacks(*(own[stack] for own in self.modules)), path[len(stack) + 1 :]
        original = self.store.read_state(_states(stack)[0], self.index)
        routed = self._routing(stack)
        rows: ExpertRows | None = None
        for batch in self.walk.batches:
            for half, part in enumerate(_halves(*original[batch].shape[:2])):
                x = _flat(original[batch])[part]
                own = Routing(*(_flat(array[batch])[part] for array in routed))
                found = stacks.rows(name, x, own)
                if rows is None:
                    shape = (routed[1].size, found[0].shape[-1])
                    kept = [self._new(f"{path}.{kind}", shape) for kind in ("rows", "coded-rows")]
                    rows = ExpertRows(*kept)
                rows.add(half, *found)
        assert rows is not None  # noqa: S101 - a walk has batches
        return rows.moments(len(self.weights[path].weight))

    def _routing(self, stack: str) -> list[np.ndarray]:
        """Return the arrays of `Routing` for all sequences, as the layer is coded by now."""
        if stack in self._routed:
            return self._routed[stack]
        states: dict[str, np.ndarray] = {}
        names = [f"{stack}.{name}" for name in ("coded", "experts", "weights")]
        for number, batch in enumerate(self.walk.batches):
            call, hidden = self.walk.call(number, self.index), mx.array(self.hidden[1][batch])
            with tapped(self.layers[1], self.prefix, self._tape(batch)):
                found = routing(
                    self.modules[1][stack],
                    partial(call.apply, self.layers[1], hidden),
                    seed=number,
                )
            arrays = (found.inputs, found.experts, found.weights)
            for name, array in zip(names, arrays, strict=True):
                self._fill(states, name, batch, _by_sequence(array, hidden))
        self._routed[stack] = [states[name] for name in names]
        return self._routed[stack]

    def original(self, path: str) -> np.ndarray:
        """Return a module's float32 weight."""
        module: Any = self.modules[0][path]
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
        self.store.write_state(CODED, self.index + 1, outputs)

    def _run(
        self, which: int, stacks: Mapping[str, StackCall] | None = None
    ) -> Iterator[tuple[list[Call], mx.array]]:
        """Yield the calls and the output of each batch; only what is read is computed.

        Layer 0 is the original with its hidden states, 1 the one that is being coded. What `stacks`
        of experts are called with is noted there.
        """
        layer, hidden = self.layers[which], self.hidden[which]
        for number, batch in enumerate(self.walk.batches):
            tape = self._tape(batch) if which else Tape()
            with tapped(layer, self.prefix, tape), ExitStack() as context:
                for path, seen in (stacks or {}).items():
                    context.enter_context(watched(self.modules[which][path], seen))
                call = self.walk.call(number, self.index)
                output = call.apply(layer, mx.array(hidden[batch]))
            yield list(tape.calls), output

    def _tape(self, batch: slice) -> Tape:
        """Return a tape for the coded layer, which goes on from the inputs that are known."""
        return Tape(held={path: mx.array(state[batch]) for path, state in self.held.items()})

    def _fill(
        self, states: dict[str, np.ndarray], name: str, batch: slice, values: mx.array
    ) -> None:
        """Write a batch of the array `name` of all sequences, which lies on disk."""
        if name not in states:
            states[name] = self._new(name, (len(self.walk.tokens), *values.shape[1:]))
        states[name][batch] = np.array(values.astype(mx.float32))

    def _new(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        self.stored.append(name)
        return self.store.new_state(name, self.index, shape)


def _states(path: str) -> tuple[str, str]:
    """Return the names under which the original's and the coded input of a module are stored."""
    return path, f"{path}.coded"


def _input(calls: list[Call], path: str) -> mx.array:
    return next(call.inputs for call in calls if call.path == path)


def _by_sequence(array: mx.array, output: mx.array) -> mx.array:
    """Return an array (sequences, tokens, n), which some layers flatten before."""
    return array.reshape(len(output), -1, array.shape[-1])


def _flat(array: np.ndarray) -> mx.array:
    """Return an array (sequences, tokens, n) as (tokens, n)."""
    return mx.array(array).reshape(-1, array.shape[-1])


def _halves(sequences: int, tokens: int) -> tuple[slice, slice]:
    """Return the tokens of both halves of the sequences, or of a single one."""
    middle = sequences // 2 * tokens if sequences > 1 else tokens // 2
    return slice(None, middle), slice(middle, None)
