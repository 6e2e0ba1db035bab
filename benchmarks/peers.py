"""What others make of a model, each by its own code: run as a process by quality.py.

`python benchmarks/peers.py MODEL TEXT OUT METHOD...` writes OUT/METHOD for every method:
uniform:BITS:GROUP, recipe:NAME, dynamic:LOW:HIGH:BPW, gptq:BITS:GROUP:FALLBACK and
dwq:BITS:GROUP:RATE.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn, optimizers
from mlx_lm.convert import mixed_quant_predicate_builder
from mlx_lm.quant.dwq import dwq_quantize
from mlx_lm.quant.dynamic_quant import estimate_sensitivities, estimate_threshold
from mlx_lm.quant.gptq import gptq_quantize
from mlx_lm.utils import load_model, load_tokenizer, quantize_model, save

LENGTH = 256
SEQUENCES = 64


def main() -> None:
    """Make every method's checkpoint; a method that fails is reported and the others go on."""
    source, text, out = (Path(argument) for argument in sys.argv[1:4])
    tokenizer: Any = load_tokenizer(source)  # type: ignore[no-untyped-call]
    ids = tokenizer.encode(text.read_text().replace("<|endoftext|>", ""))
    rows = len(ids) // LENGTH
    data = mx.array(np.array(ids[: rows * LENGTH], np.int32).reshape(rows, LENGTH))
    for method in sys.argv[4:]:
        name, *options = method.split(":")
        model, config = load_model(source)
        try:
            quantized, quantized_config = METHODS[name](model, dict(config), data, options)
        except (ValueError, TypeError, RuntimeError, KeyError, AttributeError) as error:
            print(f"{method}: {type(error).__name__}: {error}", file=sys.stderr)
            continue
        save(out / method, str(source), quantized, tokenizer, quantized_config)
        print(method, flush=True)


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
    """`mlx_lm.dwq`: distil into scales and biases."""
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

    dwq_quantize(
        quantized,
        target,
        optimizers.Adam(learning_rate=rate, bias_correction=True),
        sequences[8:],
        sequences[:8],
        4,
        LENGTH,
        0,
        dtype=mx.float32,
    )
    quantized.set_dtype(mx.bfloat16)
    return quantized, config


METHODS: dict[str, Callable[..., Any]] = {
    "uniform": uniform,
    "recipe": recipe,
    "dynamic": dynamic,
    "gptq": gptq,
    "dwq": dwq,
}

if __name__ == "__main__":
    main()
