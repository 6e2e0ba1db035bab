"""The example notebook: run from top to bottom, as a reader would, with its outputs kept.

python -m tools.notebook [FILE]   runs docs/notebook.ipynb; writes what it shows to FILE, or back
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Final

import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

__all__ = ["NOTEBOOK", "execute", "main"]

NOTEBOOK: Final = Path(__file__).resolve().parents[1] / "docs" / "notebook.ipynb"
_CELL_SECONDS: Final = 120


def execute(folder: Path) -> nbformat.NotebookNode:
    """Return the notebook as a run in `folder` leaves it; CellExecutionError where a cell fails.

    Times are left out. The kernel is spoken to over sockets of a folder, not over a network.
    """
    notebook: nbformat.NotebookNode = nbformat.read(NOTEBOOK, as_version=4)
    with tempfile.TemporaryDirectory() as sockets:
        kernel = AsyncKernelManager(transport="ipc", connection_file=f"{sockets}/kernel.json")
        client = NotebookClient(
            notebook,
            km=kernel,
            timeout=_CELL_SECONDS,
            resources={"metadata": {"path": str(folder)}},
            record_timing=False,
        )
        client.execute()
    notebook.metadata.pop("language_info", None)
    return notebook


def main(output: Path = NOTEBOOK) -> None:
    """Run it in a new folder and write it, with what it shows, to `output`."""
    with tempfile.TemporaryDirectory() as folder:
        nbformat.write(execute(Path(folder)), output)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
