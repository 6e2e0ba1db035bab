"""Stage measure: the rate-distortion curve and the sensitivity of every module."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter

from app.core.formats import KEEP, Format
from app.core.inventory import Inventory, Module
from app.core.measurement import (
    KEEP_POINT,
    Curve,
    CurvePoint,
    Encoder,
    Measurement,
    Sensitivity,
    Verification,
)
from app.leases.schemas import Stage
from workers.curves import COMPENSATED, kl_curve
from workers.fisher import ModuleStatistics
from workers.fisher.probe import PROBE_TOKENS, probe_alphas
from workers.models import Checkpoint
from workers.stages.home import Home, write_whole
from workers.stages.journal import Journal
from workers.stages.options import MeasureOptions
from workers.stages.report import Reporter, StageReport
from workers.stages.statistics import take_statistics
from workers.stages.streamed import measure_streamed
from workers.sweep import measure_weight
from workers.verify import MOST_WEIGHTS, verify

__all__ = ["measure", "measurement_path"]

_CURVE = TypeAdapter(Curve)
_DISAGREEMENT: Final = 1.5
"""Ratio between the two ends from which a measurement carries a warning."""


def measurement_path(checkpoint: Checkpoint, options: MeasureOptions, home: Home) -> Path:
    """Return where the measurement is or will be."""
    name = options.cache_name(checkpoint.identity(home.digests))
    return home.measurement(name) / "measurement.json"


def measure(
    checkpoint: Checkpoint,
    inventory: Inventory,
    options: MeasureOptions,
    home: Home,
    reporter: Reporter,
    *,
    given: Path | None = None,
) -> Measurement:
    """Return the measurement, from the cache or made now, announced as measurement.json.

    `given` is one made elsewhere, taken if it is of these weights and made in this way. A module
    that was finished before a kill is not measured again.
    """
    report = reporter.stage(Stage.MEASURE)
    path = measurement_path(checkpoint, options, home)
    if given is not None and not path.is_file():
        _adopt(given, path, options.key(checkpoint.identity(home.digests)), inventory)
    if not path.is_file():
        work = _Work(checkpoint, inventory, options, path.parent, report)
        measurement = work.run(home)
        write_whole(path, measurement.to_json())
        work.clean()
    report.artifact(path)
    return Measurement.from_json(path.read_bytes())


def _adopt(given: Path, path: Path, key: str, inventory: Inventory) -> None:
    try:
        found = Measurement.from_json(given.read_bytes())
    except (OSError, ValueError):
        return
    if found.key == key and found.inventory == inventory:
        write_whole(path, found.to_json())


@dataclass
class _Work:
    checkpoint: Checkpoint
    inventory: Inventory
    options: MeasureOptions
    folder: Path
    report: StageReport

    def run(self, home: Home) -> Measurement:
        statistics = self._statistics(home)
        curves = {curve.path: curve for curve in self._curves(statistics)}
        verification = self._verified(curves, statistics)
        return Measurement(
            model=self.checkpoint.identity(home.digests),
            inventory=self.inventory,
            encoder=self.options.encoder,
            sensitivity=self.options.sensitivity,
            curves=tuple(curves[module.path] for module in self.inventory.modules),
            text=self.options.text_identity(),
            tokens=statistics.tokens,
            rotation=self.options.rotation.value,
            verification=verification,
            warnings=(*statistics.notes, *_doubts(verification)),
        )

    def _verified(
        self, curves: Mapping[str, Curve], statistics: _Sensitivities
    ) -> Verification | None:
        """Return predicted against measured KL, of a model that fits in memory several times."""
        if not statistics.modules or self.inventory.weights > MOST_WEIGHTS:
            return None
        return verify(
            self.checkpoint,
            self.inventory,
            curves,
            self.options.encoder,
            statistics.modules,
            seed=self.options.seed,
            progress=lambda done, total: self.report.progress(
                done, total, "allocations", "verification"
            ),
        )

    def clean(self) -> None:
        """Remove what only an unfinished measurement needs."""
        self._journal.remove()

    @property
    def _full(self) -> bool:
        return self.options.features == "full"

    @property
    def _journal(self) -> Journal:
        return Journal(self.folder / "curves.jsonl")

    def _statistics(self, home: Home) -> _Sensitivities:
        if self.options.sensitivity is Sensitivity.WEIGHTS:
            return _Sensitivities(0, {})
        if self.options.sensitivity is Sensitivity.PROBE:
            alphas = probe_alphas(
                self.checkpoint.folder,
                [module.path for module in self.inventory.modules],
                seed=self.options.seed,
                progress=lambda done, total: self.report.progress(done, total, "modules", "probe"),
            )
            return _Sensitivities(PROBE_TOKENS, {}, alphas=alphas)
        found = take_statistics(self.checkpoint, self.inventory, self.options, home, self.report)
        return _Sensitivities(found.tokens, found, found.notes)

    def _streamed(self, statistics: _Sensitivities) -> Iterator[Curve]:
        """Measure by weights alone; the cache of results is what survives a kill."""
        for found in measure_streamed(
            self.checkpoint,
            self.inventory.modules,
            self.options,
            cache=self.folder.parent / "tensors.sqlite3",
            progress=lambda done, total, path: self.report.progress(done, total, detail=path),
        ):
            yield found.curve(statistics.alpha(found.module, self.inventory))

    def _curves(self, statistics: _Sensitivities) -> Iterator[Curve]:
        if not statistics.modules:
            yield from self._streamed(statistics)
            return
        journal = self._journal
        finished = {curve.path: curve for curve in map(_CURVE.validate_python, journal)}
        total = sum(_source_bytes(module) for module in self.inventory.modules)
        done = 0
        for module in self.inventory.modules:
            if module.path in finished:
                curve = finished[module.path]
            else:
                curve = self._curve(module, statistics)
                journal.append(_CURVE.dump_python(curve, mode="json"))
            yield curve
            done += _source_bytes(module)
            self.report.progress(done, total, detail=module.path)

    def _curve(self, module: Module, statistics: _Sensitivities) -> Curve:
        digest = hashlib.sha256()
        formats = tuple(f for f in module.legal_formats(self.options.formats) if f != KEEP)
        parts = _hashed(self.checkpoint.parts(module.path), digest)
        known = statistics.modules.get(module.path)
        if known is None:
            alpha, points, features = self._by_weight(module, formats, parts, statistics)
        else:
            alpha = known.alpha_nats
            points, features = self._by_error(module, formats, list(parts), known)
        return Curve(module.path, alpha, (*points, KEEP_POINT), digest.hexdigest(), features)

    def _by_weight(
        self,
        module: Module,
        formats: tuple[Format, ...],
        parts: Iterator[npt.NDArray[Any]],
        statistics: _Sensitivities,
    ) -> tuple[float, list[CurvePoint], Mapping[str, float]]:
        """Return alpha, alpha t2 of every format, and features, of a module without statistics."""
        encoder = Encoder.CAREFUL if self.options.encoder in COMPENSATED else self.options.encoder
        errors = measure_weight(
            parts, module.dtype, formats, encoder, name=module.path, full=self._full
        )
        alpha = statistics.alpha(module, self.inventory)
        uncertain = errors.t2_relative_error
        return (
            alpha,
            [
                CurvePoint(f, errors.t2[f], alpha * errors.t2[f], uncertain.get(f, 0.0))
                for f in formats
            ],
            errors.features,
        )

    def _by_error(
        self,
        module: Module,
        formats: tuple[Format, ...],
        parts: list[npt.NDArray[Any]],
        known: ModuleStatistics,
    ) -> tuple[list[CurvePoint], Mapping[str, float]]:
        """Return the cost of the deployed encoder's own error in every format, and features."""
        features = measure_weight(
            parts, module.dtype, (), Encoder.MINMAX, name=module.path, full=self._full
        ).features
        weight = (parts[0] if len(parts) == 1 else np.stack(parts)).reshape(module.shape)
        points = kl_curve(module, weight, formats, self.options.encoder, known)
        return [point for point in points if point.format != KEEP], features


