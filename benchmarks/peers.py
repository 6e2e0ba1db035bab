"""What others make of a model, each by its own code: run as a process by quality.py.

`python -m benchmarks.peers MODEL TEXT OUT METHOD...` writes OUT/METHOD for every method:
uniform:BITS:GROUP, recipe:NAME, dynamic:LOW:HIGH:BPW, gptq:BITS:GROUP:FALLBACK,
awq:BITS:GROUP:EMBEDDING_BITS:EMBEDDING_GROUP, dwq:BITS:GROUP:RATE and, by programs of their own
environments, optiq:BITS,BITS:BPW (`--optiq`) and autoround:BITS,BITS:BPW (`--autoround`).
A method that fails leaves OUT/METHOD.error.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn, optimizers
from mlx_lm.convert import mixed_quant_predicate_builder
from mlx_lm.models.switch_layers import QuantizedSwitchLinear
from mlx_lm.quant.awq import AWQ_MODEL_CONFIGS, awq_quantize, update_config
from mlx_lm.quant.dwq import dwq_quantize
from mlx_lm.quant.dynamic_quant import estimate_sensitivities, estimate_threshold
from mlx_lm.quant.gptq import gptq_quantize
from mlx_lm.utils import load_model, load_tokenizer, quantize_model, save

from benchmarks.peer_programs import PROGRAMS, add_program_options

LENGTH = 256
SEQUENCES = 64
AWQ_SEQUENCES = 16
"""Each is run eighty times a layer: all of them would take an hour of a small real model."""
STEPS = 120
"""Steps of DWQ, batches of four; the calibration text is repeated where it is shorter."""


def main() -> None:
    """Make every method's checkpoint; a method that fails is reported and the others go on."""
    options = _options()
    tokenizer: Any = load_tokenizer(options.model)  # type: ignore[no-untyped-call]
    ids = tokenizer.encode(options.text.read_text().replace("<|endoftext|>", ""))
    rows = len(ids) // LENGTH
    data = mx.array(np.array(ids[: rows * LENGTH], np.int32).reshape(rows, LENGTH))
    options.out.mkdir(parents=True, exist_ok=True)
    for method in options.methods:
        name, *parts = method.split(":")
        if name in PROGRAMS:
            parts += [str(getattr(options, name)), str(options.model), str(options.text)]
        model, config = load_model(options.model)
        try:
            quantized, quantized_config = METHODS[name](model, dict(config), data, parts)
        except (ValueError, TypeError, RuntimeError, KeyError, AttributeError, OSError) as error:
            message = f"{type(error).__name__}: {error}"
            (options.out / f"{method}.error").write_text(message + "\n")
            print(f"{method}: {message}", file=sys.stderr)
            continue
        draft = options.out / f"{method}.part"
        save(draft, str(options.model), quantized, tokenizer, quantized_config)
        draft.rename(options.out / method)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("methods", nargs="+")
    add_program_options(parser)
    return parser.parse_args()


def uniform(model: nn.Module, config: dict[str, Any], _: mx.array, options: list[str]) -> Any:
    """`mlx_lm.convert -q`."""
    bits, group = map(int, options)
    return quantize_model(model, config, group_size=group, bits=bits)


def recipe(model: nn.Module, config: dict[str, Any], _: mx.array, options: list[str]) -> Any:
    """`mlx_lm.convert -q --quant-predicate`."""
    predicate: Any = mixed_quant_predicate_builder(options[0], model)
    return quantize_model(model, config, group_size=64, bits=4, quant_predicate=predicate)


def dynamic(model: nn.Module, config: dict[str, Any], data: mx.array, options: list[str]) -> Any:
    """`mlx_lm.dynamic_quant` with its sensitivities of our calibration text."""
    low, high, bits_per_weight = int(options[0]), int(options[1]), float(options[2])
    single = copy.deepcopy(model)
    single.set_dtype(mx.float32)
    found = dict(estimate_sensitivities(single, data[:SEQUENCES], low, 64, high, 64))
    threshold: float = estimate_threshold(  # type: ignore[no-untyped-call]
        model, found, bits_per_weight, low, 64, high, 64
    )

    def predicate(path: str, module: nn.Module) -> bool | dict[str, int]:
        if not hasattr(module, "to_quantized"):
            return False
        return {"bits": high, "group_size": 64} if found[path] > threshold else True

    return quantize_model(model, config, group_size=64, bits=low, quant_predicate=predicate)


