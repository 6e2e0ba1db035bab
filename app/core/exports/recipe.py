"""What an export gives: a file for another program, and what that program makes of the formats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from bitbudget.app.core.errors import ConflictError
from bitbudget.app.core.export_target import Target
from bitbudget.app.core.manifest import Manifest

__all__ = ["Change", "Recipe", "check_plain"]


@dataclass(frozen=True, slots=True)
class Change:
    """A module that the target stores in another format: its bytes here and there."""

    path: str
    format: str
    stored_as: str
    bytes_here: int
    bytes_there: int


@dataclass(frozen=True, slots=True)
class Recipe:
    """The text of a recipe, how to use it, and every module whose format the target has not.

    `bytes_there` are those of all modules as the target stores them, without its file headers.
    """

    target: Target
    text: str
    usage: str
    bytes_there: int
    changes: tuple[Change, ...] = ()

    def notes(self, manifest: Manifest) -> Iterator[str]:
        """Yield sentences on what differs from the manifest, with the bytes."""
        kinds = Counter((change.format, change.stored_as) for change in self.changes)
        for (format_, stored_as), count in sorted(kinds.items()):
            same = [c for c in self.changes if (c.format, c.stored_as) == (format_, stored_as)]
            extra = sum(change.bytes_there - change.bytes_here for change in same)
            modules = "1 module" if count == 1 else f"{count} modules"
            yield f"{modules} of {format_}: {self.target} stores {stored_as}, {extra:+,} bytes"
        if self.bytes_there > manifest.budget_bytes:
            over = self.bytes_there - manifest.budget_bytes
            yield (
                f"in all {self.bytes_there:,} bytes, {over:,} more than the budget of "
                f"{manifest.budget_bytes:,}: allocate for that much less, or leave formats out"
            )


def check_plain(manifest: Manifest, target: Target) -> None:
    """Raise ConflictError for a rotated model: its weights are not those the target reads."""
    if manifest.rotation != "none":
        raise ConflictError(
            what="manifest",
            name=manifest.model.name,
            reason=f"it is for weights with the rotation {manifest.rotation!r}, which {target} "
            "does not apply",
            remedy="allocate with --rotation none, or write the checkpoint with bitbudget quantize",
        )
