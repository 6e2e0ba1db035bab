"""A fixture under test: its statistics, its curves by encoder and cost, its KL when allocated."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from bitbudget.app.core.allocate import allocate
from bitbudget.app.core.errors import InfeasibleBudgetError
from bitbudget.app.core.formats import KEEP, STOCK_FORMATS, Format
from bitbudget.app.core.inventory import Inventory, Module
from bitbudget.app.core.measurement import Curve, Encoder, Measurement, Sensitivity
from bitbudget.app.core.requests import AllocationRequest
from bitbudget.workers.curves.exact import kl_curve
from bitbudget.workers.encoders.number_formats import dequantize
from bitbudget.workers.evaluate import Evaluator
from bitbudget.workers.evaluate.reference import Reference, job_rollouts
from bitbudget.workers.fisher import Statistics, collect_statistics
from bitbudget.workers.models import Checkpoint, build_inventory, open_checkpoint
from bitbudget.workers.prediction.measured_kl import Coding
from bitbudget.workers.prediction.verification import verify
from bitbudget.workers.probe.noise import probe_alphas
from bitbudget.workers.quantize.coding import arrays_alone, coded_in_sequence, float32_weight
from bitbudget.workers.running.tokens import SEQUENCE_LENGTH, default_tokens, sample_tokens
from bitbudget.workers.sequential import Plan

__all__ = ["Model", "Ours", "file_bytes", "judge", "prepare"]


@dataclass(frozen=True, slots=True)
class Ours:
    """One way of ours: an encoder and what its errors are priced by.

    `fisher` is the Kronecker cost, `alpha` the Fisher scalar times t2, `probe` the scalar that
    noise on one module at a time gives, `weights` the relative error alone, as MINT does.
    """

    encoder: Encoder
    sensitivity: str

    @property
    def label(self) -> str:
        """The row's name."""
        return f"ours {self.encoder.value} {self.sensitivity}"


