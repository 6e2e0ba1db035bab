"""Sources with a bug planted in them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from bitbudget.metal_kernels.launch import Launch, Source

__all__ = ["BARRIER", "Mutant", "mutate"]

BARRIER = "threadgroup_barrier(mem_flags::mem_threadgroup);"


@dataclass(frozen=True)
class Mutant(Source):
    """A source in which the `nth` place of `old` is replaced by `new`, in header or body."""

    old: str = ""
    new: str = ""
    nth: int = 0

    def _changed(self, text: str) -> str:
        parts = text.split(self.old)
        if len(parts) <= self.nth + 1:
            return text
        split = self.nth + 1
        return self.old.join(parts[:split]) + self.new + self.old.join(parts[split:])

    def body_text(self) -> str:
        return self._changed(Source.body_text(self))

    def header_text(self) -> str:
        return self._changed(Source.header_text(self))


def mutate(launch: Launch, old: str, new: str, nth: int = 0) -> Launch:
    """Return `launch` with a bug; AssertionError when `old` is not there to be replaced."""
    fields = {f.name: getattr(launch.source, f.name) for f in dataclasses.fields(Source)}
    mutant = Mutant(**fields, old=old, new=new, nth=nth)
    original = launch.source.header_text() + launch.source.body_text()
    assert mutant.header_text() + mutant.body_text() != original, old
    return dataclasses.replace(launch, source=mutant)
