"""A whole job: every step in order, each found done or done now."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from bitbudget.app.contract.steps import Step
from bitbudget.app.contract.tasks import JobTask
from bitbudget.app.core.canonical import canonical_json, sha256_of
from bitbudget.app.core.inventory import Inventory
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.core.requests import Deliver
from bitbudget.app.core.rotation_choice import solve_each
from bitbudget.workers.benchmark import benchmark
from bitbudget.workers.models import Checkpoint
from bitbudget.workers.pipeline.home import Home, write_whole
from bitbudget.workers.pipeline.measuring.survey import survey
from bitbudget.workers.pipeline.options import MeasureOptions
from bitbudget.workers.pipeline.report import Reporter
from bitbudget.workers.pipeline.steps.allocate import make_manifest
from bitbudget.workers.pipeline.steps.baseline import compare_with_uniform
from bitbudget.workers.pipeline.steps.evaluate import Judge, read_report
from bitbudget.workers.pipeline.steps.fetch import Source, fetch
from bitbudget.workers.pipeline.steps.inventory import take_inventory
from bitbudget.workers.pipeline.steps.measure import measure, measurement_path
from bitbudget.workers.pipeline.steps.quantize import check_same_model, claimed_output, quantize
from bitbudget.workers.pipeline.steps.recover import recover_checkpoint
from bitbudget.workers.pipeline.steps.refine import refine
from bitbudget.workers.pipeline.steps.relinearize import reconsider
from bitbudget.workers.pipeline.steps.rotate import candidates

__all__ = ["run_job"]

_PROMPT_TOKENS: Final = 128
_GENERATE_TOKENS: Final = 64
_BENCHMARK_CPU_SECONDS: Final = 40.0
"""Of generation where there is no GPU: with reading the model the step stays under a minute."""


def run_job(task: JobTask, home: Home, reporter: Reporter) -> dict[str, Any]:
    """Run the steps as far as `request.deliver` says and return what `run --json` prints."""
    claim = nullcontext() if task.output is None else claimed_output(Path(task.output), home)
    with claim:
        return _Job(task, home, reporter).run()


@dataclass(frozen=True)
class _Candidate:
    """A model as it is or rotated, measured and allocated."""

    checkpoint: Checkpoint
    options: MeasureOptions
    inventory: Inventory
    measurement: Measurement
    manifest: Manifest
    allocated: str
    """SHA-256 of the manifest that the curves alone gave."""

    @property
    def predicted(self) -> float:
        """Nats per token that its allocation is predicted to lose."""
        return self.manifest.certificate.predicted_kl_nats_per_token


@dataclass
class _Job:
    task: JobTask
    home: Home
    reporter: Reporter

    def run(self) -> dict[str, Any]:
        request = self.task.request
        options = MeasureOptions.of_job(request)
        checkpoint = fetch(
            request.model,
            self.home,
            self.reporter,
            disk_limit_bytes=self.task.disk_limit_bytes,
            whole=options.needs_whole_model or request.deliver is Deliver.CHECKPOINT,
            identify=options.needs_whole_model or self.task.measurement is not None,
            source=Source(request.name, request.allow_quantized_source),
        )
        best, low_bits = self._reconsidered(self._best(checkpoint, options))
        path = self.home.manifest(best.manifest.sha256) / "manifest.json"
        result = _certificate(best.manifest) | {
            "manifest": str(path),
            "measurement": str(measurement_path(best.checkpoint, best.options, self.home)),
            "measurement_key": best.measurement.key,
            "checkpoint": None,
            **low_bits,
        }
        if request.deliver is Deliver.MANIFEST:
            return result
        return result | self._deliver(checkpoint, best)

    def _best(self, checkpoint: Checkpoint, options: MeasureOptions) -> _Candidate:
        """Return the rotation with the lowest expected KL.

        Among several it is solved once more, so that its artifacts are announced last.
        """
        twins = candidates(checkpoint, options.rotation, self.home, self.reporter)
        best = solve_each(
            twins.items(),
            lambda twin: self._solve(twin[1], replace(options, rotation=twin[0])),
            lambda candidate: (candidate.measurement, candidate.predicted),
        )
        return best if len(twins) == 1 else self._solve(best.checkpoint, best.options)

    def _reconsidered(self, best: _Candidate) -> tuple[_Candidate, dict[str, Any]]:
        """Return what is better where bits are few, and `low_bits` for the result.

        Statistics that were taken elsewhere are not taken again for a manifest alone.
        """
        request = self.task.request
        if self.task.measurement is not None and request.deliver is Deliver.MANIFEST:
            return best, {}
        redone = reconsider(
            best.checkpoint,
            best.measurement,
            best.manifest,
            request,
            options=best.options,
            home=self.home,
            reporter=self.reporter,
        )
        found = {"low_bits": redone.found} if redone.found else {}
        return replace(best, manifest=redone.manifest), found

    def _solve(self, checkpoint: Checkpoint, options: MeasureOptions) -> _Candidate:
        look = partial(survey, checkpoint, options=options, home=self.home, reporter=self.reporter)
        asked = None if self.task.request.allow_quantized_source else self.task.request
        inventory = take_inventory(checkpoint, self.home, self.reporter, budget=asked, survey=look)
        given = None if self.task.measurement is None else Path(self.task.measurement)
        measurement = measure(checkpoint, inventory, options, self.home, self.reporter, given=given)
        manifest = make_manifest(measurement, self.task.request, self.home, self.reporter)
        return _Candidate(checkpoint, options, inventory, measurement, manifest, manifest.sha256)

    def _deliver(self, original: Checkpoint, best: _Candidate) -> dict[str, Any]:
        check_same_model(original, best.manifest)
        output = self._output(best.manifest)
        written = quantize(
            best.checkpoint,
            best.inventory,
            best.manifest,
            output,
            self.reporter,
            home=self.home,
        )
        recovery = recover_checkpoint(
            written.folder,
            best.checkpoint,
            best.manifest.recover,
            self.reporter,
            seconds=self.task.request.recover_seconds,
            seed=self.task.request.seed,
        )
        made = best.manifest.sha256
        if recovery:
            made = sha256_of(canonical_json([made, recovery]))
        evaluation = self._evaluate(original, best, written.folder, made)
        return {
            "checkpoint": str(written.folder),
            "manifest": str(written.folder / "manifest.json"),
            "file_bytes": written.file_bytes,
            **recovery,
            **evaluation,
            "benchmark": self._benchmark(best.manifest, written.folder),
        }

    def _evaluate(
        self, original: Checkpoint, best: _Candidate, folder: Path, made: str
    ) -> dict[str, Any]:
        """Return the report on `folder`, whose content the digest `made` identifies."""
        report = self.reporter.step(Step.EVALUATE)
        digest = original.identity(self.home.digests).digest
        judge = Judge(original.folder, digest, self.home, report, seed=self.task.request.seed)
        path = judge.judge(folder, made)
        found: dict[str, Any] = {"evaluation": read_report(path)}
        if self.task.baseline:
            found["baseline"] = compare_with_uniform(
                best.checkpoint, best.measurement, self.task.request, judge, report
            )
        report.artifact(path)
        if made == best.manifest.sha256 == best.allocated:
            stored = measurement_path(best.checkpoint, best.options, self.home)
            refine(stored, best.manifest, found["evaluation"], report)
        return found

    def _benchmark(self, manifest: Manifest, folder: Path) -> dict[str, Any]:
        report = self.reporter.step(Step.BENCHMARK)
        path = self.home.manifest(manifest.sha256) / "benchmark.json"
        if not path.is_file():
            found = benchmark(
                folder,
                _PROMPT_TOKENS,
                _GENERATE_TOKENS,
                most_seconds_on_cpu=_BENCHMARK_CPU_SECONDS,
                progress=lambda done, total: report.progress(done, total, "tokens"),
            )
            write_whole(path, (json.dumps(found, indent=1, sort_keys=True) + "\n").encode())
        report.artifact(path)
        return read_report(path)

    def _output(self, manifest: Manifest) -> Path:
        if self.task.output is not None:
            return Path(self.task.output)
        return self.home.checkpoint(manifest.model.name.replace("/", "--"), manifest.sha256)


def _certificate(manifest: Manifest) -> dict[str, Any]:
    return {
        "sha256": manifest.sha256,
        "file_bytes": manifest.file_bytes,
        "budget_bytes": manifest.budget_bytes,
        **manifest.certificate.model_dump(mode="json", by_alias=False),
        "notes": list(manifest.notes),
    }
