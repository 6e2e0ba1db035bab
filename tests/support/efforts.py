"""Efforts made small, for tests that run models."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bitbudget.app.core.effort import EFFORTS, Effort

__all__ = ["limit_tokens"]


def limit_tokens(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Let the standard effort measure on `most` tokens at most."""
    small = replace(EFFORTS[Effort.STANDARD], most_tokens=most)
    monkeypatch.setitem(EFFORTS, Effort.STANDARD, small)
