from __future__ import annotations

import subprocess
import sys

PROGRAM = """
from bitbudget.workers.child.limits import limit_reading
limit_reading()
fine = bytearray(2**28)
try:
    bytearray(2**31)
except MemoryError:
    print("refused")
"""


def test_a_reader_of_headers_has_no_more_than_a_gibibyte() -> None:
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=60
    )
    if sys.platform == "linux":
        assert found.stdout == "refused\n", found.stderr
    else:
        assert found.returncode != 0 or found.stdout == "refused\n"
