"""What KV caches cost: predicted from gradients, measured by passes, served by stock mlx-lm."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import QuantizedKVCache

import bitbudget
from bitbudget.app.core.kv import KvFormat, KvSide
from bitbudget.app.core.measurement import KvCurve
from bitbudget.kv.cache import make_cache
from bitbudget.kv.codecs import AffineCodec
from bitbudget.kv.manifest import ChosenCaches
from bitbudget.workers.fisher import collect_statistics
from bitbudget.workers.fisher.kv import KvTaps
from bitbudget.workers.probe.kv import Choice, _logits, kv_kl, probe_kv
from bitbudget.workers.running.float32 import load_float32
from bitbudget.workers.running.tokens import sample_tokens

BOTH = KvSide.BOTH
LEGAL = [KvFormat(8, 32), KvFormat(8, 64), KvFormat(4, 32), KvFormat(4, 64)]
ALL = [*LEGAL, *(KvFormat(bits, rotated=True) for bits in (4, 3, 2))]


@pytest.fixture(scope="module")
def curves(sample_model: Path) -> tuple[KvCurve, ...]:
    tokens = sample_tokens(sample_model, 8, 128, seed=5)
    return collect_statistics(sample_model, tokens, seed=0).kv_curves


def predicted(curves: tuple[KvCurve, ...], choice: Choice) -> float:
    total = 0.0
    for curve in curves:
        for side, format_ in choice[curve.layer].items():
            points = {BOTH: curve.points, KvSide.KEYS: curve.keys, KvSide.VALUES: curve.values}
            total += {KvFormat(p.bits, p.group_size, p.rotated): p for p in points[side]}[
                format_
            ].kl_nats
    return total


def test_every_layer_has_every_legal_format_with_its_interval(
    curves: tuple[KvCurve, ...],
) -> None:
    assert [curve.layer for curve in curves] == list(range(6))
    for curve in curves:
        costs = {KvFormat(p.bits, p.group_size): p.kl_nats for p in curve.points}
        assert list(costs) == [KvFormat(16), *LEGAL]
        assert costs[KvFormat(16)] == 0
        assert 0 < costs[KvFormat(8, 32)] < costs[KvFormat(8, 64)] < costs[KvFormat(4, 32)]
        for point in curve.points:
            assert point.interval_95 is not None
            assert point.interval_95[0] <= point.kl_nats <= point.interval_95[1]


def test_mixed_caches_cost_what_is_predicted(
    sample_model: Path, curves: tuple[KvCurve, ...]
) -> None:
    model = load_float32(sample_model)
    text = sample_tokens(sample_model, 8, 128, seed=99)
    draw = np.random.default_rng(1)
    mixes = [{layer: {BOTH: LEGAL[draw.integers(4)]} for layer in range(6)} for _ in range(2)]
    apart = [
        {
            layer: {side: ALL[draw.integers(len(ALL))] for side in (KvSide.KEYS, KvSide.VALUES)}
            for layer in range(6)
        }
        for _ in range(3)
    ]
    alike: Choice = {layer: {BOTH: KvFormat(8, 64)} for layer in range(6)}
    choices: list[Choice] = [alike, *mixes, *apart]
    for formats, nats in zip(choices, kv_kl(model, text, choices, mx.bfloat16), strict=True):
        assert predicted(curves, formats) == pytest.approx(nats.sum() / text.size, rel=0.3)


def test_a_probe_finds_what_the_gradient_does(
    sample_model: Path, curves: tuple[KvCurve, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bitbudget.workers.probe.kv._SEQUENCES", 1)
    probed = probe_kv(sample_model, mx.bfloat16, seed=0)
    for format_ in (KvFormat(4, 64), KvFormat(3, rotated=True)):
        everywhere = {
            layer: dict.fromkeys((KvSide.KEYS, KvSide.VALUES), format_) for layer in range(6)
        }
        found = predicted(probed, everywhere)
        assert found == pytest.approx(predicted(curves, everywhere), rel=0.5)


def test_errors_are_those_of_mlx_lm_s_quantized_cache(sample_model: Path) -> None:
    formats = {0: KvFormat(4, 32), 3: KvFormat(8, 64)}
    ids = mx.array(sample_tokens(sample_model, 1, 64, seed=2))
    exact = load_float32(sample_model)
    codecs = {layer: AffineCodec(f.bits, f.group_size) for layer, f in formats.items()}
    chosen = ChosenCaches({layer: (codec, codec) for layer, codec in codecs.items()})
    caches = make_cache(exact, chosen)
    assert [type(cache) is QuantizedKVCache for cache in caches] == [
        layer in formats for layer in range(6)
    ]
    served = np.array(exact(ids, cache=caches))
    choice = {layer: {BOTH: format_} for layer, format_ in formats.items()}
    ours = np.array(_logits(exact, ids, choice, mx.float32))
    differences, effect = np.abs(served - ours), np.abs(served - np.array(exact(ids))).max()
    assert effect > 1e-2
    # processors sum in other orders, so a value between two codes may get the other one
    assert np.median(differences.max(axis=-1)) < 1e-3
    assert differences.max() < 0.01 * effect


def test_a_manifest_s_caches_are_made_on_loading(sample_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in sample_model.iterdir():
        (folder / file.name).symlink_to(file.resolve())
    affine = {"bits": 8, "group_size": 64, "bytes": 1, "kl_nats": 0.1}
    rotated = affine | {"bits": 3, "group_size": 0, "rotated": True, "width": 64, "seed": 9}
    own = affine | {"bits": 16, "group_size": 0}
    chosen = {"2": {"both": affine}, "3": {"keys": affine, "values": rotated}}
    chosen |= {"4": {"keys": own, "values": affine}, "5": {"both": own}}
    (folder / "manifest.json").write_text(json.dumps({"kv_cache": chosen}))
    model, _ = bitbudget.load_model(folder)
    kinds = [type(cache).__name__ for cache in model.make_cache()]
    assert kinds == [
        *("KVCache", "KVCache", "QuantizedKVCache", "CodecKVCache", "CodecKVCache", "KVCache")
    ]
    made = bitbudget.make_cache(model, folder / "manifest.json")
    assert [type(cache).__name__ for cache in made] == kinds
    assert model(mx.zeros((1, 4), mx.int32), cache=made).shape == (1, 4, 4096)


def test_a_model_that_cannot_be_tapped_says_why(sample_model: Path) -> None:
    model = load_float32(sample_model)
    model.model.embed_tokens = None
    taps = KvTaps.of(model, mx.bfloat16)
    assert taps.failure
    assert (taps.formats, taps.options) == ({}, {})
