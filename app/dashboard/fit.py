"""The instant answer beside the form: what is known of a model before any work is done."""

from __future__ import annotations

from dataclasses import dataclass

from app.core.devices import device
from app.core.errors import BitbudgetError
from app.core.fit import fit
from app.core.sizes import format_size, parse_size
from app.measurements.schemas import Measurement
from app.services import Services

__all__ = ["Asked", "fit_words"]

_KNOWN_MODELS = 200
_DEFAULT_CONTEXT = 8192


@dataclass(frozen=True, slots=True)
class Asked:
    """The form as far as it is filled in."""

    model: str
    budget: str
    device: str
    context: str


def fit_words(services: Services, asked: Asked) -> dict[str, str]:
    """Return `words` and a `verdict`: fits, tight or unknown."""
    if not asked.model:
        return _answer("", "unknown")
    known = _measured(services, asked.model)
    if known is None:
        return _answer("Not measured here yet: a worker measures it first.", "unknown")
    try:
        if asked.budget:
            return _within(known, parse_size(asked.budget))
        if asked.device:
            return _on_device(services, known, asked)
    except BitbudgetError as error:
        return _answer(str(error), "tight")
    return _answer(f"Measured: any budget from {_span(known)} is answered at once.", "unknown")


def _span(known: Measurement) -> str:
    return f"{format_size(known.minimum_bytes)} to {format_size(known.source_bytes)}"


def _within(known: Measurement, nbytes: int) -> dict[str, str]:
    if nbytes < known.minimum_bytes:
        return _answer(f"Too small: this model takes {_span(known)}.", "tight")
    bits = 8 * min(nbytes, known.source_bytes) / known.weights
    return _answer(f"Fits: about {bits:.2f} bits per weight, answered at once.", "fits")


def _on_device(services: Services, known: Measurement, asked: Asked) -> dict[str, str]:
    inventory = services.measurements.library.get(known.id).inventory
    context = int(asked.context) if asked.context.isdecimal() else _DEFAULT_CONTEXT
    most = inventory.architecture.max_context or context
    report = fit(inventory, device(asked.device), min(context, most))
    room = f"{format_size(report.weights_limit_bytes)} for weights at {report.context:,} tokens"
    if not report.smallest.fits:
        return _answer(f"Does not fit: {room}, this model takes {_span(known)}.", "tight")
    if report.now.fits:
        return _answer(f"Fits unquantized: {room}.", "fits")
    best = report.best_uniform
    rival = "" if best is None else f"; the best uniform format that fits is {best.name}"
    return _answer(f"Fits: {room}{rival}.", "fits")


def _answer(words: str, verdict: str) -> dict[str, str]:
    return {"words": words, "verdict": verdict}


def _measured(services: Services, name: str) -> Measurement | None:
    for model in services.models.page(None, _KNOWN_MODELS).items:
        if model.measurements and name in (model.name, *model.names):
            return services.measurements.get(model.measurements[0].id)
    return None
