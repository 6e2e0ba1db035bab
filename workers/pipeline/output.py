"""The folder that a task writes: claimed before any work is done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bitbudget.app.contract.home import Home
from bitbudget.workers.pipeline.files import write_whole
from bitbudget.workers.quantize.draft import output_exists
from bitbudget.workers.quantize.output import check_output

__all__ = ["claimed_output"]


@contextmanager
def claimed_output(output: Path, home: Home) -> Iterator[None]:
    """Refuse an output that exists before any work is done, unless a killed run of ours made it.

    Until the block ends well, a later run may go on with what this one leaves behind.
    """
    check_output(output)
    mark = home.unfinished(output)
    if output.exists() and not mark.exists():
        raise output_exists(output)
    write_whole(mark, str(output).encode())
    try:
        yield
    except BaseException:
        if not output.exists() and not (output.parent / f".{output.name}.partial").exists():
            mark.unlink(missing_ok=True)
        raise
    mark.unlink(missing_ok=True)
