"""Loading checkpoints through mlx-lm, those with our rotations and number formats included."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import mlx.core as mx

from bitbudget import own_formats, rotated_model
from bitbudget.app.core.errors import InvalidModelError
from bitbudget.kv.cache import make_cache
from bitbudget.kv.fitting import check_fits
from bitbudget.kv.manifest import MANIFEST_NAME, chosen_caches
from bitbudget.own_formats import FormatError
from bitbudget.rotated_model import RotationError

__all__ = ["load", "load_model", "make_runnable", "model_classes"]


def model_classes(config: dict[str, Any]) -> tuple[Any, Any]:
    """As `rotated_model.model_classes`.

    InvalidModelError for a rotation that cannot be applied, and for formats that are not known.
    """
    make, arguments_class = rotated_model.model_classes(config)

    def checked(arguments: Any) -> Any:
        try:
            return make(arguments)
        except RotationError as error:
            raise InvalidModelError(
                where=f"config.json: {rotated_model.KEY}",
                found=str(error),
                expected="the rotation that was written with these weights",
                remedy="restore config.json, or quantize the model again",
            ) from error
        except FormatError as error:
            raise InvalidModelError(
                where=f"config.json: {own_formats.KEY}",
                found=str(error),
                expected="formats that this version of bitbudget reads",
                remedy="install a newer bitbudget, or restore config.json",
            ) from error

    return checked, arguments_class


def load_model(path: Path) -> tuple[Any, dict[str, Any]]:
    """Return the model of a local checkpoint folder, evaluated, and its configuration.

    Where the folder's manifest chose a format for each layer's KV cache, every prompt cache that
    mlx-lm makes for the model has them. On a CPU a model with dense stacked experts runs in
    float32: MLX has no other gather there.

    InvalidModelError for a manifest of KV formats that the model cannot have.
    """
    utilities = importlib.import_module("mlx_lm.utils")
    model, config = utilities.load_model(
        path, lazy=True, model_config={"model_file": None}, get_model_classes=model_classes
    )
    make_runnable(model)
    chosen = chosen_caches(path / MANIFEST_NAME)
    if chosen.codecs:
        check_fits(model, chosen)
        model.make_cache = lambda: make_cache(model, chosen)
    return model, config


def make_runnable(model: Any) -> Any:
    """Read a model's weights and return it: in float32 where a CPU has no other gather for it."""
    if not mx.metal.is_available() and _has_dense_experts(model):
        model.set_dtype(mx.float32)
    mx.eval(model.parameters())
    return model


def _has_dense_experts(model: Any) -> bool:
    return any(type(module).__name__ == "SwitchLinear" for module in model.modules())


def load(path: Path) -> tuple[Any, Any]:
    """Return model and tokenizer of a local checkpoint folder."""
    model, config = load_model(path)
    utilities = importlib.import_module("mlx_lm.utils")
    return model, utilities.load_tokenizer(path, eos_token_ids=config.get("eos_token_id"))
