"""The caches inside mlx-lm: generation, chunks, speculation, prompt-cache files, bytes."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.generate import generate_step

from bitbudget.kv.cache import CodecKVCache, register
from bitbudget.kv.codecs import AffineCodec, Codec, RotatedCodec
from bitbudget.workers.native.blas import preload_environment
from bitbudget.workers.running.float32 import load_float32

stock: Any = importlib.import_module("mlx_lm.models.cache")
LAYERS, WIDTH = 6, 64
KINDS: tuple[tuple[Codec, Codec], ...] = (
    (AffineCodec(8, 64), AffineCodec(8, 64)),
    (AffineCodec(8, 32), AffineCodec(4, 64)),
    (RotatedCodec(4, WIDTH, 1), RotatedCodec(3, WIDTH, 2)),
    (AffineCodec(8, 64), RotatedCodec(4, WIDTH, 3)),
)


@pytest.fixture(scope="module")
def model(sample_model: Path) -> Any:
    register()
    return load_float32(sample_model)


def caches(kind: tuple[Codec, Codec]) -> list[CodecKVCache]:
    return [CodecKVCache(*kind) for _ in range(LAYERS)]


def tokens(count: int, rows: int = 1) -> mx.array:
    return mx.array(np.random.default_rng(count).integers(1, 4000, (rows, count)).astype(np.int32))


def differences_of_chunks(folder: str) -> list[tuple[float, float]]:
    """Return, of each kind, the median and the largest relative difference that chunks make."""
    register()
    model, ids, found = load_float32(Path(folder)), tokens(48, rows=3), []
    for kind in KINDS:
        chunked, whole = caches(kind), np.array(model(ids, cache=caches(kind)))
        parts = [model(ids[:, a:b], cache=chunked) for a, b in ((0, 30), (30, 47), (47, 48))]
        differences = np.abs(np.array(mx.concatenate(parts, axis=1)) - whole).max(axis=-1)
        found.append(
            (float(np.median(differences)), float(differences.max() / np.abs(whole).max()))
        )
    return found


def test_chunks_give_what_one_call_gives(sample_model: Path) -> None:
    """A value between two codes gets the other one where sums differ: in float32 that is rare."""
    code = f"import {__name__} as t; print(t.differences_of_chunks({str(sample_model)!r}))"
    environment = preload_environment(os.environ) | {"BITBUDGET_MATMUL_PRECISION": "highest"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    for median, largest in ast.literal_eval(done.stdout):
        assert median < 1e-3
        assert largest < 5e-3


def test_eight_bits_are_near_the_plain_cache(model: Any) -> None:
    ids = tokens(64)
    exact = np.array(model(ids))
    near = np.array(model(ids, cache=caches(KINDS[0])))
    assert 0 < np.abs(near - exact).max() < 0.2 * np.abs(exact).max()


@pytest.mark.parametrize("kind", KINDS)
def test_text_is_generated_over_a_step_of_the_cache(model: Any, kind: tuple[Codec, Codec]) -> None:
    prompt = tokens(250)[0]
    made = [
        token
        for token, _ in generate_step(
            prompt, model, max_tokens=12, prompt_cache=caches(kind), prefill_step_size=100
        )
    ]
    again, cache = [], caches(kind)
    logits = model(prompt[None], cache=cache)
    for _ in range(12):
        again.append(int(mx.argmax(logits[0, -1])))
        logits = model(mx.array([[again[-1]]]), cache=cache)
    assert made == again


@pytest.mark.parametrize("kind", KINDS)
def test_a_trimmed_cache_goes_on_as_if_the_tokens_had_never_been(
    model: Any, kind: tuple[Codec, Codec]
) -> None:
    ids, cache = tokens(40), caches(kind)
    model(ids[:, :30], cache=cache)
    model(tokens(7), cache=cache)
    assert stock.trim_prompt_cache(cache, 7) == 7
    found = model(ids[:, 30:], cache=cache)
    plain = caches(kind)
    model(ids[:, :30], cache=plain)
    assert np.array_equal(np.array(found), np.array(model(ids[:, 30:], cache=plain)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_cache_file_brings_back_tokens_and_codecs(
    model: Any, kind: tuple[Codec, Codec], tmp_path: Path
) -> None:
    cache, file = caches(kind), str(tmp_path / "prompt.safetensors")
    model(tokens(33), cache=cache)
    stock.save_prompt_cache(file, cache)
    back = stock.load_prompt_cache(file)
    assert [(c.key_codec, c.value_codec, c.offset) for c in back] == [(*kind, 33)] * LAYERS
    following = tokens(9)
    assert np.array_equal(
        np.array(model(following, cache=back)), np.array(model(following, cache=cache))
    )


def test_a_state_of_unknown_codecs_is_refused(model: Any) -> None:
    cache = caches(KINDS[2])
    model(tokens(5), cache=cache)
    state = cache[0].state
    with pytest.raises(ValueError, match="KV codec"):
        CodecKVCache.from_state((*state[:3], "t9:none", state[4]))


@pytest.mark.parametrize("count", [1, 256, 257, 700])
@pytest.mark.parametrize("kind", KINDS)
def test_bytes_are_those_of_the_formula(kind: tuple[Codec, Codec], count: int) -> None:
    heads, cache = 2, CodecKVCache(*kind)
    x = mx.random.normal((1, heads, count, WIDTH)).astype(mx.bfloat16)
    for start in range(0, count, 300):
        cache.update_and_fetch(x[..., start : start + 300, :], x[..., start : start + 300, :])
    held = heads * -(-count // 256) * 256
    expected = 0
    for codec in kind:
        expected += held * WIDTH * codec.bits // 8
        groups = held * WIDTH // codec.group_size if isinstance(codec, AffineCodec) else 0
        expected += groups * 4 if groups else held * 2
    assert cache.nbytes == expected
    assert cache.size() == count
