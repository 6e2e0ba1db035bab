"""Forward and backward through a model whose layers are in memory one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import mlx.core as mx
import numpy as np
from mlx import nn

from bitbudget.app.core.errors import InvalidModelError
from bitbudget.workers.fisher.kv import KvTaps
from bitbudget.workers.fisher.moments import Head, ModuleMoments
from bitbudget.workers.fisher.statistics import ModuleStatistics
from bitbudget.workers.fisher.store import PassStore
from bitbudget.workers.running.layers import Walk, logits_of, module_paths
from bitbudget.workers.running.non_finite import first_broken
from bitbudget.workers.running.numpy_functions import by_numpy, softmax
from bitbudget.workers.running.taps import Gradients, Tape, backward, tapped

__all__ = ["Pass", "sampled_slope"]


class Pass(Walk):
    """One measurement of one model: `load` gives a fresh lazy copy each time."""

    def __init__(
        self,
        load: Callable[[], nn.Module],
        tokens: np.ndarray,
        seed: int,
        store: PassStore,
        progress: Callable[[int, int], None] | None,
        *,
        source_dtype: mx.Dtype = mx.bfloat16,
    ) -> None:
        super().__init__(load, tokens)
        self.seed, self.store = seed, store
        self.progress = progress or (lambda _done, _total: None)
        self.kv = KvTaps.of(self.model, source_dtype)
        self.options = self.kv.options
        self.done = 0

    def layer_by_layer(self) -> None:
        """Measure with one layer's weights in memory at a time."""
        self._forward()
        self._tail()
        for index in reversed(range(len(self.layers))):
            self._layer(index)
        self._lookup()

    def whole_model(self) -> None:
        """Measure with the whole model in memory: any architecture, no streaming."""
        if self.store.has_modules("whole"):
            return
        moments: dict[str, ModuleMoments] = {}
        tape = Tape()
        with tapped(self.model, "", tape), self.kv.on(tape):
            for number, batch in enumerate(self.head_batches):
                ids, key = self.ids(batch), self._key(number)
                seen: list[mx.array] = []

                def loss(
                    _: mx.array,
                    ids: mx.array = ids,
                    seen: list[mx.array] = seen,
                    key: mx.array = key,
                ) -> mx.array:
                    value, p = _sampled_loss(self.model(ids, **self.kv.options), key)
                    seen.append(p)
                    return value

                pulled = self.kv.take(backward(loss, mx.zeros(1), mx.array(1.0), tape))
                mx.eval(self.kv.unevaluated())
                _accumulate(moments, pulled, self.model, "", seen[-1])
                self.progress(number + 1, len(self.head_batches))
        self.store.write_kv(0, self.kv.finish())
        self._save("whole", moments, self.model, "")

    def _step(self) -> None:
        self.done += 1
        self.progress(self.done, 2 * len(self.layers) + 2)

    def _key(self, number: int) -> mx.array:
        return mx.random.key(self.seed * 1_000_003 + number)

    def _forward(self) -> None:
        count = len(self.layers)
        resumed = any(self.store.has_state("gradient", index) for index in range(count + 1))
        if not resumed and not self.store.has_state("hidden", 0):
            self.store.write_state(
                "hidden", 0, [self.first_hidden(self.ids(batch)) for batch in self.batches]
            )
        for index in range(count):
            if not resumed and not self.store.has_state("hidden", index + 1):
                layer, hidden = self.layer_alone(index), self.store.read_state("hidden", index)
                outputs = []
                for number, batch in enumerate(self.batches):
                    call = self.call(number, index)
                    with by_numpy():
                        outputs.append(call.apply(layer, mx.array(hidden[batch])))
                        mx.eval(outputs[-1])
                self._write_hidden(index, layer, hidden, outputs)
            self._step()

    def _write_hidden(
        self, index: int, layer: nn.Module, hidden: np.ndarray, outputs: list[mx.array]
    ) -> None:
        """Store what layer `index` returned; the error for NaN names the module it came from."""
        try:
            self.store.write_state("hidden", index + 1, outputs)
        except InvalidModelError as error:
            prefix = f"{self.prefix}.{index}"
            for number, batch in enumerate(self.batches):
                call = self.call(number, index)
                where = first_broken(layer, prefix, call, mx.array(hidden[batch]))
                if where:
                    raise InvalidModelError(**{**error.fields, "where": where}) from error
            raise

    def _tail(self) -> None:
        """Final norm and head: the loss with labels sampled from the predictions."""
        count = len(self.layers)
        if not self.store.has_state("gradient", count):
            hidden = self.store.read_state("hidden", count)
            moments: dict[str, ModuleMoments] = {}
            gradients = []
            for number, batch in enumerate(self.head_batches):
                pulled, p = self._through_head(
                    self.ids(batch), mx.array(hidden[batch]), self._key(number)
                )
                _accumulate(moments, pulled, self.model, "", p)
                gradients.append(pulled.carried)
                mx.eval(gradients[-1])
            self._save("head", moments, self.model, "")
            self.store.write_state("gradient", count, gradients)
        self._step()

    def _through_head(
        self, ids: mx.array, hidden: mx.array, key: mx.array
    ) -> tuple[Gradients, mx.array]:
        tape, seen = Tape(), []

        def loss(h: mx.array) -> mx.array:
            logits = logits_of(self.model, self.layers, ids, h)
            value, p = _sampled_loss(logits, key)
            seen.append(p)
            return value

        with tapped(self.model, "", tape, skip=f"{self.prefix}."):
            pulled = backward(loss, hidden, mx.array(1.0), tape)
        calls = [(call, gradient) for call, gradient in pulled.calls if not call.is_lookup]
        return replace(pulled, calls=calls), seen[-1]

    def _layer(self, index: int) -> None:
        if not self.store.has_state("gradient", index):
            layer, tape, prefix = self.layer_alone(index), Tape(), f"{self.prefix}.{index}"
            hidden = self.store.read_state("hidden", index)
            above = self.store.read_state("gradient", index + 1)
            moments: dict[str, ModuleMoments] = {}
            gradients = []
            with tapped(layer, prefix, tape), self.kv.on(tape):
                for number, batch in enumerate(self.batches):
                    call = self.call(number, index)
                    pulled = backward(
                        lambda h, call=call: call.apply(layer, h),  # type: ignore[misc]
                        mx.array(hidden[batch]),
                        mx.array(above[batch]),
                        tape,
                    )
                    pulled = self.kv.take(pulled)
                    _accumulate(moments, pulled, layer, prefix)
                    gradients.append(pulled.carried)
                    mx.eval(gradients[-1], self.kv.unevaluated())
            self.store.write_kv(index, self.kv.finish())
            self._save(f"layer-{index:04d}", moments, layer, prefix)
            self.store.write_state("gradient", index, gradients)
        self._step()

    def _lookup(self) -> None:
        """Embeddings: from the ids to the first layer's hidden state."""
        if not self.store.has_modules("lookup"):
            above = self.store.read_state("gradient", 0)
            moments: dict[str, ModuleMoments] = {}
            tape = Tape()
            with tapped(self.model, "", tape, skip=f"{self.prefix}."):
                for batch in self.batches:
                    ids = self.ids(batch)
                    pulled = backward(
                        lambda _, ids=ids: self.first_hidden(ids),  # type: ignore[misc]
                        mx.zeros(1),
                        mx.array(above[batch]),
                        tape,
                    )
                    _accumulate(moments, pulled, self.model, "")
            self._save("lookup", moments, self.model, "")
        self._step()

    def _save(
        self, name: str, moments: dict[str, ModuleMoments], root: nn.Module, prefix: str
    ) -> None:
        modules = module_paths(root, prefix)

        def finished() -> Iterator[ModuleStatistics]:
            while moments:
                path, moment = moments.popitem()
                power = float(mx.square(modules[path].weight).mean())
                yield moment.finish(power, int(self.tokens.size))

        self.store.write_modules(name, finished())


