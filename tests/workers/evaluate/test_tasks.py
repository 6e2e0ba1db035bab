"""Scores of a tiny local task through lm-evaluation-harness, and the model it asks."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.workers.evaluate.tasks import TaskModel, evaluate_tasks

CHOICES = """
task: endings
dataset_path: json
dataset_kwargs:
  data_files: {"test": "FILE"}
test_split: test
output_type: multiple_choice
doc_to_text: "{{start}}"
doc_to_choice: "{{endings}}"
doc_to_target: "{{right}}"
target_delimiter: ""
metric_list:
  - metric: acc
"""
QUESTIONS = [
    {"start": "Once upon a", "endings": [" time, there was", " zzgh 9 qx"], "right": 0},
    {"start": "The dog was very", "endings": [" xx;;q0", " happy."], "right": 1},
]


def test_a_continuation_scores_as_the_model_predicts_it(sample_model: Path) -> None:
    model = TaskModel(sample_model)
    (likely, _), (unlikely, _) = model.continuations(
        [("Once upon a", " time"), ("Once upon a", " window")]
    )
    assert unlikely < likely < 0
    apart = model.continuations([("Once upon a", " time")])[0][0]
    assert apart == pytest.approx(likely, abs=1e-4)
    whole = model.continuations([("", "Once upon a time")])[0][0]
    start = model.continuations([("", "Once upon a")])[0][0]
    assert whole == pytest.approx(start + likely, abs=1e-3)


def test_greedy_text_is_greedy_and_stops(sample_model: Path) -> None:
    model = TaskModel(sample_model)
    text = model.generate("Once upon a", {"until": ["."], "max_gen_toks": 24})
    assert text
    assert "." not in text
    assert model.continuations([("Once upon a", text)])[0][1]


def test_without_the_harness_the_error_says_what_to_install(
    sample_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with pytest.raises(InvalidRequestError, match="lm-evaluation-harness"):
        evaluate_tasks(sample_model, ["mmlu_pro"])


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="needs lm-eval")
def test_a_local_task_is_scored(sample_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "endings.jsonl"
    file.write_text("".join(json.dumps(question) + "\n" for question in QUESTIONS))
    (tmp_path / "endings.yaml").write_text(CHOICES.replace("FILE", str(file)))
    found = evaluate_tasks(sample_model, ["endings"], include=tmp_path)
    assert found["endings"]["acc"] == 1.0
    assert np.isfinite(list(found["endings"].values())).all()
    with pytest.raises(InvalidRequestError, match="no_such_task"):
        evaluate_tasks(sample_model, ["no_such_task"])
