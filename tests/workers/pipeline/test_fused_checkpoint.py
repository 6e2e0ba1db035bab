"""A fused manifest becomes a checkpoint that our loader and mlx-lm with the flag run alike."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import mlx_lm.utils
import numpy as np

import bitbudget
from bitbudget.app.contract.tasks import JobTask, QuantizeTask
from bitbudget.app.core.measurement import Encoder, Sensitivity
from bitbudget.app.core.requests import Deliver, JobRequest, Rotation
from bitbudget.workers.pipeline.tasks import run_task
from bitbudget.workers.quantize.companions import MODEL_FILE
from tests.workers.rotate.families import FAMILIES, make_model

TOKENS = mx.arange(9)[None]


def test_a_fused_manifest_is_written_with_its_model_file(tmp_path: Path) -> None:
    make_model(tmp_path / "model", "qwen3", FAMILIES["qwen3"])
    request = JobRequest(
        model=str(tmp_path / "model"),
        budget="300KB",
        encoder=Encoder.MINMAX,
        sensitivity=Sensitivity.WEIGHTS,
        rotation=Rotation.FUSED,
        deliver=Deliver.MANIFEST,
    )
    home = str(tmp_path / "home")
    solved = run_task(JobTask(home=home, request=request), lambda _event: None).model_dump(
        mode="json"
    )
    assert json.loads(Path(solved["manifest"]).read_text())["rotation"] == "fused"
    task = QuantizeTask(
        home=home,
        model=str(tmp_path / "model"),
        manifest=solved["manifest"],
        output=str(tmp_path / "fused"),
    )
    written = run_task(task, lambda _event: None).model_dump(mode="json")
    assert written["file_bytes"] == solved["file_bytes"]
    assert (tmp_path / "fused" / MODEL_FILE).is_file()
    ours, _ = bitbudget.load_model(tmp_path / "fused")
    stock, _ = mlx_lm.utils.load_model(tmp_path / "fused", trust_remote_code=True)
    original, _ = bitbudget.load_model(tmp_path / "model")
    mine, theirs, before = (np.array(model(TOKENS)) for model in (ours, stock, original))
    assert np.array_equal(mine, theirs)
    assert np.abs(mine - before).max() < 0.2 * np.abs(before).max()
    card = (tmp_path / "fused" / "README.md").read_text()
    assert "trust_remote_code=True" in card
    assert "| rotation | fused |" in card
