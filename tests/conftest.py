"""Fixtures that every part of the tests shares."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator
from pathlib import Path

import pytest

from bitbudget import samples

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def sample_model() -> Path:
    """The bundled model's folder."""
    return samples.sample_model()


@pytest.fixture(scope="session")
def fixtures_dir() -> Path:
    """Further trained models and texts, which are not part of the repository."""
    folder = Path(os.environ.get("BITBUDGET_FIXTURES", REPOSITORY.parent / "shared" / "fixtures"))
    if not folder.is_dir():
        pytest.skip(f"no fixtures at {folder}: set BITBUDGET_FIXTURES to their folder")
    return folder


def pytest_collection_finish(session: pytest.Session) -> None:
    """Keep the collected tests out of every later garbage collection: they live to the end."""
    del session
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure where every tool must be there (`.ci/run`)."""
    report = yield
    required = os.environ.get("BITBUDGET_REQUIRE_TOOLS") == "1"
    hardware = any(item.get_closest_marker(name) for name in ("metal", "cuda"))
    if required and report.skipped and not hardware and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped where every tool must be there: {call.excinfo}"
    return report
