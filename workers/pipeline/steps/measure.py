"""Step measure: the rate-distortion curve and the sensitivity of every module."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bitbudget.app.contract.steps import Step
from bitbudget.app.core.inventory import Inventory, Module
from bitbudget.app.core.measurement import Curve, Measurement, ModelIdentity, Sensitivity
from bitbudget.app.core.requests import Rotation
from bitbudget.workers.cluster.batches import check_cluster
from bitbudget.workers.models import Checkpoint
from bitbudget.workers.pipeline.home import Home, write_whole
from bitbudget.workers.pipeline.journal import Journal
from bitbudget.workers.pipeline.measuring.by_weights import measure_streamed
from bitbudget.workers.pipeline.options import MeasureOptions
from bitbudget.workers.pipeline.report import Reporter, StepReport

if TYPE_CHECKING:
    from bitbudget.workers.pipeline.measuring.by_running import Sensitivities

__all__ = ["measure", "measurement_path"]


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
    report = reporter.step(Step.MEASURE)
    path = measurement_path(checkpoint, options, home)
    if given is not None and not path.is_file():
        _adopt(given, path, options.key(checkpoint.identity(home.digests)), inventory)
    if not path.is_file():
        work = _Work(checkpoint, inventory, options, path.parent, report)
        measurement = work.run(home)
        write_whole(path, measurement.to_json())
        work.clean()
    measurement = _called(path, checkpoint.identity(home.digests))
    report.artifact(path)
    return measurement


def _called(path: Path, model: ModelIdentity) -> Measurement:
    """Return the stored measurement, with the model called as it is now.

    It is found by the weights' digest: another folder with the same weights may have made it.
    """
    found = Measurement.from_json(path.read_bytes())
    if found.model != model:
        found = replace(found, model=model)
        write_whole(path, found.to_json())
    return found


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
    report: StepReport

    def run(self, home: Home) -> Measurement:
        if self.options.sensitivity is Sensitivity.WEIGHTS:
            return self._by_weights(home)
        return self._by_running(home)

    def clean(self) -> None:
        """Remove what only an unfinished measurement needs."""
        self._journal.remove()

    @property
    def _journal(self) -> Journal:
        return Journal(self.folder / "curves.jsonl")

    def _by_weights(self, home: Home) -> Measurement:
        """Measure without data: a module counts by its share of the weights."""
        share = 1 / self.inventory.weights if self.inventory.weights else 0.0
        curves = self._streamed(home, lambda module: module.weights * share)
        return self._measurement(home, {curve.path: curve for curve in curves})

    def _by_running(self, home: Home) -> Measurement:
        from bitbudget.workers.pipeline.measuring.by_running import take_sensitivities, verified  # noqa: PLC0415, as above
        from bitbudget.workers.pipeline.measuring.curves import curves_by_error  # noqa: PLC0415, all of mlx-lm

        self._check_cluster(home)
        place = (self.checkpoint, self.inventory, self.options)
        known = take_sensitivities(*place, home, self.report)
        if known.modules:
            found = curves_by_error(
                *place, known, home=home, journal=self._journal, report=self.report
            )
        else:
            found = self._streamed(home, lambda module: known.alphas[module.path])
        made = {curve.path: curve for curve in found}
        curves = {module.path: made[module.path] for module in self.inventory.modules}
        checked, doubts = verified(
            self.checkpoint,
            self.inventory,
            curves,
            self.options,
            known=known,
            home=home,
            report=self.report,
        )
        measurement = self._measurement(home, checked.curves if checked else curves, known)
        measurement = replace(measurement, warnings=(*measurement.warnings, *doubts))
        if checked is None:
            return measurement
        return replace(
            measurement, verification=checked.verification, calibration=checked.calibration
        )

    def _check_cluster(self, home: Home) -> None:
        """Find out that workers lack what they need before hours are spent on sensitivities."""
        if self.options.cluster is None:
            return
        folders = [self.checkpoint.folder]
        if self.options.sensitivity is Sensitivity.FISHER:
            folders.append(home.folder)
        check_cluster(self.options.cluster, [folder.absolute() for folder in folders])

    def _rotation_kl(self) -> float:
        if self.options.rotation is Rotation.NONE:
            return 0.0
        from bitbudget.workers.rotate import rotation_kl  # noqa: PLC0415, imports the whole of mlx-lm

        return rotation_kl(self.checkpoint)

    def _streamed(self, home: Home, alpha: Callable[[Module], float]) -> Iterator[Curve]:
        """Measure the weights alone; the cache of results is what survives a kill."""
        for found in measure_streamed(
            self.checkpoint,
            self.inventory.modules,
            self.options,
            cache=home.tensors,
            progress=lambda done, total, path: self.report.progress(done, total, detail=path),
        ):
            yield found.curve(alpha(found.module))

    def _measurement(
        self, home: Home, curves: Mapping[str, Curve], known: Sensitivities | None = None
    ) -> Measurement:
        return Measurement(
            model=self.checkpoint.identity(home.digests),
            inventory=self.inventory,
            encoder=self.options.encoder,
            sensitivity=self.options.sensitivity,
            curves=tuple(curves[module.path] for module in self.inventory.modules),
            text=self.options.text_identity(),
            tokens=0 if known is None else known.tokens,
            rotation=self.options.rotation.value,
            rotation_kl_nats=self._rotation_kl(),
            warnings=() if known is None else known.notes,
            kv_curves=() if known is None else known.kv_curves,
        )