def gptq(model: nn.Module, config: dict[str, Any], data: mx.array, options: list[str]) -> Any:
    """`mlx_lm.gptq`: one width for linear layers, another for the embedding."""
    bits, group, fallback = map(int, options)
    model.set_dtype(mx.float32)
    quantized, quantization = gptq_quantize(  # type: ignore[no-untyped-call]
        model, data[:SEQUENCES], bits, group, fallback, group
    )
    quantized.set_dtype(mx.bfloat16)
    config["quantization"] = quantization
    return quantized, config


def dwq(model: nn.Module, config: dict[str, Any], data: mx.array, options: list[str]) -> Any:
    """`mlx_lm.dwq`: distil into scales and biases, through dequantized weights (faster here)."""
    bits, group, rate = int(options[0]), int(options[1]), float(options[2])
    teacher = copy.deepcopy(model)
    teacher.set_dtype(mx.float32)
    quantized, config = quantize_model(model, config, group_size=group, bits=bits)
    quantized.set_dtype(mx.float32)
    sequences = [(row, 0) for row in np.array(data).tolist()]

    def target(batch: mx.array, _: int, split: str) -> mx.array:
        del split
        logits: mx.array = teacher(batch)
        return logits

    _compute_dequantized()
    dwq_quantize(
        quantized,
        target,
        optimizers.Adam(learning_rate=rate, bias_correction=True),
        (sequences[8:] * STEPS)[: 4 * STEPS],
        sequences[:8],
        4,
        LENGTH,
        0,
        dtype=mx.float32,
    )
    quantized.set_dtype(mx.bfloat16)
    return quantized, config


def awq(model: nn.Module, config: dict[str, Any], data: mx.array, options: list[str]) -> Any:
    """`mlx_lm.awq`: scales and clips by layer; KeyError for a type of model it does not know."""
    bits, group, embedding_bits, embedding_group = map(int, options)
    known = AWQ_MODEL_CONFIGS[config["model_type"]]
    model.set_dtype(mx.float32)
    _compute_dequantized()
    awq_quantize(
        model,
        data[:AWQ_SEQUENCES],
        known,
        bits=bits,
        group_size=group,
        embed_bits=embedding_bits,
        embed_group_size=embedding_group,
    )
    model.set_dtype(mx.bfloat16)
    return model, update_config(model, config)


def _compute_dequantized() -> None:
    """Let quantized modules multiply with their dequantized weight: the same numbers, by BLAS."""

    def weight(module: Any) -> mx.array:
        return mx.dequantize(
            module.weight, module.scales, module.biases, module.group_size, module.bits
        )

    def route(module: Any, x: mx.array, indices: mx.array, *, sorted_indices: bool = False) -> Any:
        matrix = weight(module).swapaxes(-1, -2)
        return mx.gather_mm(x, matrix, rhs_indices=indices, sorted_indices=sorted_indices)

    for kind, name, call in (
        (nn.QuantizedLinear, "__call__", lambda module, x: x @ weight(module).T),
        (nn.QuantizedEmbedding, "as_linear", lambda module, x: x @ weight(module).T),
        (nn.QuantizedEmbedding, "__call__", lambda module, ids: weight(module)[ids]),
        (QuantizedSwitchLinear, "__call__", route),
    ):
        setattr(kind, name, call)


METHODS: dict[str, Callable[..., Any]] = {
    "uniform": uniform,
    "recipe": recipe,
    "dynamic": dynamic,
    "awq": awq,
    "gptq": gptq,
    "dwq": dwq,
    **PROGRAMS,
}

if __name__ == "__main__":
    main()
