"""Step measure: the rate-distortion curve and the sensitivity of every module."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bitbudget.app.contract.durations import (
    curves_s,
    rollouts_s,
    share,
    statistics_s,
    text_s,
    verification_s,
)
from bitbudget.app.core.calibration_text import OwnText
from bitbudget.app.core.duration import duration_words
from bitbudget.app.core.inventory import Inventory, Module
from bitbudget.app.core.measurement import Curve, Measurement, ModelIdentity, Sensitivity
from bitbudget.app.core.requests import Rotation
from bitbudget.workers.cluster.batches import check_cluster
from bitbudget.workers.models.chat import own_text
from bitbudget.workers.pipeline.files import write_whole
from bitbudget.workers.pipeline.journal import Journal
from bitbudget.workers.pipeline.measuring.by_weights import measure_streamed
from bitbudget.workers.pipeline.measuring.elsewhere import (
    KnownMeasurement,
    check_inventory,
    check_weights,
    take_from_elsewhere,
)
from bitbudget.workers.pipeline.options import GivenMeasurement
from bitbudget.workers.pipeline.run import (
    Measured,
    Measurements,
    Previewed,
    Run,
    Variant,
    Variants,
)

if TYPE_CHECKING:
    from bitbudget.workers.pipeline.measuring.by_running import Sensitivities

__all__ = ["measured", "measurement_path", "run_step", "tell_duration", "with_own_text"]


def run_step(run: Run) -> Measurements:
    """Return the measurement of every variant, each announced as measurement.json."""
    known = run.find(KnownMeasurement)
    if known is not None:
        return _taken(run, known)
    variants = [_told_own_text(run, variant) for variant in run[Variants].all]
    if run.find(Previewed) is None:
        run.report.weigh(is_measured=measurement_path(run, variants[0]).is_file())
        tell_duration(run, variants[0])
    found = []
    for variant in variants:
        with run.report.part(1 / len(variants)):
            one = measured(run, variant)
            run.report.artifact(one.path)
            found.append(one)
    return Measurements(tuple(found))


def _taken(run: Run, known: KnownMeasurement) -> Measurements:
    """Return the measurement that was known before any weight was read.

    InvalidRequestError for one of other weights or modules.
    """
    variant = run[Variants].last
    identity = variant.checkpoint.identity(run.home.digests)
    check_weights(Measurement.from_json(known.path.read_bytes()), identity)
    found = _called(known.path, identity)
    check_inventory(found, variant.inventory)
    if found.origin:
        run.report.log(f"measured elsewhere: {found.origin}")
    if found.text in set(OwnText):
        written = replace(variant.options, own_text=OwnText(found.text))
        variant = replace(variant, options=written)
    run.report.artifact(known.path)
    return Measurements((Measured(variant, found, known.path),))


def _told_own_text(run: Run, variant: Variant) -> Variant:
    found, note = with_own_text(variant)
    if note:
        run.report.log(note)
    return found


def with_own_text(variant: Variant) -> tuple[Variant, str]:
    """Return the variant with how its model writes the text that it is measured on, and a note."""
    options = variant.options
    if options.text_identity() not in set(OwnText):
        return variant, ""
    kind, note = own_text(variant.checkpoint.folder)
    return replace(variant, options=replace(options, own_text=kind)), note


def tell_duration(run: Run, first: Variant) -> None:
    """Say how long the rest of the task will take, before it begins."""
    effort, left = first.options.effort.value, duration_words(run.report.seconds_left())
    run.report.log(f"effort {effort}: about {left} on this machine, if it does nothing else")


def measurement_path(run: Run, variant: Variant) -> Path:
    """Return where the measurement is or will be."""
    name = variant.options.cache_name(variant.checkpoint.identity(run.home.digests))
    return run.home.measurement(name) / "measurement.json"


def measured(run: Run, variant: Variant) -> Measured:
    """Return the measurement, from the cache, as given, or made now.

    A module that was finished before a kill is not measured again.
    """
    path = measurement_path(run, variant)
    given = run.find(GivenMeasurement)
    if given is not None and not path.is_file():
        key = variant.options.key(variant.checkpoint.identity(run.home.digests))
        _adopt(given.path, path, key, variant.inventory)
    if not path.is_file():
        take_from_elsewhere(run, variant, path)
    if not path.is_file():
        work = _Work(run, variant, path.parent)
        write_whole(path, work.run_all().to_json())
        work.clean()
    measurement = _called(path, variant.checkpoint.identity(run.home.digests))
    return Measured(variant, measurement, path)


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
    run: Run
    variant: Variant
    folder: Path

    def run_all(self) -> Measurement:
        if self.variant.options.sensitivity is Sensitivity.WEIGHTS:
            return self._by_weights()
        return self._by_running()

    def clean(self) -> None:
        """Remove what only an unfinished measurement needs."""
        self._journal.remove()

    @property
    def _journal(self) -> Journal:
        return Journal(self.folder / "curves.jsonl")

    def _by_weights(self) -> Measurement:
        """Measure without data: a module counts by its share of the weights."""
        weights = self.variant.inventory.weights
        share = 1 / weights if weights else 0.0
        curves = self._streamed(lambda module: module.weights * share)
        return self._measurement({curve.path: curve for curve in curves})

    def _by_running(self) -> Measurement:
        from bitbudget.workers.pipeline.measuring.by_running import take_sensitivities, verified  # noqa: PLC0415, as above

        self._check_cluster()
        report, work = self.run.report, self.run.work_on(self.variant)
        begun, coded = text_s(work) + statistics_s(work), curves_s(work)
        checking = rollouts_s(work) + verification_s(work) if work.verifies else 0.0
        with report.part(share(begun, coded, checking)):
            known = take_sensitivities(self.run, self.variant)
        with report.part(share(coded, begun, checking)):
            made = {curve.path: curve for curve in self._curves(known)}
        curves = {module.path: made[module.path] for module in self.variant.inventory.modules}
        with report.part(share(checking, begun, coded)):
            checked, doubts = verified(self.run, self.variant, curves, known)
        measurement = self._measurement(checked.curves if checked else curves, known)
        measurement = replace(measurement, warnings=(*measurement.warnings, *doubts))
        if checked is None:
            return measurement
        return replace(
            measurement, verification=checked.verification, calibration=checked.calibration
        )

    def _curves(self, known: Sensitivities) -> Iterator[Curve]:
        from bitbudget.workers.pipeline.measuring.curves import curves_by_error  # noqa: PLC0415, all of mlx-lm

        if known.modules:
            return curves_by_error(self.run, self.variant, known, self._journal)
        return self._streamed(lambda module: known.alphas[module.path])

    def _check_cluster(self) -> None:
        """Find out that workers lack what they need before hours are spent on sensitivities."""
        options = self.variant.options
        if options.cluster is None:
            return
        folders = [self.variant.checkpoint.folder]
        if options.sensitivity is Sensitivity.FISHER:
            folders.append(self.run.home.folder)
        check_cluster(options.cluster, [folder.absolute() for folder in folders])

    def _rotation_kl(self) -> float:
        if self.variant.options.rotation is Rotation.NONE:
            return 0.0
        from bitbudget.workers.rotate import rotation_kl  # noqa: PLC0415, imports the whole of mlx-lm

        return rotation_kl(self.variant.checkpoint)

    def _streamed(self, alpha: Callable[[Module], float]) -> Iterator[Curve]:
        """Measure the weights alone; the cache of results is what survives a kill."""
        report = self.run.report
        for found in measure_streamed(
            self.variant.checkpoint,
            self.variant.inventory.modules,
            self.variant.options,
            cache=self.run.home.tensors,
            progress=lambda done, total, path: report.progress(done, total, detail=path),
        ):
            yield found.curve(alpha(found.module))

    def _measurement(
        self, curves: Mapping[str, Curve], known: Sensitivities | None = None
    ) -> Measurement:
        options, inventory = self.variant.options, self.variant.inventory
        return Measurement(
            model=self.variant.checkpoint.identity(self.run.home.digests),
            inventory=inventory,
            encoder=options.encoder,
            sensitivity=options.sensitivity,
            effort=options.effort,
            curves=tuple(curves[module.path] for module in inventory.modules),
            text=options.text_identity(),
            tokens=0 if known is None else known.tokens,
            rotation=options.rotation.value,
            rotation_kl_nats=self._rotation_kl(),
            warnings=() if known is None else known.notes,
            kv_curves=() if known is None else known.kv_curves,
        )
