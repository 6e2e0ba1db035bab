"""One prompt continued by an original and by a checkpoint, each with its speed and memory."""

from __future__ import annotations

import importlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
import psutil
from mlx import nn

from bitbudget.app.contract.durations import decoding_s
from bitbudget.app.contract.messages import storable_text
from bitbudget.app.contract.texts import TextComparison, WrittenText
from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.decode import DECODE_EFFICIENCY, decoded_weights
from bitbudget.app.core.errors import InvalidModelError, InvalidRequestError
from bitbudget.app.core.inventory import Inventory
from bitbudget.app.core.kv import running_bytes
from bitbudget.app.core.machine_speed import MachineSpeed
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.runtime import Runtime
from bitbudget.app.core.sizes import format_size
from bitbudget.loading import load_model, make_runnable
from bitbudget.workers.benchmark.machine import measure_bandwidth
from bitbudget.workers.benchmark.prediction import MANIFEST
from bitbudget.workers.benchmark.roofline import bytes_per_token
from bitbudget.workers.models import Checkpoint
from bitbudget.workers.models.given import read_manifest
from bitbudget.workers.models.tokenizer import open_tokenizer

__all__ = ["compare_texts"]

_USABLE: Final = 0.7
"""Share of the memory that weights may take, so that the machine stays usable."""


@dataclass(frozen=True, slots=True)
class _Writer:
    """A model that is loaded, and what is expected of it."""

    model: nn.Module
    config: JsonObject
    tokenizer: Any
    weight_bytes: int
    running_bytes: int
    bandwidth: float
    arithmetic_s: float

    def write(self, prompt: Sequence[int], tokens: int) -> tuple[list[int], WrittenText]:
        """Return at most `tokens` tokens, the likeliest each time, and how they were written."""
        mx.reset_peak_memory()
        cache = importlib.import_module("mlx_lm.models.cache").make_prompt_cache(self.model)
        began = time.perf_counter()
        steps = importlib.import_module("mlx_lm.generate").generate_step(
            mx.array(list(prompt)), self.model, max_tokens=tokens, prompt_cache=cache
        )
        ends = self.tokenizer.eos_token_ids
        written: list[int] = []
        first = began
        for token, _ in steps:
            first = time.perf_counter() if not written else first
            if int(token) in ends:
                break
            written.append(int(token))
        decoded = time.perf_counter() - first
        read = bytes_per_token(self.model, self.config, cache).total
        return written, WrittenText(
            text=storable_text(self.tokenizer.decode(written)),
            tokens=len(written),
            seconds_to_first_token=first - began,
            tokens_per_second=(len(written) - 1) / decoded if len(written) > 1 else None,
            predicted_tokens_per_second=1
            / max(read / (DECODE_EFFICIENCY * self.bandwidth), self.arithmetic_s),
            weight_bytes=self.weight_bytes,
            peak_memory_bytes=mx.get_peak_memory(),
            predicted_memory_bytes=self.weight_bytes + self.running_bytes,
        )


def compare_texts(
    original: Checkpoint,
    inventory: Inventory,
    folder: Path,
    prompt: str,
    tokens: int,
    *,
    speed: MachineSpeed,
    memory_bytes: int | None = None,
) -> TextComparison:
    """Let `original`, then the checkpoint in `folder`, continue `prompt` greedily.

    A chat template of the original's wraps the prompt, as `mlx_lm.generate` does. One model is in
    memory at a time; an original too large for `memory_bytes`, by default this machine's, is left
    out. `speed` is this machine's, which bounds what is predicted of a CPU.

    Raises InvalidModelError for a folder that holds no checkpoint, InvalidRequestError for a prompt
    that the model's context has no room for.
    """
    manifest = _manifest(folder)
    tokenizer = open_tokenizer(original.folder)
    ids = _encoded(tokenizer, prompt, tokens, inventory.architecture.max_context)
    bandwidth = measure_bandwidth()
    expected = running_bytes(inventory, len(ids) + tokens, {}, Runtime.STOCK)
    size = sum(file.nbytes for file in original.files)
    left_out = _too_large(size + sum(expected), memory_bytes or psutil.virtual_memory().total)
    first = None
    if not left_out:
        model = make_runnable(original.model(as_stored=True))
        arithmetic = _arithmetic_s(inventory, speed, is_packed=False)
        writer = _Writer(
            model, original.config, tokenizer, size, sum(expected), bandwidth, arithmetic
        )
        first = writer.write(ids, tokens)
        del model, writer
        mx.clear_cache()
    if manifest is not None:
        formats, runtime = manifest.kv_formats, manifest.request.runtime
        expected = running_bytes(inventory, len(ids) + tokens, formats, runtime)
    loaded, config = load_model(folder)
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    arithmetic = _arithmetic_s(inventory, speed, is_packed="quantization" in config)
    writer = _Writer(loaded, config, tokenizer, size, sum(expected), bandwidth, arithmetic)
    second = writer.write(ids, tokens)
    return TextComparison(
        prompt=prompt,
        prompt_tokens=len(ids),
        original=None if first is None else first[1],
        left_out=left_out,
        result=second[1],
        same_tokens=0 if first is None else _same(first[0], second[0]),
        bandwidth_bytes_per_second=bandwidth,
        on_gpu=mx.metal.is_available(),
    )


def _arithmetic_s(inventory: Inventory, speed: MachineSpeed, *, is_packed: bool) -> float:
    """Return what a token's arithmetic takes where that bounds decoding: on a CPU, not a GPU."""
    if speed.on_gpu:
        return 0.0
    weights, layers = decoded_weights(inventory), inventory.architecture.layers
    return decoding_s(weights, layers, speed, is_packed=is_packed)


def _manifest(folder: Path) -> Manifest | None:
    """Return the checkpoint's manifest, None for one that other software made."""
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise InvalidModelError(
            where=str(folder),
            found="no config.json with safetensors files",
            expected="a checkpoint's folder",
            remedy="give a folder that bitbudget quantize or mlx_lm.convert wrote",
        )
    path = folder / MANIFEST
    return read_manifest(path) if path.is_file() else None


def _encoded(tokenizer: Any, prompt: str, tokens: int, most: int) -> list[int]:
    if getattr(tokenizer, "chat_template", None):
        messages = [{"role": "user", "content": prompt}]
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    else:
        ids = tokenizer.encode(prompt)
    if not ids or (most and len(ids) + tokens > most):
        raise InvalidRequestError(
            where="prompt",
            found=f"{len(ids)} tokens, and {tokens} to write",
            expected=f"at least one, and at most the model's {most} together",
            remedy="give a shorter prompt, or ask for fewer tokens",
        )
    return list(ids)


def _too_large(nbytes: int, memory: int) -> str:
    """Return why an original of `nbytes` is left out, "" where it fits."""
    if nbytes <= _USABLE * memory:
        return ""
    return (
        f"The original takes {format_size(nbytes)}; this machine has {format_size(memory)} of"
        f" memory, of which {_USABLE:.0%} may be used."
    )


def _same(first: Sequence[int], second: Sequence[int]) -> int:
    pairs = zip(first, second, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
