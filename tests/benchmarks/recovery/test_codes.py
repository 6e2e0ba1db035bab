"""Codes that the recovery benchmark moves."""

from __future__ import annotations

import numpy as np

from benchmarks.recovery.codes import move_codes
from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.formats import parse_format
from bitbudget.workers.encoders.compensated import Feedback
from bitbudget.workers.encoders.descent import code_weight, default_sweeps
from bitbudget.workers.encoders.quadratic import damped_term
from tests.workers.encoders.objective import objective


def moment(rng: np.random.Generator, width: int) -> np.ndarray:
    x = rng.normal(size=(2 * width, width)) * np.exp(rng.normal(size=width))
    result: np.ndarray = (x.T @ x / len(x)).astype(np.float32)
    return result


def test_codes_that_move_lower_the_objective_and_stay_where_it_is_least() -> None:
    rng = np.random.default_rng(11)
    format_, shape = parse_format("affine3g32"), (40, 64)
    rows = moment(rng, shape[0])
    terms = (damped_term(moment(rng, shape[1]), rows),)
    weight = rng.normal(size=shape).astype(np.float32)
    feedback = Feedback.against(terms[0].columns, terms[0].rows)
    start = code_weight(weight, (format_,), Dtype.F32, feedback, terms, sweeps=1)[0]
    goal = weight + 0.1 * rng.normal(size=shape).astype(np.float32)
    moved = move_codes(start, goal, format_, Dtype.F32, terms, sweeps=default_sweeps(64))
    assert objective(terms, moved.values - goal) < objective(terms, start.values - goal)
    still = move_codes(start, start.values, format_, Dtype.F32, terms, sweeps=default_sweeps(64))
    assert np.array_equal(still.codes, start.codes)
