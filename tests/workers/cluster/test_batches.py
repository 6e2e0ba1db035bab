from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitbudget.app.core.errors import InvalidModelError
from bitbudget.workers.cluster.batches import WorkerFailedError, balanced_batches, completed


@dataclass
class Counting:
    """A batch that fails in its first attempts."""

    name: str
    failures: list[Exception] = field(default_factory=list)
    attempts: int = 0

    def work(self) -> Iterable[int]:
        self.attempts += 1
        if self.failures:
            raise self.failures.pop()
        return [self.attempts]


BROKEN = InvalidModelError(where="w", found="NaN", expected="numbers", remedy="fetch it again")


def results(*batches: Counting) -> dict[str, tuple[int, ...]]:
    with ThreadPoolExecutor(2) as executor:
        return {batch.name: found for batch, found in completed(executor, Counting.work, batches)}


def test_what_another_attempt_may_mend_gets_three() -> None:
    failures = [OSError("stale"), WorkerFailedError(name="b", reason="died")]
    assert results(Counting("a"), Counting("b", failures)) == {"a": (1,), "b": (3,)}


def test_an_error_that_stays_names_the_batch() -> None:
    batch = Counting("model.layers.7", [OSError("stale")] * 5)
    with pytest.raises(WorkerFailedError, match=r"^model\.layers\.7: .*OSError: stale"):
        results(batch)
    assert batch.attempts == 3


@pytest.mark.parametrize("error", [BROKEN, ZeroDivisionError("0")])
def test_what_no_attempt_can_mend_is_tried_once(error: Exception) -> None:
    batch = Counting("a", [error])
    with pytest.raises((InvalidModelError, WorkerFailedError)):
        results(batch)
    assert batch.attempts == 1


@given(sizes=st.lists(st.integers(0, 10**6), max_size=40), count=st.integers(1, 8))
def test_batches_are_balanced(sizes: list[int], count: int) -> None:
    items = list(enumerate(sizes))
    batches = balanced_batches(items, count, lambda item: item[1])
    assert sorted(item for batch in batches for item in batch) == items
    loads = [sum(size for _, size in batch) for batch in batches]
    assert len(batches) <= count
    assert loads == sorted(loads, reverse=True)
    if loads:
        assert max(loads) <= sum(sizes) / count + max(sizes)
