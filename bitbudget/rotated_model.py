"""Models whose activations are rotated at run time, by our kernels or by MLX operations.

This file is part of bitbudget, and it is copied into every checkpoint that stock mlx-lm cannot load
as its `model_file`, which mlx-lm runs with `trust_remote_code=True`; beside it lies what reads our
own number formats (`own_formats`). Where the package `metal_kernels` is installed its kernels are
used, else MLX operations.

`rotate(model, spec)` changes a stock mlx-lm model in place. Weights are rotated offline; what is
left for run time is B, Hadamard's matrix of +-1 on blocks of 32, behind the norms and gated
activations of `spec` and before some of its matrices. Its `layers` add and norm in one operation.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx import nn

try:
    from bitbudget import metal_kernels
except ImportError:  # a checkpoint on a machine without bitbudget
    metal_kernels = None  # type: ignore[assignment]

KEY = "bitbudget_rotation"
VERSION = 1
FORMATS_FILE = "bitbudget_formats.py"
"""The copy of `bitbudget.own_formats` in a checkpoint."""
BLOCK = 32
FEW_ROWS = 8
"""Up to this many rows a product runs in the fused kernel, and launches are compiled."""
MANY_ROWS = 64
"""From this many rows a product runs in the tiled kernel where that beats two stock operations."""


_DECODING = ("rms_norm_rht", "residual_rms_norm_rht", "swiglu_rht", "rht_qmv")


class RotationError(ValueError):
    """The rotation that config.json describes is not one that this file can apply."""


@lru_cache
def hadamard() -> mx.array:
    """Return B, float32 of shape (32, 32)."""
    rows = [[1 - 2 * ((i & j).bit_count() & 1) for j in range(BLOCK)] for i in range(BLOCK)]
    return mx.array(rows, dtype=mx.float32)


def butterfly(x: mx.array) -> mx.array:
    """Return B x on blocks of 32 of the last axis, in the dtype of `x`."""
    blocks = x.astype(mx.float32).reshape(-1, BLOCK) @ hadamard()
    return blocks.reshape(x.shape).astype(x.dtype)


def spec_digest(spec: dict[str, Any]) -> str:
    """Return the digest of a rotation: its seed and its sites."""
    content = {key: value for key, value in spec.items() if key != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@lru_cache
def compiled(name: str, options: tuple[tuple[str, Any], ...]) -> Any:
    """Return the kernel `name` with `options`, compiled: Python builds its launch once a shape."""
    return mx.compile(partial(getattr(metal_kernels, name), **dict(options)))


def launch(name: str, *arrays: mx.array, **options: Any) -> list[mx.array]:
    """Return the outputs of the kernel `name`; shapes of few rows, which decoding has, recur."""
    few = arrays[0].size <= FEW_ROWS * arrays[0].shape[-1]
    if few:
        return list(compiled(name, tuple(sorted(options.items())))(*arrays))
    return list(getattr(metal_kernels, name)(*arrays, **options))


class RotatedRMSNorm(nn.Module):
    """B (weight * x / rms(x)); the signs and a quarter of the scale are in `weight`."""

    def __init__(self, weight: mx.array, eps: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.weight = weight
        self.eps = eps

    def __call__(self, x: mx.array) -> mx.array:
        """Return the rotated norm of `x` (..., K)."""
        weight = self.weight.astype(x.dtype)
        if metal_kernels is not None:
            return launch("rms_norm_rht", x, weight, eps=self.eps)[0]
        return butterfly(mx.fast.rms_norm(x, weight, self.eps))


def add_and_norm(
    x: mx.array, residual: mx.array, norm: RotatedRMSNorm
) -> tuple[mx.array, mx.array]:
    """Return x + residual and its rotated norm, by one kernel where there is one."""
    if metal_kernels is None:
        added = x + residual
        return added, norm(added)
    weight = norm.weight.astype(x.dtype)
    added, normed = launch("residual_rms_norm_rht", x, residual, weight, eps=norm.eps)
    return added, normed


@lru_cache
def rotated_layer(base: Any) -> type:
    """Return a subclass of the decoder layer `base` that adds and norms in one operation."""

    class RotatedLayer(base):  # type: ignore[misc]
        def __call__(self, x: mx.array, mask: Any = None, cache: Any = None) -> mx.array:
            mixer = self.linear_attn if "linear_attn" in self else self.self_attn
            mixed = mixer(self.input_layernorm(x), mask, cache)
            added, normed = add_and_norm(x, mixed, self.post_attention_layernorm)
            result: mx.array = added + self.mlp(normed)
            return result

    return RotatedLayer


def gated(gate: mx.array, up: mx.array, activation: str) -> mx.array:
    """Return B (activation(gate) * up)."""
    if metal_kernels is not None:
        return launch("swiglu_rht", gate, up, activation=activation)[0]
    activated = nn.silu(gate) if activation == "silu" else nn.gelu_approx(gate)
    return butterfly(activated * up)


class RotatedActivation(nn.Module):
    """The activation of mlx-lm's `SwitchGLU`, rotated."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __call__(self, x: mx.array, gate: mx.array) -> mx.array:
        """Return B (silu(gate) * x)."""
        return gated(gate, x, "silu")


@lru_cache
def rotated_feed_forward(base: Any, activation: str) -> type:
    """Return a subclass of the feed-forward class `base` that rotates the input of down_proj."""

    class RotatedFeedForward(base):  # type: ignore[misc]
        def __call__(self, x: mx.array) -> mx.array:
            if "gate_up_proj" in self:
                gate, up = mx.split(self.gate_up_proj(x), 2, axis=-1)
            else:
                gate, up = self.gate_proj(x), self.up_proj(x)
            result: mx.array = self.down_proj(gated(gate, up, activation))
            return result

    return RotatedFeedForward


