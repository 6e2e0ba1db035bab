"""Names of tensors under a prefix that the class does not expect.

transformers saves a GPT-2 under `transformer.`, a text model taken out of a multimodal one under
`language_model.`; some were saved without the `model.` that others have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten

from bitbudget.workers.models.sanitize import Sanitized

__all__ = ["with_fitting_names"]

Transform = Callable[[nn.Module, Mapping[str, mx.array]], Sanitized]

_PREFIXES: Final = (
    ("transformer.", ""),
    ("language_model.", ""),
    ("model.language_model.", "model."),
    ("", "model."),
    ("model.", ""),
)
"""What is replaced by what, tried in this order."""


def with_fitting_names(
    source: Mapping[str, mx.array], make: Callable[[], nn.Module], transform: Transform
) -> tuple[nn.Module, Sanitized]:
    """Return a model and `transform(model, source)`, under another prefix where only so names fit.

    `make` returns a new model for each trial: a class's `sanitize` may change it. Origins are told
    by the names in the files. Where no prefix fits, what the source gives as it is, or its error.
    """
    try:
        model = make()
        first = model, transform(model, source)
    except Exception:  # noqa: BLE001, a class may look for a name that is there under a prefix
        first = None
    if first is not None and _fits(*first):
        return first
    for old, new in _PREFIXES:
        names = dict(_renamed(source, old, new))
        if len(set(names.values())) < len(names) or all(k == v for k, v in names.items()):
            continue
        model = make()
        try:
            known = transform(model, {names[name]: array for name, array in source.items()})
        except Exception:  # noqa: BLE001, S112, the next prefix may fit
            continue
        if _fits(model, known):
            return model, _with_origins(known, {given: name for name, given in names.items()})
    if first is not None:
        return first
    model = make()
    return model, transform(model, source)


def _fits(model: nn.Module, known: Sanitized) -> bool:
    wanted: dict[str, mx.array] = dict(tree_flatten(model.parameters()))
    return known.weights.keys() == wanted.keys()


def _renamed(names: Iterable[str], old: str, new: str) -> Iterator[tuple[str, str]]:
    for name in names:
        stays = not name.startswith(old) or (not old and name.startswith("lm_head."))
        yield name, name if stays else new + name.removeprefix(old)


def _with_origins(known: Sanitized, back: Mapping[str, str]) -> Sanitized:
    origins = {
        name: None if origin is None else tuple(back[given] for given in origin)
        for name, origin in known.origins.items()
    }
    return Sanitized(known.weights, origins, known.stacked)
