"""Peers that are programs of their own environments: mlx-optiq and auto-round."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx_lm.utils import load_model, quantize_model

__all__ = ["PROGRAMS", "add_program_options", "program_arguments"]

_SAMPLE_CHARACTERS = 2500
"""Stories are joined up to this length: auto-round drops texts shorter than its 256 tokens."""


def optiq(model: nn.Module, config: dict[str, Any], _: mx.array, options: list[str]) -> Any:
    """`optiq convert`: its widths, found on a float32 copy (bfloat16 is too slow on this CPU)."""
    bits, bits_per_weight, program, source, _text = options
    with tempfile.TemporaryDirectory() as folder:
        single, found = Path(folder) / "single", Path(folder) / "found"
        _float32_copy(Path(source), single)
        command = [program, "convert", str(single), "--target-bpw", bits_per_weight]
        command += ["--candidate-bits", bits, "--n-calibration", "6", "--skip-baselines"]
        _run([*command, "-o", str(found)])
        chosen = json.loads(next(found.rglob("config.json")).read_text())["quantization"]

    def predicate(path: str, module: nn.Module) -> Any:
        if not hasattr(module, "to_quantized"):
            return False
        wanted = chosen.get(path, chosen)
        return {key: wanted[key] for key in ("bits", "group_size")}

    return quantize_model(model, config, group_size=64, bits=4, quant_predicate=predicate)


def _run(command: list[str], env: dict[str, str] | None = None) -> None:
    """Run a program, its output to standard error; RuntimeError says its last line if it fails."""
    done = subprocess.run(command, check=False, stdout=sys.stderr, stderr=subprocess.PIPE, env=env)
    said = done.stderr.decode(errors="replace")
    sys.stderr.write(said)
    if done.returncode:
        last = said.strip().splitlines()[-1:] or [f"ended with {done.returncode}"]
        raise RuntimeError(f"{Path(command[0]).name}: {last[0]}")


def _float32_copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target)
    for file in target.glob("*.safetensors"):
        arrays: Any = mx.load(str(file))
        wide = {name: array.astype(mx.float32) for name, array in arrays.items()}
        mx.save_safetensors(str(file), wide, metadata={"format": "mlx"})
    path = target / "config.json"
    config = json.loads(path.read_text()) | {"torch_dtype": "float32", "dtype": "float32"}
    path.write_text(json.dumps(config))


def autoround(_model: nn.Module, _config: dict[str, Any], _: mx.array, options: list[str]) -> Any:
    """`auto-round` with AutoScheme in MLX's format, tuned on the text; it keeps the embedding."""
    bits, bits_per_weight, program, source, text = options
    with tempfile.TemporaryDirectory() as folder:
        samples, found = Path(folder) / "samples.json", Path(folder) / "found"
        samples.write_text(json.dumps([{"text": part} for part in _samples(Path(text))]))
        command = [program, "quantize", "--model", source, "--format", "mlx", "--device", "cpu"]
        command += ["--schemes", *(f"W{width}A16" for width in bits.split(","))]
        command += ["--bits", bits_per_weight, "--group_size", "64", "--asym"]
        command += ["--dataset", str(samples), "--nsamples", "32", "--seqlen", "256"]
        command += ["--batch_size", "4", "--disable_torch_compile", "--output_dir", str(found)]
        offline = os.environ | {"HF_HUB_OFFLINE": "1"}
        offline.pop("LD_PRELOAD", None)
        _run(command, env=offline)
        made = next(found.rglob("config.json")).parent
        quantized, config = load_model(made)
        mx.eval(quantized.parameters())
    return quantized, config


def _samples(text: Path) -> list[str]:
    samples, joined = [], ""
    for story in text.read_text().split("<|endoftext|>"):
        joined += story.strip() + "\n"
        if len(joined) > _SAMPLE_CHARACTERS:
            samples.append(joined)
            joined = ""
    return samples


PROGRAMS: dict[str, Callable[..., Any]] = {"optiq": optiq, "autoround": autoround}


def add_program_options(parser: argparse.ArgumentParser) -> None:
    """Let the user say where each program is."""
    for name in PROGRAMS:
        parser.add_argument(f"--{name}", type=Path, help="the program, of its own environment")


def program_arguments(options: argparse.Namespace) -> list[str]:
    """Return the same options for another command, those that were given."""
    given = {name: getattr(options, name) for name in PROGRAMS}
    return [part for name, path in given.items() if path for part in (f"--{name}", str(path))]
