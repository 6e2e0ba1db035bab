"""Manifests of KV formats that a model cannot have, and prompt caches of another format."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

import bitbudget
from bitbudget.app.core.errors import InvalidModelError
from bitbudget.kv.cache import CodecKVCache
from bitbudget.kv.codecs import AffineCodec, PlainCodec, RotatedCodec
from bitbudget.kv.fitting import check_fits
from bitbudget.kv.manifest import ChosenCaches, chosen_caches
from bitbudget.workers.running.float32 import load_float32

stock: Any = importlib.import_module("mlx_lm.models.cache")

AFFINE = {"bits": 8, "group_size": 64, "bytes": 1, "kl_nats": 0.1}
ROTATED = {**AFFINE, "bits": 3, "group_size": 0, "rotated": True, "width": 64, "seed": 9}


def written(folder: Path, kv_cache: Any) -> Path:
    path = folder / "manifest.json"
    path.write_text(json.dumps({"kv_cache": kv_cache}))
    return path


@pytest.mark.parametrize(
    ("kv_cache", "named"),
    [
        ({"x": {"both": AFFINE}}, "layer 'x'"),
        ({"1": {"keys": AFFINE}}, "layer 1, values: found no format"),
        ({"1": []}, "layer 1, keys"),
        ({"1": {"both": {"bits": 8}}}, "group_size"),
        ({"1": {"both": {**AFFINE, "group_size": 48}}}, "layer 1, keys.*groups of"),
        ({"1": {"both": {**AFFINE, "bits": 7}}}, "bits of"),
        ({"1": {"both": {**AFFINE, "bits": "many"}}}, "many"),
        ({"1": {"keys": AFFINE, "values": {**ROTATED, "width": 80}}}, "heads of 80 channels"),
        ({"1": {"keys": AFFINE, "values": {**ROTATED, "bits": 5}}}, "2, 3, 4 bits"),
        (["both"], "manifest of bitbudget"),
    ],
)
def test_formats_of_no_codec_are_named(kv_cache: Any, named: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidModelError, match=named):
        chosen_caches(written(tmp_path, kv_cache))


def test_a_manifest_that_is_no_document_is_named(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    for text in ("{", "[]", "7"):
        path.write_text(text)
        with pytest.raises(InvalidModelError, match=r"manifest\.json"):
            chosen_caches(path)


@pytest.mark.parametrize(
    ("kv_cache", "named"),
    [
        ({"6": {"both": AFFINE}}, "layer 6.*layers of the model, 0 to 5"),
        (
            {"2": {"keys": AFFINE, "values": {**ROTATED, "width": 128}}},
            "layer 2, values.*t3:128:9.*heads of 64 channels",
        ),
        ({"3": {"both": {**AFFINE, "group_size": 128}}}, "layer 3, keys.*8g128.*64 channels"),
    ],
)
def test_formats_that_the_model_cannot_have_are_refused_on_loading(
    kv_cache: Any, named: str, tmp_path: Path, sample_model: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in sample_model.iterdir():
        (folder / file.name).symlink_to(file.resolve())
    manifest = written(folder, kv_cache)
    with pytest.raises(InvalidModelError, match=named):
        bitbudget.load_model(folder)
    with pytest.raises(InvalidModelError, match=named):
        bitbudget.make_cache(load_float32(folder), manifest)


def test_a_sliding_window_keeps_the_model_s_own_type(
    sample_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_float32(sample_model)
    windowed = [stock.KVCache() for _ in range(5)] + [stock.RotatingKVCache(max_size=32)]
    monkeypatch.setattr(type(model), "make_cache", lambda _: windowed, raising=False)
    codec = RotatedCodec(4, 64, 1)
    check_fits(model, ChosenCaches({0: (codec, codec), 5: (PlainCodec(), PlainCodec())}))
    with pytest.raises(InvalidModelError, match=r"layer 5, keys.*RotatingKVCache"):
        check_fits(model, ChosenCaches({5: (codec, codec)}))


def test_a_prompt_cache_of_another_format_is_refused() -> None:
    kinds = (RotatedCodec(4, 64, 1), RotatedCodec(3, 64, 2), AffineCodec(8, 64), PlainCodec())
    x = mx.random.normal((1, 2, 5, 64))
    for made in kinds:
        cache = CodecKVCache(made, made)
        cache.update_and_fetch(x, x)
        keys, values, offset, *_ = cache.state
        for said in kinds:
            state = (keys, values, offset, said.name, said.name)
            if said == made:
                assert CodecKVCache.from_state(state).key_codec == made
                continue
            with pytest.raises(ValueError, match="make the prompt cache again"):
                CodecKVCache.from_state(state)
