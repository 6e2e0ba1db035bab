"""The instant answer beside the form: what is known of a model before any work is done."""

from __future__ import annotations

from typing import Any

from app.core.errors import BitbudgetError
from app.core.sizes import format_size, parse_size
from app.measurements.schemas import Measurement
from app.services import Services

__all__ = ["fit_words"]

_KNOWN_MODELS = 200


def fit_words(services: Services, model: str, budget: str) -> dict[str, Any]:
    """Return `words` and a `verdict`: fits, tight or unknown."""
    if not model:
        return _answer("", "unknown")
    known = _measured(services, model)
    if known is None:
        return _answer("Not measured here yet: a worker measures it first.", "unknown")
    span = f"{format_size(known.minimum_bytes)} to {format_size(known.source_bytes)}"
    if not budget:
        return _answer(f"Measured: any budget from {span} is answered at once.", "unknown")
    try:
        nbytes = parse_size(budget)
    except BitbudgetError as error:
        return _answer(str(error), "tight")
    if nbytes < known.minimum_bytes:
        return _answer(f"Too small: this model takes {span}.", "tight")
    bits = 8 * min(nbytes, known.source_bytes) / known.weights
    return _answer(f"Fits: about {bits:.2f} bits per weight, answered at once.", "fits")


def _answer(words: str, verdict: str) -> dict[str, str]:
    return {"words": words, "verdict": verdict}


def _measured(services: Services, name: str) -> Measurement | None:
    for model in services.models.page(None, _KNOWN_MODELS).items:
        if model.measurements and name in (model.name, *model.names):
            return services.measurements.get(model.measurements[0].id)
    return None