@dataclass(frozen=True)
class _Sensitivities:
    """What is known of sensitivity; without statistics a module counts by its share of weights."""

    tokens: int
    modules: Mapping[str, ModuleStatistics]
    notes: tuple[str, ...] = ()
    alphas: Mapping[str, float] = field(default_factory=dict)

    def alpha(self, module: Module, inventory: Inventory) -> float:
        """Return nats per token per unit of t2."""
        if self.alphas:
            return self.alphas[module.path]
        if not self.modules:
            return module.weights / inventory.weights
        if module.path not in self.modules:
            return 0.0
        return self.modules[module.path].alpha_nats


def _doubts(verification: Verification | None) -> tuple[str, ...]:
    """Return a warning when the two ends disagree: errors interact at few bits."""
    if verification is None:
        return ()
    pairs = sorted(
        zip(
            verification.bits_per_weight, verification.measured, verification.predicted, strict=True
        )
    )
    low, high = pairs[0][1] / max(pairs[0][2], 1e-30), pairs[-1][1] / max(pairs[-1][2], 1e-30)
    if max(low, high) <= _DISAGREEMENT * min(low, high):
        return ()
    found = f"{low:.2f} at {pairs[0][0]:.1f} bits per weight, {high:.2f} at {pairs[-1][0]:.1f}"
    return (f"measured over predicted KL is {found}: read predictions between with that",)


def _hashed(parts: Iterator[npt.NDArray[Any]], digest: Any) -> Iterator[npt.NDArray[Any]]:
    for part in parts:
        digest.update(np.ascontiguousarray(part))
        yield part


def _source_bytes(module: Module) -> int:
    return module.weights * module.dtype.itemsize
