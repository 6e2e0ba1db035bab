from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

from bitbudget.workers.native.blas import preload_environment

HAS_OPENBLAS = sys.platform == "linux" and importlib.util.find_spec("scipy_openblas32") is not None
NEEDS_OPENBLAS = pytest.mark.skipif(not HAS_OPENBLAS, reason="scipy-openblas32 is not installed")

MATMUL = """
import time
import mlx.core as mx
import numpy as np
mx.set_default_device(mx.cpu)
rng = np.random.default_rng(0)
a, b = (rng.standard_normal((512, 512), dtype=np.float32) for _ in range(2))
x, y = mx.array(a), mx.array(b)
mx.eval(x @ y)
start = time.perf_counter()
product = np.array(x @ y)
seconds = time.perf_counter() - start
singular = np.array(mx.linalg.svd(x, compute_uv=False, stream=mx.cpu))
assert np.allclose(product, a @ b, atol=1e-3)
assert np.allclose(singular, np.linalg.svd(a, compute_uv=False), atol=1e-2)
print(2 * 512**3 / seconds / 1e9)
"""


def run_matmul(environment: dict[str, str]) -> float:
    command = [sys.executable, "-c", MATMUL]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


@NEEDS_OPENBLAS
def test_matmul_is_right_and_faster_with_the_preload() -> None:
    plain = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}
    assert run_matmul(preload_environment(plain)) > 2 * run_matmul(plain)


@NEEDS_OPENBLAS
def test_an_existing_preload_is_kept_once() -> None:
    once = preload_environment({"LD_PRELOAD": "/lib/other.so", "HOME": "/"})
    assert once["LD_PRELOAD"].endswith(":/lib/other.so")
    assert once["HOME"] == "/"
    assert preload_environment(once) == once


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not {"LD_PRELOAD", "GLIBC_TUNABLES"} & set(preload_environment({"A": "b"}))


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator is Linux's")
@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("", "glibc.malloc.hugetlb=1"),
        ("glibc.malloc.check=3", "glibc.malloc.check=3:glibc.malloc.hugetlb=1"),
        ("glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=0"),
    ],
)
def test_huge_pages_are_asked_for_unless_told_otherwise(given: str, wanted: str) -> None:
    assert preload_environment({"GLIBC_TUNABLES": given})["GLIBC_TUNABLES"] == wanted


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator is Linux's")
def test_a_child_starts_with_the_variables() -> None:
    code = "import os; print(os.environ['GLIBC_TUNABLES'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=preload_environment(os.environ),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "hugetlb" in done.stdout
    assert not done.stderr


@NEEDS_OPENBLAS
def test_the_helper_runs_python_with_the_preload() -> None:
    code = "import os; print(os.environ['LD_PRELOAD'])"
    command = [sys.executable, "-m", "bitbudget.workers.native.preload", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "blas-shim" in done.stdout


def test_threads_leave_room_for_others_unless_told_otherwise() -> None:
    assert int(preload_environment({})["OPENBLAS_NUM_THREADS"]) <= max(
        1, (os.cpu_count() or 1) // 2
    )
    assert preload_environment({"OPENBLAS_NUM_THREADS": "7"})["OPENBLAS_NUM_THREADS"] == "7"