def _sampled_loss(logits: mx.array, key: mx.array) -> tuple[mx.array, mx.array]:
    """Return a scalar whose gradient squares to F, and the probabilities p of every token.

    The gradient of the summed log-loss of labels drawn from the model is p less one at the label;
    the scalar has that gradient, and one exponential of each logit does for all.
    """
    logits = logits.astype(mx.float32)
    p = softmax(logits)
    return (logits * mx.stop_gradient(_slope(p, key))).sum(), p


def sampled_slope(logits: mx.array, key: mx.array) -> mx.array:
    """Return the gradient of the summed log-loss of drawn labels with respect to the logits."""
    return _slope(softmax(logits), key)


def _slope(p: mx.array, key: mx.array) -> mx.array:
    return p - (mx.arange(p.shape[-1]) == _drawn_labels(p, key)[..., None])


def _drawn_labels(p: mx.array, key: mx.array) -> mx.array:
    """Return a label for each position: where the running sum of p passes a uniform number."""
    passed = mx.cumsum(p, axis=-1)
    level = mx.random.uniform(shape=(*p.shape[:-1], 1), key=key) * passed[..., -1:]
    return mx.minimum((passed <= level).sum(axis=-1), p.shape[-1] - 1)


def _accumulate(
    moments: dict[str, ModuleMoments],
    pulled: Gradients,
    root: nn.Module,
    prefix: str,
    p: mx.array | None = None,
) -> None:
    """Add a batch; for a head, whose output is the logits, E[g^2] = p (1 - p) is exact."""
    modules = module_paths(root, prefix)
    for call, gradient in pulled.calls:
        moment = moments.setdefault(
            call.path, ModuleMoments(call.path, modules[call.path].weight.shape)
        )
        head = None
        if p is not None and not call.is_lookup and gradient.shape == p.shape:
            flat = p.reshape(-1, p.shape[-1])
            head = Head(flat * (1 - flat), modules[call.path].weight)
        moment.add(call, gradient, head)
    tokens = pulled.carried.size // pulled.carried.shape[-1]
    for path, gradient in pulled.direct.items():
        moments.setdefault(path, ModuleMoments(path, gradient.shape)).add_direct(gradient, tokens)
