"""The instant answer beside the form: what is known of a model before any work is done."""

from __future__ import annotations

from dataclasses import dataclass

from bitbudget.app.contract.estimate import effort_times
from bitbudget.app.core.allocate import smallest_bytes
from bitbudget.app.core.candidates import Rules
from bitbudget.app.core.devices import device
from bitbudget.app.core.duration import duration_words
from bitbudget.app.core.errors import BitbudgetError
from bitbudget.app.core.fit_report import fit
from bitbudget.app.core.formats import parse_format
from bitbudget.app.core.inventory import Inventory
from bitbudget.app.core.least import kept_bytes, least_bytes
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.core.runtime import Runtime
from bitbudget.app.core.sizes import format_size, parse_size
from bitbudget.app.dashboard.sources import Sources
from bitbudget.app.http.errors import UntoldModelError

__all__ = ["Asked", "fit_words"]

_DEFAULT_CONTEXT = 8192
_MOST_DIGITS = 9


@dataclass(frozen=True, slots=True)
class Asked:
    """The form as far as it is filled in; a name is settled once the reader has left its field."""

    model: str
    budget: str
    device: str
    context: str
    formats: str = ""
    kv_bits: int = 16
    runtime: Runtime = Runtime.STOCK
    is_settled: bool = False

    @property
    def rules(self) -> Rules:
        """What the form says of candidates; InvalidRequestError for a name that is no format."""
        names = [name.strip() for name in self.formats.split(",") if name.strip()]
        formats = tuple(map(parse_format, names)) if names else None
        return Rules(formats=formats, runtime=self.runtime)


@dataclass(frozen=True, slots=True)
class _Known:
    """What the model is made of, and its curves where they are stored."""

    inventory: Inventory
    rules: Rules
    measurement: Measurement | None = None
    times: str = ""
    """How long each effort takes, in words, where curves are not stored."""

    @property
    def is_measured(self) -> bool:
        return self.measurement is not None

    @property
    def least(self) -> int:
        """Bytes of the smallest files: what the curves allow, else what is expected of them."""
        if self.measurement is not None:
            return smallest_bytes(self.measurement, self.rules)
        return least_bytes(self.inventory, self.rules)

    @property
    def then(self) -> str:
        return "answered at once" if self.is_measured else f"measured first ({self.times})"

    @property
    def span(self) -> str:
        return f"{format_size(self.least)} to {format_size(kept_bytes(self.inventory))}"


def fit_words(sources: Sources, asked: Asked) -> dict[str, str]:
    """Return `words` and a `verdict`: fits, tight, unknown, or waiting for a settled name."""
    if not asked.model:
        return _answer("", "unknown")
    try:
        known = _find(sources, asked)
        if known is None:
            return _unmet(sources)
        if asked.budget:
            return _within(known, parse_size(asked.budget))
        if asked.device:
            return _on_device(known, asked)
    except BitbudgetError as error:
        return _answer(str(error), "unknown" if isinstance(error, UntoldModelError) else "tight")
    measured = "Measured" if known.is_measured else "Not measured here yet"
    return _answer(f"{measured}: any budget from {known.span} is {known.then}.", "unknown")


def _find(sources: Sources, asked: Asked) -> _Known | None:
    model = sources.models.find(asked.model)
    if model is not None and model.measurements:
        stored = sources.measurements.library.get(model.measurements[0].id)
        return _Known(stored.inventory, asked.rules, stored)
    if asked.is_settled and sources.fit.headers.can_read:
        return _new(sources, asked, sources.fit.inventory(asked.model))
    met = sources.models.inventory(asked.model)
    return None if met is None else _new(sources, asked, met)


def _new(sources: Sources, asked: Asked, inventory: Inventory) -> _Known:
    timed_on, speed = sources.fit.speed()
    times = ", ".join(
        f"{time.effort} {duration_words(time.manifest_seconds)}"
        for time in effort_times(inventory.weights, speed)
    )
    return _Known(inventory, asked.rules, times=f"{times} on {timed_on}")


def _unmet(sources: Sources) -> dict[str, str]:
    if sources.fit.headers.can_read:
        return _answer("New here: its headers are read once its name is complete.", "waiting")
    return _answer("Not measured here yet: a worker measures it first.", "unknown")


def _within(known: _Known, nbytes: int) -> dict[str, str]:
    if nbytes < known.least:
        return _answer(f"Too small: this model takes {known.span}.", "tight")
    most = kept_bytes(known.inventory)
    if nbytes >= most:
        return _answer(f"Fits unquantized: the files take {format_size(most)}.", "fits")
    bits = 8 * nbytes / known.inventory.weights
    return _answer(f"Fits: about {bits:.2f} bits per weight, {known.then}.", "fits")


def _on_device(known: _Known, asked: Asked) -> dict[str, str]:
    inventory = known.inventory
    is_number = asked.context.isdecimal() and len(asked.context) <= _MOST_DIGITS
    context = int(asked.context) if is_number else _DEFAULT_CONTEXT
    most = inventory.architecture.max_context or context
    tokens = min(context, most)
    report = fit(inventory, device(asked.device), tokens, asked.kv_bits, asked.runtime)
    room = f"{format_size(report.weights_limit_bytes)} for weights at {report.context:,} tokens"
    if report.weights_limit_bytes < known.least:
        return _answer(f"Does not fit: {room}, this model takes {known.span}.", "tight")
    if report.now.fits:
        return _answer(f"Fits unquantized: {room}.", "fits")
    best = report.best_uniform
    rival = "" if best is None else f"; the best uniform format that fits is {best.name}"
    return _answer(f"Fits: {room}{rival}; {known.then}.", "fits")


def _answer(words: str, verdict: str) -> dict[str, str]:
    return {"words": words, "verdict": verdict}
