"""Step evaluate: how far a checkpoint is from its original, and from uniform precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from bitbudget.app.contract.reports import Baseline, Evaluation, Recovery
from bitbudget.app.core.canonical import canonical_json, sha256_of
from bitbudget.app.core.effort import EFFORTS, measured_rivals
from bitbudget.app.core.errors import InvalidModelError
from bitbudget.app.core.manifest import Manifest
from bitbudget.workers import evaluate
from bitbudget.workers.evaluate.cache import ReferenceCache
from bitbudget.workers.evaluate.tasks import evaluate_tasks
from bitbudget.workers.evaluate.windows import rollout_kind
from bitbudget.workers.models import Checkpoint
from bitbudget.workers.models.digests import folder_digest
from bitbudget.workers.pipeline.files import write_whole
from bitbudget.workers.pipeline.options import EvaluateOptions, user_text
from bitbudget.workers.pipeline.refine import refine
from bitbudget.workers.pipeline.run import AllocatedByCurves, Delivered, Run
from bitbudget.workers.quantize.measured_card import with_measured
from bitbudget.workers.running.float32 import load_float32
from bitbudget.workers.running.stock import check_opens

__all__ = ["Judge", "run_step"]

_REPORT_VERSION: Final = 2
"""Raised when evaluation changes, so that stored reports of old are not taken for new ones."""


def run_step(run: Run) -> Evaluation:
    """Return the report on the checkpoint, announced as evaluation.json.

    With `baseline` it keeps a Baseline, too.
    """
    options = run[EvaluateOptions]
    judge = Judge(run, options)
    folder, digest = _candidate(run, options)
    rivals = measured_rivals(options.effort, run.report.work.weights) if options.baseline else 0
    with run.report.part(1 / (1 + rivals)):
        path = judge.judge(folder, digest)
    if options.baseline:
        from bitbudget.workers.pipeline.steps.baseline import compare_with_uniform  # noqa: PLC0415, it asks a Judge

        run.keep(compare_with_uniform(run, judge))
    run.report.artifact(path)
    report = Evaluation.model_validate_json(path.read_bytes())
    delivered = run.find(Delivered)
    if delivered is not None:
        _write_measured(delivered.folder, report, run.find(Baseline))
    allocated = run.find(AllocatedByCurves)
    if allocated is not None and allocated.sha256 == digest:
        refine(run, report)
    return _with_scores(report, options, folder, run[Checkpoint].folder)


def _write_measured(folder: Path, report: Evaluation, baseline: Baseline | None) -> None:
    """Put what was measured into the checkpoint's card, whole or not at all.

    No draft is ever among the checkpoint's files, which are uploaded as they are.
    """
    path = folder / "README.md"
    if path.is_file():
        card = with_measured(path.read_text(encoding="utf-8"), folder, report, baseline)
        write_whole(path, card.encode(), draft_folder=folder.parent)


def _candidate(run: Run, options: EvaluateOptions) -> tuple[Path, str]:
    """Return the folder to evaluate, and the digest of what is in it."""
    if options.checkpoint is not None:
        digest = _digest(options.checkpoint, run.home.digests)
        check_opens(options.checkpoint, load_float32)
        return options.checkpoint, digest
    made, recovery = run[Manifest].sha256, run.find(Recovery)
    if recovery is not None:
        made = sha256_of(canonical_json([made, recovery.model_dump(mode="json")]))
    return run[Delivered].folder, made


def _digest(folder: Path, digests: Path) -> str:
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    if not (folder / "config.json").is_file() or not names:
        raise InvalidModelError(
            where=str(folder),
            found="no config.json with safetensors files",
            expected="a checkpoint folder",
            remedy="give the folder that bitbudget quantize wrote",
        )
    return folder_digest(folder, ["config.json", *names], digests)


def _with_scores(
    report: Evaluation, options: EvaluateOptions, folder: Path, reference: Path
) -> Evaluation:
    """Return the report with the scores of both models on the tasks asked for."""
    if not options.tasks:
        return report
    scores = {
        name: evaluate_tasks(
            each, options.tasks, include=options.task_folder, limit=options.task_limit
        )
        for name, each in (("tasks", folder), ("reference_tasks", reference))
    }
    return report.model_copy(update=scores)


@dataclass(frozen=True)
class Judge:
    """Compares checkpoints with the original of a run; the original's own pass is made once.

    Reports are kept under BITBUDGET_HOME.
    """

    run: Run
    options: EvaluateOptions

    def judge(self, checkpoint: Path, digest: str) -> Path:
        """Return the file of the report on `checkpoint`, whose content `digest` identifies."""
        path = self._path(digest)
        if not path.is_file():
            found = Evaluation.model_validate(self._evaluation.report(checkpoint))
            write_whole(path, found.to_json())
        return path

    def judge_once(self, digest: str, make: Callable[[], Path]) -> Evaluation:
        """Return the report on what `make` makes, which is not called when the report is there."""
        path = self._path(digest)
        if not path.is_file():
            self.judge(make(), digest)
        return Evaluation.model_validate_json(path.read_bytes())

    @property
    def _reference_digest(self) -> str:
        return self.run[Checkpoint].identity(self.run.home.digests).digest

    def _path(self, digest: str) -> Path:
        text = self.options.text
        parts = {
            "version": _REPORT_VERSION,
            "checkpoint": digest,
            "reference": self._reference_digest,
            "text": None if text is None else sha256_of(user_text(text)),
            "rollouts": self.options.rollouts,
            "kind": rollout_kind(self.run[Checkpoint].folder),
            "seed": self.options.seed,
            "windows": EFFORTS[self.options.effort].evaluated_windows,
        }
        return self.run.home.evaluation(sha256_of(canonical_json(parts))) / "evaluation.json"

    @cached_property
    def _evaluation(self) -> evaluate.Evaluator:
        report = self.run.report
        with report.part(0.5):
            return evaluate.Evaluator(
                self.run[Checkpoint].folder,
                text=self.options.text,
                rollouts=self.options.rollouts,
                seed=self.options.seed,
                effort=self.options.effort,
                cache=ReferenceCache(self.run.home.reference(self._reference_digest)),
                progress=lambda done, total: report.progress(done, total, "tokens"),
            )
