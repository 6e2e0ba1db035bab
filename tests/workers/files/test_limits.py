from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
from bitbudget.workers.files.limits import limit_reading
limit_reading()
fine = bytearray(2**27)
try:
    bytearray(2**31)
except MemoryError:
    print("refused")
"""


def test_a_reader_of_headers_has_no_more_than_half_a_gibibyte() -> None:
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=60
    )
    if sys.platform == "linux":
        assert found.stdout == "refused\n", found.stderr
    else:
        assert found.returncode != 0 or found.stdout == "refused\n"


BLOCK = """
from bitbudget.workers.files.limits import reading
with reading():
    try:
        bytearray(2**31)
    except MemoryError:
        print("refused")
print(len(bytearray(2**31)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the process ends")
def test_a_job_that_reads_a_model_is_limited_until_it_knows_it() -> None:
    found = subprocess.run(
        [sys.executable, "-c", BLOCK], capture_output=True, text=True, check=False, timeout=60
    )
    assert found.stdout == f"refused\n{2**31}\n", found.stderr


COMPUTING = """
import time
from bitbudget.workers.files import limits
limits._CPU_SECONDS = 1
with limits.reading():
    pass
until = time.process_time() + 2.5
while time.process_time() < until:
    pass
print("free", flush=True)
with limits.reading():
    while True:
        pass
"""


def test_a_job_that_reads_a_model_has_little_processor_time_until_it_knows_it() -> None:
    found = subprocess.run(
        [sys.executable, "-c", COMPUTING], capture_output=True, text=True, check=False, timeout=120
    )
    assert (found.returncode, found.stdout) == (-signal.SIGXCPU, "free\n"), found.stderr


WRITING = """
import os
from bitbudget.workers.files.limits import reading
file = os.open("large", os.O_CREAT | os.O_RDWR)
with reading():
    try:
        os.truncate(file, 2**29)
    except OSError as error:
        print(error.strerror)
    with reading(2**30):
        pass
os.truncate(file, 2**29)
with reading(2**30):
    os.truncate(file, 2**29 + 1)
print(os.fstat(file).st_size)
"""


def test_a_job_that_reads_a_model_writes_no_large_file_until_it_knows_it(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-c", WRITING],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=tmp_path,
    )
    assert found.stdout == f"File too large\n{2**29 + 1}\n", found.stderr
