"""Trying again what may pass: one policy for the Hub and for our own server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import stamina

__all__ = ["RetryPolicy", "retry_after_seconds"]

T = TypeVar("T")
MayPass = Callable[[Exception], bool | float]
"""Whether an error may pass; as a number, the seconds after which it may."""

stamina.instrumentation.set_on_retry_hooks([])  # callers say what failed, once, in the end


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often something is tried, and how long is waited in between.

    The wait doubles from `first_wait_seconds`, with up to as much again at random, so that many
    clients of one server do not return at once.

        policy = RetryPolicy(attempts=3)
        answer = policy.call(ask, when=lambda error: isinstance(error, TimeoutError))
    """

    attempts: int = 6
    first_wait_seconds: float = 1.0
    longest_wait_seconds: float = 120.0

    def call(self, function: Callable[[], T], *, when: MayPass) -> T:
        """Return `function()`, called again while its error may pass; raise the last one."""
        for attempt in self.tries(when):
            with attempt:
                return function()
        raise AssertionError("the last attempt returns or raises")

    def tries(self, when: MayPass) -> Iterable[stamina.Attempt]:
        """Give attempts as context managers; all but the last swallow an error that may pass."""
        return stamina.retry_context(
            on=when,
            attempts=self.attempts,
            timeout=None,
            wait_initial=self.first_wait_seconds,
            wait_max=self.longest_wait_seconds,
            wait_jitter=self.first_wait_seconds,
        )

    def after(self, headers: Mapping[str, str]) -> bool | float:
        """Say when to try again after an answer with `headers`: as `Retry-After` asks.

        False when that is longer than the longest wait, True when it is not said.
        """
        seconds = retry_after_seconds(headers)
        if seconds is None:
            return True
        return (
            max(seconds, self.first_wait_seconds) if seconds <= self.longest_wait_seconds else False
        )


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of a `Retry-After` header; None without one, or where it is a date."""
    value = headers.get("Retry-After", "")
    return float(value) if value.isdecimal() else None
