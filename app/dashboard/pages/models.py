"""The models that were measured, and one of them with its budget on a slider."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlencode

from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.inventory import Module, ModuleKind
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.core.memory import KV_BITS
from bitbudget.app.core.runtime import Runtime
from bitbudget.app.core.sensitivity import Objective
from bitbudget.app.core.sizes import format_size
from bitbudget.app.dashboard import formatting as words
from bitbudget.app.dashboard.figures.frontier import Point, thinned
from bitbudget.app.dashboard.figures.parts import Bar
from bitbudget.app.dashboard.figures.tensor import Tensor, tensor
from bitbudget.app.dashboard.figures.verification import verification_figure
from bitbudget.app.dashboard.pages.answer import Solved, answer_figures
from bitbudget.app.dashboard.pages.jobs import device_options
from bitbudget.app.dashboard.pages.mac import OWN_TYPE, Caches, MacCard
from bitbudget.app.dashboard.pages.tiles import Tile, answer_tiles
from bitbudget.app.dashboard.taking import Taking
from bitbudget.app.http.pages import Page
from bitbudget.app.models.schemas import Model

__all__ = ["WhatIf", "model_page", "models_page"]


def models_page(models: Page[Model]) -> JsonObject:
    """Return the list of models that have a measurement."""
    following = models.next_cursor
    lines = [
        {
            "digest": model.id,
            "name": words.name_of(model.name),
            "model_type": model.model_type,
            "weights": model.weights,
            "measured": ", ".join(_measured(model)),
        }
        for model in models.items
        if model.measurements or model.unreadable
    ]
    return {
        "title": "Models",
        "section": "Models",
        "twin": "/models.json",
        "models": lines,
        "next": None if following is None else f"/models?{urlencode({'cursor': following})}",
    }


def _measured(model: Model) -> Iterator[str]:
    for summary in model.measurements:
        yield f"{summary.effort}/{summary.encoder}/{summary.sensitivity}"
    if model.unreadable:
        yield f"{len(model.unreadable)} not readable by this version of the server"


@dataclass(frozen=True, slots=True)
class WhatIf:
    """The address of a model's page: which measurement, budget and module it shows."""

    digest: str
    measurement: str
    budget: int
    module: str
    device: str = ""
    context: int | None = None
    caches: Caches = OWN_TYPE

    def moved(self, budget: int, context: int) -> str:
        """Return the page's address at another budget and context on the same device."""
        return replace(self, budget=budget, context=context).address()

    def address(self, *, module: str | None = None, suffix: str = "") -> str:
        """Return the page's address, or that of its twin or of a figure's CSV."""
        query = {
            "measurement": self.measurement,
            "budget": str(self.budget),
            "module": self.module if module is None else module,
        }
        if self.device:
            query |= {"device": self.device, "context": str(self.context or "")}
            query |= {"kv_bits": str(self.caches.kv_bits), "runtime": self.caches.runtime.value}
        return f"/models/{self.digest}{suffix}?{urlencode(query)}"


def model_page(
    measurement: Measurement,
    line: Sequence[Point],
    at: WhatIf,
    solved: Solved | None,
    memory: Bar | None = None,
    *,
    text: Taking | None = None,
    cards: Sequence[MacCard] = (),
    mine: str | None = None,
    error: str = "",
    source: str = "",
) -> JsonObject:
    """Return a model's page at one budget; without `solved`, `error` says why.

    `source` is where the measurement came from if it was not made here.
    """
    page: JsonObject = {
        "title": words.name_of(measurement.model.name),
        "section": "Models",
        "twin": at.address(suffix=".json"),
        "model": _head(measurement),
        "source": source,
        "export": f"/v1/measurements/{measurement.key}/export",
        "slider": _slider(line, at.budget, solved, measurement.objective),
        "measurement_choice": measurement.key,
        "chosen": at.module,
        "csv": lambda name: at.address(suffix=f"/{name}.csv"),
        "cell_link": lambda path: at.address(module=path),
        "error": error,
        "answer": None,
        "memory": memory,
        "devices": device_options(),
        "taking": text,
        "mine": mine,
        "cards": list(cards),
        "manifest": at.address(suffix="/manifest"),
        "guide": f"/models/{at.digest}/guide?{urlencode({'measurement': at.measurement})}",
        "at": at,
        "device": at.device,
        "context": at.context,
        "kv_bits": str(at.caches.kv_bits),
        "runtime": at.caches.runtime.value,
        "choices": {"kv_bits": [str(bits) for bits in KV_BITS], "runtime": [*map(str, Runtime)]},
        "compare": f"/compare?{urlencode({'allocations': f'{measurement.key}@{at.budget}'})}",
        "tensor": None,
        "tensor_words": "",
        "tensor_tiles": [],
        "verification": verification_figure(measurement),
    }
    if solved is not None:
        page |= answer_figures(solved)
        page["answer"] = {"tiles": answer_tiles(solved.manifest)}
        page |= _tensor(solved, at.module)
    return page


