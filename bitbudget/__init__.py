"""bitbudget: the best mixed-precision quantization that fits a memory budget, to the byte."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitbudget.distribution import installed_version

if TYPE_CHECKING:
    from bitbudget.app.core.errors import BitbudgetError
    from bitbudget.app.notebook.objects import Answer, Checkpoint, Measurement, measure

__all__ = [
    "Answer",
    "BitbudgetError",
    "Checkpoint",
    "Measurement",
    "__version__",
    "load",
    "load_model",
    "make_cache",
    "measure",
    "shared_noise",
]

_NOTEBOOK = ("Answer", "Checkpoint", "Measurement", "measure")

__version__: str
"""The installed version; `0` in a checkout that is not installed."""


def __getattr__(name: str) -> Any:
    """Look up what takes time to import, and the version, when they are asked for."""
    if name == "__version__":
        return installed_version()
    if name in _NOTEBOOK:
        return getattr(import_module("bitbudget.app.notebook.objects"), name)
    if name == "BitbudgetError":
        return import_module("bitbudget.app.core.errors").BitbudgetError
    raise AttributeError(name)


def load(path: str | Path) -> tuple[Any, Any]:
    """Return model and tokenizer of a checkpoint folder, rotated ones included; needs mlx-lm."""
    from bitbudget.loading import load as load_  # noqa: PLC0415 - the base install has no MLX

    return load_(Path(path))


def load_model(path: str | Path) -> tuple[Any, dict[str, Any]]:
    """Return model and configuration of a checkpoint folder; needs mlx-lm."""
    from bitbudget.loading import load_model as load_  # noqa: PLC0415 - as above

    return load_(Path(path))


def make_cache(model: Any, manifest: str | Path) -> list[Any]:
    """Return prompt caches for `model` as `manifest` chose them, layer by layer; needs mlx-lm."""
    from bitbudget.kv import cache, fitting  # noqa: PLC0415 - as above
    from bitbudget.kv.manifest import chosen_caches  # noqa: PLC0415 - as above

    chosen = chosen_caches(Path(manifest))
    fitting.check_fits(model, chosen)
    return cache.make_cache(model, chosen)


def shared_noise(
    temperature: float = 1.0,
    seed: int = 0,
    *,
    prompt_tokens: int = 0,
    top_p: float = 0.0,
    top_k: int = 0,
    min_p: float = 0.0,
) -> Callable[[Any, Any], Any]:
    """Return a logits processor with which speculative decoding accepts most drafted tokens.

    See `bitbudget.sampling`; needs mlx-lm.
    """
    from bitbudget.sampling import shared_noise as noise  # noqa: PLC0415 - as above

    return noise(
        temperature, seed, prompt_tokens=prompt_tokens, top_p=top_p, top_k=top_k, min_p=min_p
    )
