"""The codecs of keys and values against NumPy in float64."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from bitbudget.kv.codecs import AffineCodec, RotatedCodec, _pack, codebook, parse_codec
from bitbudget.kv.codecs import rotation as rotation_of
from bitbudget.metal_kernels.codes import unpacked

WIDTHS = (64, 96, 128, 160, 256)


def vectors(width: int, count: int = 500, seed: int = 0) -> np.ndarray:
    scale = np.exp(np.random.default_rng(seed).normal(size=(count, 1)))
    return (scale * np.random.default_rng(seed + 1).normal(size=(count, width))).astype(np.float32)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_rotation_is_orthogonal_and_mixes_all_channels(width: int) -> None:
    matrix = rotation_of(width, 7).astype(np.float64)
    assert np.allclose(matrix @ matrix.T, np.eye(width), atol=1e-5)
    assert np.abs(matrix[0]).min() > 0
    assert not np.allclose(matrix, rotation_of(width, 8))


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_a_codebook_is_optimal_for_the_coordinates_of_random_vectors(bits: int) -> None:
    width = 128
    book = codebook(bits, width).astype(np.float64)
    assert np.array_equal(book, -book[::-1])
    draws = np.random.default_rng(0).normal(size=(20_000, width))
    y = draws / np.linalg.norm(draws, axis=1, keepdims=True) * np.sqrt(width)
    cells = np.searchsorted((book[1:] + book[:-1]) / 2, y)
    means = np.bincount(cells.ravel(), y.ravel()) / np.bincount(cells.ravel())
    assert np.allclose(means, book, atol=0.02)  # each entry is the mean of its cell
    lost = np.square(book[cells] - y).mean()
    assert lost == pytest.approx({2: 0.1175, 3: 0.0345, 4: 0.0095}[bits], rel=0.03)  # Max, 1960


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_codes_are_packed_as_mlx_packs_them(bits: int) -> None:
    codes = np.random.default_rng(bits).integers(0, 1 << bits, (3, 5, 96)).astype(np.uint32)
    words = _pack(mx.array(codes), bits)
    stream = np.unpackbits(np.array(words).view(np.uint8), axis=-1, bitorder="little")
    weights = 1 << np.arange(bits)
    assert np.array_equal(stream.reshape(3, 5, 96, bits) @ weights, codes)
    assert np.array_equal(np.array(unpacked(words, bits)), codes)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_decoding_is_scale_times_entry_rotated_back(bits: int, width: int) -> None:
    codec = RotatedCodec(bits, width, seed=3)
    x = vectors(width)
    words, scales = codec.encode(mx.array(x))
    assert words.nbytes + scales.nbytes == x.size * bits // 8 + 2 * len(x)
    codes = np.array(unpacked(words, bits))
    entries = codebook(bits, width).astype(np.float64)[codes]
    expected = entries * np.array(scales, np.float64) @ rotation_of(width, 3).astype(np.float64).T
    found = codec.leave(codec.decode((words, scales), mx.float32))
    assert np.allclose(np.array(found), expected, rtol=1e-4, atol=1e-4 * np.abs(x).max())


def test_the_stored_scale_is_the_least_squares_one() -> None:
    codec, x = RotatedCodec(3, 64, seed=1), vectors(64)
    words, scales = codec.encode(mx.array(x))
    y = x.astype(np.float64) @ rotation_of(64, 1)
    entries = codebook(3, 64).astype(np.float64)[np.array(unpacked(words, 3))]
    best = (y * entries).sum(1) / np.square(entries).sum(1)
    assert np.allclose(np.array(scales, np.float64)[:, 0], best, rtol=1e-3)


def test_it_loses_less_than_affine_codes_of_more_bits() -> None:
    x = mx.array(vectors(128))
    affine, rotated = AffineCodec(4, 64), RotatedCodec(4, 128)
    lost = [
        float(mx.square(codec.leave(codec.decode(codec.encode(x), mx.float32)) - x).sum())
        for codec in (affine, rotated)
    ]
    assert lost[1] < lost[0]  # 4.125 bits against 4.5


@pytest.mark.parametrize("value", [0.0, 1e-30, 3e4, float("nan"), float("inf")])
def test_odd_vectors_stay_among_themselves(value: float) -> None:
    codec = RotatedCodec(4, 64)
    x = vectors(64, 4)
    odd = x.copy()
    odd[1] = value
    plain, found = (np.array(codec.decode(codec.encode(mx.array(v)), mx.float32)) for v in (x, odd))
    assert np.array_equal(plain[[0, 2, 3]], found[[0, 2, 3]])
    if value == 0:
        assert not found[1].any()


@pytest.mark.parametrize("codec", [AffineCodec(8, 64), AffineCodec(4, 32), RotatedCodec(3, 96, 5)])
def test_a_name_stands_for_its_codec(codec: AffineCodec | RotatedCodec) -> None:
    assert parse_codec(codec.name) == codec


@pytest.mark.parametrize(("bits", "width"), [(4, 80), (5, 64), (3, 0)])
def test_widths_and_bits_that_cannot_be_packed_are_refused_by_name(bits: int, width: int) -> None:
    with pytest.raises(ValueError, match=f"heads of {width} channels in {bits} bits"):
        RotatedCodec(bits, width)


@pytest.mark.parametrize("name", ["", "t3", "q8", "8g", "t9:x:1"])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="KV codec"):
        parse_codec(name)
