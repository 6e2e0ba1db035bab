from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

from bitbudget.workers.native.blas import AMX_THREADS_VARIABLE, preload_environment
from bitbudget.workers.native.threads import default_threads

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


def printed_number(script: str, environment: dict[str, str]) -> float:
    """Return the number that a Python script prints in a process of this environment."""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


@NEEDS_OPENBLAS
def test_matmul_is_right_and_faster_with_the_preload() -> None:
    plain = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}
    fast = printed_number(MATMUL, preload_environment(plain))
    assert fast > 2 * printed_number(MATMUL, plain)


@NEEDS_OPENBLAS
def test_an_existing_preload_is_kept_once() -> None:
    once = preload_environment({"LD_PRELOAD": "/lib/other.so", "HOME": "/"})
    assert once["LD_PRELOAD"].endswith(":/lib/other.so")
    assert once["HOME"] == "/"
    assert preload_environment(once) == once


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not {"LD_PRELOAD", "GLIBC_TUNABLES"} & set(preload_environment({"A": "b"}))


KEPT = "glibc.malloc.mmap_threshold=134217728:glibc.malloc.trim_threshold=536870912"


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator is Linux's")
@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("", f"glibc.malloc.hugetlb=1:{KEPT}"),
        ("glibc.malloc.check=3", f"glibc.malloc.check=3:glibc.malloc.hugetlb=1:{KEPT}"),
        ("glibc.malloc.hugetlb=0", f"glibc.malloc.hugetlb=0:{KEPT}"),
        (f"glibc.malloc.hugetlb=0:{KEPT}", f"glibc.malloc.hugetlb=0:{KEPT}"),
    ],
)
def test_the_allocator_is_told_unless_it_was_told_otherwise(given: str, wanted: str) -> None:
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
    told = preload_environment({"OPENBLAS_NUM_THREADS": "7"})
    assert told["OPENBLAS_NUM_THREADS"] == told[AMX_THREADS_VARIABLE] == "7"


def test_a_child_of_a_child_has_as_many_threads() -> None:
    once = preload_environment({})
    assert int(once[AMX_THREADS_VARIABLE]) == default_threads()
    assert preload_environment(once) == once


ERRORS = """
import itertools
import mlx.core as mx
import numpy as np
mx.set_default_device(mx.cpu)
rng = np.random.default_rng(0)

def error(found, wanted):
    return np.linalg.norm(np.asarray(found) - wanted) / np.linalg.norm(wanted)

errors = []
# edges of blocks, of the depth that is packed at once on either side, and three threads' worth
shapes = [(128, 128, 128), (129, 143, 161), (16, 401, 1031), (531, 17, 600), (640, 700, 900)]
shapes += [(1100, 40, 5000), (40, 1100, 5000), (40, 30, 250_000)]
for (m, n, k), turn_a, turn_b in itertools.product(shapes, (False, True), (False, True)):
    a = rng.standard_normal((k, m) if turn_a else (m, k), dtype=np.float32)
    b = rng.standard_normal((n, k) if turn_b else (k, n), dtype=np.float32)
    c = rng.standard_normal((m, n), dtype=np.float32)
    exact = (a.T if turn_a else a).astype(np.float64) @ (b.T if turn_b else b)
    left = mx.array(a).T if turn_a else mx.array(a)
    right = mx.array(b).T if turn_b else mx.array(b)
    errors += [error(left @ right, exact), error(mx.addmm(mx.array(c), left, right), exact + c)]
for rows, columns in [(300, 170), (170, 300), (900, 700)]:
    x = rng.standard_normal((rows, columns), dtype=np.float32)
    own, exact = mx.array(x), x.astype(np.float64)
    errors += [error(own.T @ own, exact.T @ exact), error(own @ own.T, exact @ exact.T)]
tiny = rng.standard_normal((256, 256), dtype=np.float32) * 1e-30
huge = tiny * 1e30
errors.append(error(mx.array(tiny) @ mx.array(huge), tiny.astype(np.float64) @ huge))
print(max(errors))
"""


def largest_matmul_error(**variables: str) -> float:
    """Return the largest relative error, in the Frobenius norm, of products of many shapes."""
    return printed_number(ERRORS, preload_environment(os.environ) | variables)


@NEEDS_OPENBLAS
@pytest.mark.parametrize("threads", ["1", "3"])
def test_products_of_every_shape_are_as_close_as_two_bfloat16_terms(threads: str) -> None:
    assert largest_matmul_error(**{AMX_THREADS_VARIABLE: threads}) < 1e-5


BITS = """
import hashlib
import mlx.core as mx
import numpy as np
mx.set_default_device(mx.cpu)
rng = np.random.default_rng(0)
digest = hashlib.sha256()
for rows, columns in [(900, 700), (1500, 300), (300, 1500), (600, 9000), (90_000, 200)]:
    x = mx.array(rng.standard_normal((rows, columns), dtype=np.float32))
    y = mx.array(rng.standard_normal((rows, 500), dtype=np.float32))
    for found in (x.T @ x, x[:1500] @ x[:1500].T, x.T @ y, y.T @ x):
        digest.update(np.array(found).tobytes())
print(int(digest.hexdigest()[:12], 16))
"""


@NEEDS_OPENBLAS
def test_a_product_has_the_same_bits_from_any_number_of_threads() -> None:
    environment = preload_environment(os.environ)
    by_threads = [
        printed_number(BITS, environment | {AMX_THREADS_VARIABLE: str(threads)})
        for threads in (1, 2, 3, 7)
    ]
    assert len(set(by_threads)) == 1


@NEEDS_OPENBLAS
def test_the_highest_precision_is_that_of_float32() -> None:
    assert largest_matmul_error(BITBUDGET_MATMUL_PRECISION="highest") < 1e-6
