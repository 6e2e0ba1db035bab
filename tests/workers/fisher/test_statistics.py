"""What statistics say of a module's factors."""

from __future__ import annotations

import numpy as np

from bitbudget.workers.fisher import KroneckerTerm, ModuleStatistics


def test_a_stack_of_diagonals_is_no_matrix_when_experts_and_outputs_are_as_many() -> None:
    columns = np.stack([np.eye(32, dtype=np.float32)] * 4)
    rows = np.arange(16, dtype=np.float32).reshape(4, 4)
    assert KroneckerTerm(columns, rows).row_trace.tolist() == rows.sum(1).tolist()
    whole = np.stack([np.diag(part) for part in rows])
    assert KroneckerTerm(columns, whole).row_trace.tolist() == rows.sum(1).tolist()


def test_moments_are_made_without_changing_the_statistics() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 32)).astype(np.float32)
    columns, rows = x.T @ x, x[:, :8].T @ x[:, :8]
    known = ModuleStatistics(
        "m",
        1.0,
        np.ones(8),
        np.ones(32),
        (KroneckerTerm(columns.copy(), rows.copy()),),
        np.array(64),
    )
    moment, feedback = known.second_moment, known.feedback_rows(())
    assert np.array_equal(known.terms[0].columns, columns)
    assert np.array_equal(known.terms[0].rows, rows)
    assert np.allclose(np.diagonal(moment), np.diagonal(columns) * np.trace(rows), rtol=1e-5)
    off = ~np.eye(8, dtype=bool)
    assert (np.abs(feedback[off]) < np.abs(rows[off])).all()
    assert np.array_equal(np.diagonal(feedback), np.diagonal(rows))
