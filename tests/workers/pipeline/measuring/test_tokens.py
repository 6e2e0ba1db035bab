"""The tokens of a measurement: the model's own, or a user's text that has to be one."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from bitbudget.app.core import effort
from bitbudget.app.core.errors import InvalidModelError, InvalidRequestError
from bitbudget.app.core.measurement import Encoder, Sensitivity
from bitbudget.app.core.requests import Rotation
from bitbudget.workers.evaluate import reference
from bitbudget.workers.evaluate.cache import ReferenceCache
from bitbudget.workers.evaluate.reference import job_rollouts
from bitbudget.workers.models.vocabulary import begin_token
from bitbudget.workers.pipeline.measuring.tokens import measurement_tokens, unused_text
from bitbudget.workers.pipeline.options import MeasureOptions
from tests.support.efforts import limit_tokens
from tests.workers.models.tiny import write_tiny


def read(
    folder: Path, weights: int, asked: MeasureOptions, cache: ReferenceCache | None = None
) -> tuple[np.ndarray, Sequence[np.ndarray]]:
    return measurement_tokens(folder, weights, asked, cache or ReferenceCache(folder / "cache"))


def options(text: Path | None) -> MeasureOptions:
    return MeasureOptions(Encoder.YAQA, Sensitivity.FISHER, Rotation.NONE, text, 0)


def written(folder: Path, text: str) -> Path:
    path = folder / "text.txt"
    path.write_text(text)
    return path


def test_a_model_without_tokenizer_writes_its_own_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_tokens(monkeypatch, 512)
    model = write_tiny(tmp_path, "llama")
    found, _ = read(model, 1000, options(None))
    assert found.shape == (2, 256)
    assert (found[:, 0] == begin_token(model)).all()
    assert found.max() < 128


def test_few_windows_are_written_beside_the_rollouts_of_their_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_tokens(monkeypatch, 512)
    monkeypatch.setattr(effort, "LARGE_WEIGHTS", 0)
    model, cache = write_tiny(tmp_path / "model", "llama"), ReferenceCache(tmp_path / "cache")
    found, hidden = read(model, 1000, options(None), cache)
    assert found.shape == hidden[0].shape[:2] == (2, 256)
    monkeypatch.setattr(reference, "rollout_windows", None)
    verifying, evaluating = job_rollouts(model, seed=0, cache=cache)
    assert verifying.shape == (16, 256)
    assert evaluating.shape == (32, 256)
    rows = np.concatenate([found, verifying, evaluating])
    assert len(np.unique(rows, axis=0)) == len(rows)
    assert np.array_equal(read(model, 1000, options(None), cache)[0], found)


def test_a_text_needs_a_tokenizer(tmp_path: Path) -> None:
    model = write_tiny(tmp_path / "model", "llama")
    with pytest.raises(InvalidModelError, match=r"no tokenizer.*do without a text"):
        read(model, 1000, options(written(tmp_path, "Once upon a time. " * 99)))


def test_a_text_shorter_than_a_window_says_how_long_it_is(
    sample_model: Path, tmp_path: Path
) -> None:
    with pytest.raises(InvalidRequestError, match=r"found 4 tokens, expected at least 255.*longer"):
        read(sample_model, 1000, options(written(tmp_path, "Once upon a time")))


def test_a_text_is_cut_to_windows_that_begin_as_a_text_does(
    sample_model: Path, tmp_path: Path
) -> None:
    text = written(tmp_path, "Once upon a time there was a little dog. " * 60)
    found, _ = read(sample_model, 1000, options(text))
    assert found.shape[1] == 256
    assert len(found) >= 2
    assert (found[:, 0] == 0).all()


def test_a_tokenizer_that_cannot_be_read_is_named(sample_model: Path, tmp_path: Path) -> None:
    model = write_tiny(tmp_path / "model", "llama")
    shutil.copy(sample_model / "tokenizer_config.json", model)
    (model / "tokenizer.json").write_text("{")
    with pytest.raises(InvalidModelError, match="cannot be read"):
        read(model, 1000, options(written(tmp_path, "Once upon a time")))


def test_what_follows_in_the_text_is_left_for_verifying(
    sample_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_tokens(monkeypatch, 512)
    text = written(tmp_path, "".join(f"There were {i} little dogs. " for i in range(200)))
    used, _ = read(sample_model, 1000, options(text))
    rest = unused_text(sample_model, 1000, options(text), 2)
    assert rest is not None
    assert used.shape == rest.shape == (2, 256)
    assert not (rest[:, None] == used).all(-1).any()
    assert unused_text(sample_model, 1000, options(text), 99) is None
    assert unused_text(sample_model, 1000, options(None), 2) is None
