"""Step evaluate: how far a checkpoint is from its original."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from bitbudget.app.core.canonical import canonical_json, sha256_of
from bitbudget.workers.evaluate import Evaluation
from bitbudget.workers.evaluate.cache import ReferenceCache
from bitbudget.workers.pipeline.home import Home, write_whole
from bitbudget.workers.pipeline.options import user_text
from bitbudget.workers.pipeline.report import StepReport

__all__ = ["Judge"]

_REPORT_VERSION: Final = 2
"""Raised when evaluation changes, so that stored reports of old are not taken for new ones."""


@dataclass(frozen=True)
class Judge:
    """Compares checkpoints with one original; the original's own pass is made once.

    `reference_digest` identifies the original's weights. Reports are kept under `home`.
    """

    reference: Path
    reference_digest: str
    home: Home
    report: StepReport
    text: Path | None = None
    rollouts: int = 0
    seed: int = 0

    def judge(self, checkpoint: Path, digest: str) -> Path:
        """Return the file of the report on `checkpoint`, whose content `digest` identifies."""
        path = self.home.evaluation(self._key(digest)) / "evaluation.json"
        if not path.is_file():
            found = self._evaluation.report(checkpoint)
            write_whole(path, (json.dumps(found, indent=1, sort_keys=True) + "\n").encode())
        return path

    def judge_once(self, digest: str, make: Callable[[], Path]) -> dict[str, Any]:
        """Return the report on what `make` makes, which is not called when the report is there."""
        path = self.home.evaluation(self._key(digest)) / "evaluation.json"
        if not path.is_file():
            self.judge(make(), digest)
        return read_report(path)

    def _key(self, digest: str) -> str:
        parts = {
            "version": _REPORT_VERSION,
            "checkpoint": digest,
            "reference": self.reference_digest,
            "text": None if self.text is None else sha256_of(user_text(self.text)),
            "rollouts": self.rollouts,
            "seed": self.seed,
        }
        return sha256_of(canonical_json(parts))

    @cached_property
    def _evaluation(self) -> Evaluation:
        return Evaluation(
            self.reference,
            text=self.text,
            rollouts=self.rollouts,
            seed=self.seed,
            cache=ReferenceCache(self.home.reference(self.reference_digest)),
            progress=lambda done, total: self.report.progress(done, total, "tokens"),
        )


def read_report(path: Path) -> dict[str, Any]:
    """Return a stored report."""
    found: dict[str, Any] = json.loads(path.read_bytes())
    return found