@dataclass
class Model:
    """One fixture with everything that is computed once."""

    checkpoint: Checkpoint
    inventory: Inventory
    statistics: Statistics
    evaluation: Evaluator
    measurements: dict[Ours, Measurement] = field(default_factory=dict)
    reports: dict[Any, dict[str, Any]] = field(default_factory=dict)
    coded: dict[tuple[str, Encoder, Format], dict[str, np.ndarray]] = field(default_factory=dict)
    candidates: tuple[Format, ...] = STOCK_FORMATS
    kept: Path | None = None
    """Where curves are kept for a run that goes on; empty it when an encoder changes."""

    def weights(self, path: str) -> np.ndarray:
        """Return a module's float32 weight."""
        return float32_weight(self.checkpoint, self.inventory.module(path))

    def measurement(self, way: Ours) -> Measurement:
        """Return the curves of one of our ways."""
        if way not in self.measurements:
            names = ",".join(map(str, self.candidates))
            digest = hashlib.sha256(f"{way.label} {names}".encode()).hexdigest()[:16]
            file = None if self.kept is None else self.kept / f"{digest}.measurement.json"
            if file is not None and file.is_file():
                self.measurements[way] = Measurement.from_json(file.read_bytes())
            else:
                self.measurements[way] = self._measure(way)
                if file is not None:
                    file.write_bytes(self.measurements[way].to_json())
        return self.measurements[way]

    def _measure(self, way: Ours) -> Measurement:
        if way.sensitivity != "fisher":
            exact = self.measurement(replace(way, sensitivity="fisher"))
            alphas = self._alphas(way.sensitivity)
            return replace(
                exact, curves=tuple(_priced(c, alphas.get(c.path)) for c in exact.curves)
            )
        paths = [module.path for module in self.inventory.modules]
        curves = {path: self._curve(path, way.encoder) for path in paths}
        folder = self.checkpoint.folder
        windows, _ = job_rollouts(folder, seed=0, cache=None)
        coding = Coding(self.checkpoint, self.inventory, way.encoder, self.statistics)
        found = verify(coding, curves, Reference.on(folder, windows), seed=0)
        return Measurement(
            self.checkpoint.identity(),
            self.inventory,
            way.encoder,
            Sensitivity.FISHER,
            tuple(found.curves.values()),
            "self",
            verification=found.verification,
            calibration=found.calibration,
        )

    def _alphas(self, sensitivity: str) -> dict[str, float]:
        paths = [module.path for module in self.inventory.modules]
        if sensitivity == "probe":
            return probe_alphas(self.checkpoint.folder, paths, seed=0)
        return {p: self.statistics[p].alpha_nats for p in paths} if sensitivity == "alpha" else {}

    def _curve(self, path: str, encoder: Encoder) -> Curve:
        module, known = self.inventory.module(path), self.statistics[path]
        formats = module.legal_formats(self.candidates)
        points = kl_curve(module, self.weights(path), formats, encoder, known)
        return Curve(path, known.alpha_nats, tuple(points))

    def at(self, way: Ours, nbytes: int, **limits: Any) -> dict[str, Any] | None:
        """Return our row within `nbytes` and other limits of a request; None when nothing fits."""
        try:
            request = AllocationRequest(budget=nbytes, sqnr_floor_db=0, **limits)
            answer = allocate(self.measurement(way), request)
        except InfeasibleBudgetError:
            return None
        report = self.evaluate(dict(answer.formats), way.encoder)
        predicted = answer.predicted_kl_nats_per_token if way.sensitivity == "fisher" else None
        return judge(way.label, answer.file_bytes, self, report) | {"predicted": predicted}

    def evaluate(self, formats: dict[str, Format], encoder: Encoder) -> dict[str, Any]:
        """Return the report of the original with its modules replaced by their coded values."""
        key = (encoder, tuple(sorted(formats.items())))
        if key not in self.reports:
            self.reports[key] = self._evaluate(formats, encoder)
        return self.reports[key]

    def _evaluate(self, formats: dict[str, Format], encoder: Encoder) -> dict[str, Any]:
        self.evaluation.taught  # noqa: B018 - before the weights are replaced
        arrays = self._sequential(formats, encoder)
        for path in formats.keys() - arrays.keys():
            arrays[path] = self._values(path, formats[path], encoder)
        return self.report_of(arrays)

    def report_of(self, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
        """Return the report of the original with float32 weights of modules replaced."""
        model = self.evaluation.original
        self.evaluation.taught  # noqa: B018 - before the weights are replaced
        model.load_weights([(f"{p}.weight", mx.array(a)) for p, a in arrays.items()], strict=False)
        report: dict[str, Any] = self.evaluation.sets(model, "ours")["text"]
        originals = [(f"{path}.weight", mx.array(self.weights(path))) for path in arrays]
        model.load_weights(originals, strict=False)
        return report

    def _sequential(self, formats: dict[str, Format], encoder: Encoder) -> dict[str, np.ndarray]:
        """Return the values of what is coded layer by layer."""
        plan = Plan(
            self.inventory,
            formats,
            encoder,
            self.statistics,
            lambda module, format_: self._arrays(module, format_, encoder),
        )
        return coded_in_sequence(self.checkpoint.folder, plan)

    def _values(self, path: str, format_: Format, encoder: Encoder) -> np.ndarray:
        if format_ == KEEP:
            return self.weights(path)
        module = self.inventory.module(path)
        return dequantize(self._arrays(module, format_, encoder), format_, module.dtype)

    def _arrays(self, module: Module, format_: Format, encoder: Encoder) -> dict[str, np.ndarray]:
        key = (module.path, encoder, format_)
        if key not in self.coded:
            self.coded[key] = arrays_alone(
                self.checkpoint, module, format_, encoder, self.statistics
            )
        return self.coded[key]


def _priced(curve: Curve, alpha: float | None) -> Curve:
    """Return the curve priced by alpha t2, or without alpha by the relative error alone."""
    points = tuple(
        replace(p, kl_nats=p.t2**0.5 if alpha is None else alpha * p.t2) for p in curve.points
    )
    return replace(curve, points=points)


def judge(name: str, nbytes: int, model: Model, report: dict[str, Any]) -> dict[str, Any]:
    """Return a row of the results."""
    return {
        "method": name,
        "bytes": nbytes,
        "bits_per_weight": 8 * nbytes / model.inventory.weights,
        "kl": report["kl_nats_per_token"],
        "interval": report["kl_interval_95"],
        "top1_agreement": report["top1_agreement"],
        "windows_digest": report["windows_digest"],
        "kl_per_window": report["kl_per_window"],
    }


def file_bytes(folder: Path) -> int:
    """Return the bytes of a checkpoint's weights, headers included."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def prepare(folder: Path, text: Path, scratch: Path, windows: int) -> Model:
    """Open a fixture, collect its statistics or find them, and cut its held-out text."""
    checkpoint = open_checkpoint(folder)
    inventory = build_inventory(checkpoint)
    scratch.mkdir(parents=True, exist_ok=True)
    tokens = scratch / "tokens.npy"
    if not tokens.is_file():
        count = default_tokens(inventory.weights) // SEQUENCE_LENGTH
        np.save(tokens, sample_tokens(checkpoint, count, seed=0))
    statistics = collect_statistics(checkpoint, np.load(tokens), seed=0, scratch=scratch)
    evaluation = Evaluator(folder, text=text)
    evaluation.windows["text"] = _spread(evaluation.windows["text"], windows)
    return Model(checkpoint, inventory, statistics, evaluation)


def _spread(windows: np.ndarray, count: int) -> np.ndarray:
    chosen = np.linspace(0, len(windows) - 1, min(count, len(windows))).astype(int)
    result: np.ndarray = windows[chosen]
    return result
