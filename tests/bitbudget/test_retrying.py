from __future__ import annotations

import time

import pytest

from bitbudget.retrying import RetryPolicy

POLICY = RetryPolicy(attempts=3, first_wait_seconds=0.01, longest_wait_seconds=5.0)


class Flaky:
    """Fails so many times before it answers."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.failures:
            raise TimeoutError(self.calls)
        return "answered"


def test_what_passes_is_tried_until_it_has_passed() -> None:
    flaky = Flaky(2)
    assert POLICY.call(flaky, when=lambda error: isinstance(error, TimeoutError)) == "answered"
    assert flaky.calls == 3


def test_the_last_error_is_raised_when_the_attempts_are_used_up() -> None:
    with pytest.raises(TimeoutError, match="3"):
        POLICY.call(Flaky(9), when=lambda _: True)


def test_what_cannot_pass_is_tried_once() -> None:
    flaky = Flaky(9)
    with pytest.raises(TimeoutError, match="1"):
        POLICY.call(flaky, when=lambda _: False)
    assert flaky.calls == 1


def test_a_server_that_says_when_is_asked_then() -> None:
    started = time.monotonic()
    POLICY.call(Flaky(1), when=lambda _: POLICY.after({"Retry-After": "1"}))
    assert 1.0 <= time.monotonic() - started < 4.0


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({}, True),
        ({"Retry-After": "0"}, 0.01),
        ({"Retry-After": "5"}, 5.0),
        ({"Retry-After": "6"}, False),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, True),
    ],
)
def test_retry_after_is_heeded_up_to_the_longest_wait(
    headers: dict[str, str], said: object
) -> None:
    assert POLICY.after(headers) == said