class RotatedLinear(nn.Linear):
    """x -> (B x) W^T; quantizes to `RotatedQuantizedLinear`."""

    def __call__(self, x: mx.array) -> mx.array:
        """Return the product for `x` (..., K)."""
        result: mx.array = super().__call__(butterfly(x))
        return result

    def to_quantized(
        self,
        group_size: int | None = None,
        bits: int | None = None,
        mode: str = "affine",
        quantize_input: bool = False,  # noqa: FBT001, FBT002, as in mlx
    ) -> nn.Module:
        """Return the quantized twin; the parameters are those that `nn.quantize` looks for."""
        if quantize_input:
            raise RotationError("quantized activations behind a rotation, which has no kernel")
        quantized: nn.Module = super().to_quantized(group_size, bits, mode)
        quantized.__class__ = RotatedQuantizedLinear
        return quantized


class RotatedQuantizedLinear(nn.QuantizedLinear):
    """As `RotatedLinear`; the transform runs inside the product where a kernel is right for it."""

    def _kernel(self, rows: int) -> tuple[str, dict[str, Any]] | None:
        """Return the kernel for a product of `rows`, with options; None for stock operations."""
        if metal_kernels is None or self.mode != "affine":
            return None
        if rows <= FEW_ROWS:
            return "rht_qmv", {}
        order = metal_kernels.rht_order(self.bits, self.group_size) if rows >= MANY_ROWS else None
        return None if order is None else ("rht_qmm", {"order": order})

    def __call__(self, x: mx.array) -> mx.array:
        """Return the product for `x` (..., K)."""
        kernel = self._kernel(x.size // x.shape[-1])
        if kernel is None:
            result: mx.array = super().__call__(butterfly(x))  # type: ignore[no-untyped-call]
            return result
        name, options = kernel
        arrays = (x, self["weight"], self["scales"], self["biases"])
        (product,) = launch(name, *arrays, bits=self.bits, group_size=self.group_size, **options)
        return product + self["bias"] if "bias" in self else product


def find(model: nn.Module, path: str) -> tuple[Any, Any]:
    """Return the parent of the module at `path` and the key it stands under."""
    module: Any = model
    *parts, name = path.split(".")
    for part in parts:
        module = module[int(part)] if isinstance(module, list) else module[part]
    return module, name


def rotate(model: nn.Module, spec: dict[str, Any]) -> nn.Module:
    """Make `model` rotate its activations as `spec` says; RotationError when it cannot be."""
    if spec.get("version") != VERSION:
        raise RotationError(
            f"version {spec.get('version')!r} of {KEY}, where this file knows {VERSION}"
        )
    if spec.get("digest") != spec_digest(spec):
        raise RotationError(
            f"a digest of {KEY} that does not match its sites and seed: this config.json was not "
            "written with these weights"
        )
    _check_kernels()
    for path in spec["norms"]:
        parent, name = find(model, path)
        parent[name] = RotatedRMSNorm(parent[name]["weight"], parent[name].eps)
    for path, activation in spec["gated"].items():
        parent, name = find(model, path)
        module = parent[name]
        if "activation" in module:
            module.activation = RotatedActivation()
        else:
            kind: Any = type(module)
            module.__class__ = rotated_feed_forward(kind, activation)
    for path in spec["layers"]:
        parent, name = find(model, path)
        key: Any = int(name) if isinstance(parent, list) else name
        layer_kind: Any = type(parent[key])
        parent[key].__class__ = rotated_layer(layer_kind)
    for path in spec["inputs"]:
        parent, name = find(model, path)
        parent[name].__class__ = RotatedLinear
    return model


def _check_kernels() -> None:
    """Run the kernels' self-tests now, not inside the first token; without Metal it is nothing."""
    for name in _DECODING if metal_kernels is not None else ():
        metal_kernels.self_test(getattr(metal_kernels, name))


@lru_cache
def formats_reader() -> Any:
    """Return the module that reads our number formats: the checkpoint's own, or the package's."""
    beside = Path(__file__).with_name(FORMATS_FILE)
    spec = importlib.util.spec_from_file_location("bitbudget_formats", beside)
    if not beside.is_file() or spec is None or spec.loader is None:
        return importlib.import_module("bitbudget.own_formats")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _rotation_of(module: nn.Module) -> Any:
    return butterfly if isinstance(module, RotatedLinear) else None


def model_classes(config: dict[str, Any]) -> tuple[Any, Any]:
    """Return what mlx-lm calls to make the model of `config`.

    It is rotated, and has modules in formats of our own, where the configuration says so.
    """
    stock = {key: value for key, value in config.items() if key not in _OURS}
    model_class, arguments_class = importlib.import_module("mlx_lm.utils")._get_classes(stock)  # noqa: SLF001 - there is no public way
    spec = config.get(KEY)
    own = "bitbudget.load:" in json.dumps(config.get("quantization") or {})
    if spec is None and not own:
        return model_class, arguments_class

    def make(arguments: Any) -> nn.Module:
        model: nn.Module = model_class(arguments)
        model = model if spec is None else rotate(model, spec)
        if own:
            formats_reader().prepare(model, config, _rotation_of)
        return model

    return make, arguments_class


_OURS = {KEY, "bitbudget_formats", "model_file"}
_CONFIG = Path(__file__).with_name("config.json")
if _CONFIG.is_file():
    Model, ModelArgs = model_classes(json.loads(_CONFIG.read_text(encoding="utf-8")))
