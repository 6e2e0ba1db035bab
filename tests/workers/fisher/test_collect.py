"""The block-streamed pass against plain differentiation of the whole model."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn
from mlx.utils import tree_flatten

from bitbudget.workers.fisher import Statistics, begin_collecting, collect_statistics
from bitbudget.workers.fisher.passes import Pass, _drawn_labels, _sampled_loss
from bitbudget.workers.fisher.store import PassStore
from bitbudget.workers.models.chat import Chat
from bitbudget.workers.running import hidden_states
from bitbudget.workers.running.float32 import load_float32
from bitbudget.workers.running.hidden_states import HiddenStates
from bitbudget.workers.running.layer_calls import decoder_layers, layer_calls, observed_layers
from bitbudget.workers.running.tokens import sample_tokens


@pytest.fixture(scope="module")
def tokens(sample_model: Path) -> np.ndarray:
    return sample_tokens(sample_model, 4, 32, seed=7)


@pytest.fixture(scope="module")
def statistics(sample_model: Path, tokens: np.ndarray) -> Statistics:
    return collect_statistics(sample_model, tokens, seed=3)


def test_tokens_are_reproducible_and_begin_with_bos(sample_model: Path, tokens: np.ndarray) -> None:
    again = sample_tokens(sample_model, 4, 32, seed=7)
    assert tokens.shape == (4, 32)
    assert np.array_equal(tokens, again)
    assert (tokens[:, 0] == 0).all()
    assert len(np.unique(tokens[:, 1:])) > 20


def test_every_module_has_statistics(sample_model: Path, statistics: Statistics) -> None:
    model = load_float32(sample_model)
    paths = {path for path, module in model.named_modules() if hasattr(module, "to_quantized")}
    assert set(statistics) == paths
    assert all(statistics[path].alpha_nats > 0 for path in paths)
    assert len(statistics["model.embed_tokens"].terms) == 2


def test_gradients_are_those_of_the_whole_model(
    sample_model: Path, tokens: np.ndarray, statistics: Statistics
) -> None:
    model = load_float32(sample_model)
    key = mx.random.key(3 * 1_000_003)
    labels = _drawn_labels(mx.softmax(model(mx.array(tokens)), axis=-1), key)

    def loss(module: nn.Module, row: int) -> mx.array:
        logits = module(mx.array(tokens[row : row + 1]))
        return nn.losses.cross_entropy(logits, labels[row : row + 1], reduction="sum")

    path = "model.layers.2.mlp.up_proj"
    total = np.zeros(statistics[path].row_sums.shape)
    for row in range(len(tokens)):
        gradients = dict(tree_flatten(nn.value_and_grad(model, loss)(model, row)[1]))
        total += np.square(np.array(gradients[f"{path}.weight"])).sum(1)
    assert np.allclose(statistics[path].row_sums, total / tokens.size, rtol=2e-3, atol=1e-9)


def test_streamed_equals_whole(
    sample_model: Path, tokens: np.ndarray, statistics: Statistics, tmp_path: Path
) -> None:
    store = PassStore(tmp_path)
    Pass(lambda: load_float32(sample_model), tokens, 3, store, None).whole_model()
    whole = Statistics(tokens.size, files=store.finish())
    assert set(whole) == set(statistics)
    for path in statistics:
        ours, theirs = statistics[path], whole[path]
        assert ours.alpha_nats == pytest.approx(theirs.alpha_nats, rel=2e-3)
        for a, b in zip(ours.terms, theirs.terms, strict=True):
            assert np.allclose(a.columns, b.columns, rtol=2e-3, atol=1e-4 * abs(b.columns).max())
            assert np.allclose(a.rows, b.rows, rtol=2e-3, atol=1e-4 * abs(b.rows).max())


def test_second_pass_resumes_and_agrees(
    sample_model: Path, tokens: np.ndarray, statistics: Statistics, tmp_path: Path
) -> None:
    class KilledError(Exception):
        pass

    def kill(done: int, _total: int) -> None:
        if done == 9:
            raise KilledError

    with pytest.raises(KilledError):
        collect_statistics(sample_model, tokens, seed=3, progress=kill, scratch=tmp_path)
    written = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("layer-*.npz")}
    assert written
    resumed = collect_statistics(sample_model, tokens, seed=3, scratch=tmp_path)
    assert all(file.stat().st_mtime_ns == before for file, before in written.items())
    for path in statistics:
        assert resumed[path].alpha_nats == pytest.approx(statistics[path].alpha_nats, rel=1e-5)
    steps: list[int] = []
    again = collect_statistics(
        sample_model, tokens, seed=3, scratch=tmp_path, progress=lambda done, _: steps.append(done)
    )
    assert steps == []
    assert again.notes == resumed.notes
    assert again.kv_curves == resumed.kv_curves


def test_mixture_of_experts(fixtures_dir: Path) -> None:
    folder = fixtures_dir / "tinyqwen3-moe"
    tokens = sample_tokens(folder, 4, 32, seed=0)
    statistics = collect_statistics(folder, tokens, seed=0)
    experts = statistics["model.layers.2.mlp.switch_mlp.down_proj"]
    assert experts.terms[0].columns.shape == (8, 256, 256)
    assert experts.tokens.sum() == 2 * tokens.size
    assert np.isfinite(experts.second_moment).all()
    assert statistics["model.layers.2.mlp.gate"].alpha_nats > 0


def test_layers_that_share_more_than_the_hidden_state_are_no_chain(sample_model: Path) -> None:
    model = load_float32(sample_model)
    _, layers = decoder_layers(model)
    ids = mx.array([[0, 5, 6]])
    assert layer_calls(model, layers, ids) is not None
    inner = model.model

    class Twice(type(inner)):  # type: ignore[misc]
        def __call__(self, inputs: mx.array, *_: object) -> mx.array:
            h = self.embed_tokens(inputs)
            for layer in self.layers:
                h = layer(h, None, None) * 2
            output: mx.array = self.norm(h)
            return output

    object.__setattr__(inner, "__class__", Twice)
    assert layer_calls(model, layers, ids) is None


def test_prediction_is_the_quadratic_form_of_the_gradients(
    sample_model: Path, statistics: Statistics
) -> None:
    entry = statistics["model.layers.0.self_attn.k_proj"]
    error = np.random.default_rng(0).normal(0, 1e-3, (128, 256)).astype(np.float32)
    term = entry.terms[0]
    expected = 0.5 * np.trace(term.rows @ error @ term.columns @ error.T)
    assert entry.kl_nats(error) == pytest.approx(expected, rel=1e-3)
    weight = np.array(load_float32(sample_model).model.layers[0].self_attn.k_proj.weight)
    isotropic = entry.alpha_nats * np.square(error).sum() / np.square(weight).sum()
    assert entry.kl_nats(error) == pytest.approx(isotropic, rel=0.8)


def test_loss_samples_from_the_predictions() -> None:
    chances = np.array([0.0, 0.5, 0.3, 0.2, 0.0])
    logits = mx.broadcast_to(mx.array(np.log(chances + 1e-30)), (2, 5000, 5)).astype(mx.float32)
    key = mx.random.key(0)
    slope = np.array(mx.grad(lambda x: _sampled_loss(x, key)[0])(logits))
    p = np.array(_sampled_loss(logits, key)[1])
    np.testing.assert_allclose(p[0, 0], chances, atol=1e-6)
    labels = p - slope
    assert set(np.unique(np.round(labels, 5))) == {0.0, 1.0}
    np.testing.assert_allclose(labels.sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(labels.mean((0, 1)), chances, atol=0.02)


CHAT = Chat(((1, 2, 3), (4, 5, 6, 7)), ((8, 9),), frozenset(range(0, 4096, 3)))


@pytest.mark.parametrize("chat", [None, CHAT], ids=["from the beginning", "chat"])
def test_hidden_states_of_the_writing_stand_for_the_forward_pass(
    chat: Chat | None, sample_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = HiddenStates((3, 32))
    tokens = sample_tokens(sample_model, 3, 32, seed=1, batch=2, chat=chat, hidden=hidden)
    assert np.array_equal(tokens, sample_tokens(sample_model, 3, 32, seed=1, batch=2, chat=chat))
    seen: dict[int, mx.array] = {}
    model = load_float32(sample_model)
    layers = decoder_layers(model)[1]
    with observed_layers(layers, lambda i, given, got: seen.update({i: given, i + 1: got})):
        mx.eval(model(mx.array(tokens)))
    assert len(hidden.states) == len(seen) == 1 + len(layers)
    for index, state in enumerate(hidden.states):
        expected = np.array(seen[index])
        np.testing.assert_allclose(state, expected, atol=1e-5 * np.abs(expected).max())

    plain = collect_statistics(sample_model, tokens, seed=2)
    begin_collecting(sample_model, tokens, hidden.states, seed=2, scratch=tmp_path)
    monkeypatch.setattr(Pass, "_write_hidden", None)
    found = collect_statistics(sample_model, tokens, seed=2, scratch=tmp_path)
    for path in plain:  # a label may fall on the other side of a probability's edge
        assert found[path].alpha_nats == pytest.approx(plain[path].alpha_nats, rel=0.1)


def test_states_that_would_not_fit_are_not_kept(
    sample_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hidden_states, "_MOST_BYTES", 1000)
    hidden = HiddenStates((2, 8))
    sample_tokens(sample_model, 2, 8, seed=1, hidden=hidden)
    assert hidden.states == []
