"""What a draft model is worth to a target: predicted from two manifests, or measured on text."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from bitbudget.app.contract.serving_reports import DraftReport
from bitbudget.app.contract.tasks import DraftTask
from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.drafting import acceptance_from_kl, best_drafting, ear_from_kl
from bitbudget.app.core.errors import InvalidModelError
from bitbudget.workers.models.given import read_manifest

__all__ = ["draft_report"]

_ROLLOUTS: Final = 16
_MANIFEST: Final = "manifest.json"


def draft_report(task: DraftTask) -> DraftReport:
    """Return acceptance, the best number of drafted tokens and the speed-up that is modelled.

    Two of our checkpoints of one model need no run at temperature 1: their predicted KL tells.
    """
    from bitbudget.workers.running.stock import check_opens, stock_model  # noqa: PLC0415, all of mlx-lm

    target, draft = _folder(task.target), _folder(task.draft)
    for folder in (target, draft):
        check_opens(folder, stock_model)
    kl = None if _asks_to_run(task) else _predicted_kl(target, draft)
    found = _measured(task, target, draft) if kl is None else _from_kl(kl)
    cost = _token_bytes(draft) / _token_bytes(target)
    best = best_drafting(found["acceptance"], cost, task.verify_cost)
    return DraftReport(
        **found,
        temperature=task.temperature,
        draft_cost=cost,
        verify_cost=task.verify_cost,
        draft_tokens=best.drafted,
        tokens_per_cycle=best.tokens_per_cycle,
        speedup=best.speedup,
        target=str(target),
        draft=str(draft),
    )


def _folder(path: str) -> Path:
    folder = Path(path).expanduser()
    if (folder / "config.json").is_file():
        return folder
    raise InvalidModelError(
        where=path,
        found="no config.json",
        expected="the folder of a checkpoint or model",
        remedy="download the model first, or check the path",
    )


def _asks_to_run(task: DraftTask) -> bool:
    return bool(task.text or task.rollouts or task.temperature != 1.0)


def _predicted_kl(target: Path, draft: Path) -> float | None:
    """Return the sum of both predicted KL; None unless both are ours, of one model and in KL."""
    files = [folder / _MANIFEST for folder in (target, draft)]
    if not all(file.is_file() for file in files):
        return None
    both = [read_manifest(file) for file in files]
    if both[0].model.digest != both[1].model.digest:
        return None
    if not all(one.objective.is_kl for one in both):
        return None
    return sum(one.certificate.predicted_kl_nats_per_token for one in both)


def _from_kl(kl: float) -> JsonObject:
    return {
        "predicted_from": "manifests",
        "acceptance": acceptance_from_kl(kl),
        "expected_acceptance_rate": ear_from_kl(kl),
        "independent": None,
        "kl_nats_per_token": kl,
        "tokens": 0,
    }


def _measured(task: DraftTask, target: Path, draft: Path) -> JsonObject:
    from bitbudget.workers.evaluate.acceptance import measure_acceptance  # noqa: PLC0415, all of mlx-lm
    from bitbudget.workers.evaluate.evaluation import read_text  # noqa: PLC0415, as above
    from bitbudget.workers.evaluate.windows import rollout_windows, text_windows  # noqa: PLC0415, as above

    if task.text is not None:
        windows = text_windows(target, read_text(Path(task.text)), where=task.text)
    else:
        windows = rollout_windows(target, task.rollouts or _ROLLOUTS, seed=task.seed)
    found = measure_acceptance(target, draft, windows, temperature=task.temperature)
    return {
        "predicted_from": "text",
        "acceptance": min(found.acceptance, 1.0),
        "expected_acceptance_rate": min(found.ear, 1.0),
        "independent": min(found.independent, 1.0),
        "kl_nats_per_token": found.kl_nats_per_token,
        "tokens": found.tokens,
    }


def _token_bytes(folder: Path) -> int:
    """Return the bytes of weights that a decoded token reads; nothing of them is read here."""
    from bitbudget.workers.benchmark.roofline import bytes_per_token  # noqa: PLC0415, all of mlx-lm
    from bitbudget.workers.running.stock import stock_model  # noqa: PLC0415, as above

    model, config = stock_model(folder)
    return bytes_per_token(model, config, []).total