def _tensor(solved: Solved, path: str) -> JsonObject:
    choice = solved.manifest.modules.get(path)
    if choice is None:
        return {}
    module = solved.measurement.inventory.module(path)
    shown = tensor(
        module,
        solved.measurement.curve(path),
        choice.format,
        shadow_price_nats_per_byte=solved.manifest.certificate.shadow_price_nats_per_byte,
        sqnr_floor_db=solved.manifest.request.sqnr_floor_db,
        objective=solved.measurement.objective,
    )
    unit = solved.measurement.objective.unit
    tiles = _tensor_tiles(shown, choice.bytes, choice.kl_nats, unit)
    return {"tensor": shown, "tensor_words": _tensor_words(module), "tensor_tiles": tiles}


def _tensor_words(module: Module) -> str:
    """Return what a module does, and how many experts lie in it."""
    said = words.role_words(module.path)
    if module.kind is not ModuleKind.SWITCH_LINEAR:
        return said
    used = (
        f", of which a token reads {module.experts_per_token}" if module.experts_per_token else ""
    )
    return f"{said} {module.shape[0]} experts in one format{used}.".lstrip()


def _tensor_tiles(shown: Tensor, nbytes: int, cost: float, unit: str) -> list[Tile]:
    shape = " x ".join(str(size) for size in shown.shape)
    return [
        Tile(
            "Stored as",
            words.short(shown.format),
            note=f"{words.format_words(shown.format)}; {nbytes:,} bytes, shape {shape}",
        ),
        Tile("Signal over error", f"{shown.sqnr_db:.1f}", "dB", note="SQNR: more is closer"),
        Tile("Its part of the loss", words.kl(cost), unit, mark="ours"),
        Tile(
            "How much errors here matter",
            words.kl(shown.alpha_nats),
            note=f"sensitivity alpha, {unit} per unit of relative squared error (t2)",
        ),
    ]


def _head(measurement: Measurement) -> JsonObject:
    return {
        "digest": measurement.model.digest,
        "name": words.name_of(measurement.model.name),
        "model_type": measurement.inventory.architecture.model_type,
        "weights": measurement.inventory.weights,
        "modules": len(measurement.inventory.modules),
        "effort": measurement.effort.value,
        "encoder": measurement.encoder.value,
        "sensitivity": measurement.sensitivity.value,
        "warnings": list(measurement.warnings),
    }


def _slider(
    line: Sequence[Point], budget: int, solved: Solved | None, objective: Objective
) -> JsonObject:
    smallest, largest, steps = line[0].file_bytes, line[-1].file_bytes, thinned(line)
    said = format_size(budget)
    if solved is not None:
        cost = solved.manifest.certificate.predicted_kl_nats_per_token
        said += f": {objective.name} {words.kl(cost)}"
    return {
        "minimum": smallest,
        "maximum": largest,
        "value": budget,
        "index": max(sum(p.file_bytes <= budget for p in steps) - 1, 0),
        "words": said,
        "objective": objective.name,
        "frontier": [[p.file_bytes, p.kl_nats] for p in steps],
    }
