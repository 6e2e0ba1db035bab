"""What is freed goes back to the system when it is asked for."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from bitbudget.workers.native.blas import preload_environment

SCRIPT = """
import numpy as np, psutil
from bitbudget.workers.native.memory import return_freed_memory
resident = lambda: psutil.Process().memory_info().rss >> 20
before = resident()
arrays = [np.ones(1 << 17) for _ in range(300)]
kept = np.ones(1 << 17)
del arrays
freed = resident()
return_freed_memory()
print(before, freed, resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc's allocator is told to keep blocks")
def test_blocks_that_wait_to_be_used_again_are_given_back() -> None:
    made = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=preload_environment(os.environ),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    before, freed, returned = map(int, made.stdout.split())
    assert freed - before > 200
    assert returned - before < 100
