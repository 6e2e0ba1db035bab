"""The whole OpenAPI document, attacked by schemathesis on a server that has real data."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import positive_data_acceptance
from schemathesis.specs.openapi.schemas import OpenApiSchema

from bitbudget.app.core.measurement import Measurement
from bitbudget.app.server.main import create_app
from bitbudget.app.server.settings import Settings
from tests.support.http import FakeClock, Server, opened

pytestmark = pytest.mark.contract
EXAMPLES = 25


def is_about_data(answer: Any) -> bool:
    """Whether a well-formed request was refused for what is stored, as it must be."""
    if answer.status_code == 422:
        return "errors" not in answer.json()
    return bool(answer.status_code == 410)


@pytest.fixture(scope="module")
def known(
    sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory, measurement: Measurement
) -> Iterator[tuple[OpenApiSchema, dict[str, str]]]:
    """The document of a server, and identifiers that exist there."""
    home = tmp_path_factory.mktemp("home")
    shutil.copy(sqlite_template, home / "bitbudget.db")
    app = create_app(
        Settings(home=home, sweep_seconds=3600, allowed_hosts="testserver", header_readers=0),
        clock=FakeClock(),
    )
    with opened(app, "http://testserver") as http:
        server = Server(http, app.state.services, FakeClock())
        job = server.submit()
        worker = server.worker()
        worker.claim()
        worker.do(measurement)
        server.submit(model="org/other")
        worker.claim()
        ids = {
            "job_id": job["id"],
            "measurement_id": measurement.key,
            "lease_id": worker.lease["lease_id"],
        }
        yield schemathesis.openapi.from_asgi("/openapi.json", app, headers=http.headers), ids


def test_every_operation_keeps_its_promises(
    known: tuple[OpenApiSchema, dict[str, str]], subtests: pytest.Subtests
) -> None:
    document, ids = known
    for found in document.get_all_operations():
        assert isinstance(found, Ok)
        operation = found.ok()
        with subtests.test(operation.label):
            attack(operation, ids)


def attack(operation: Any, ids: dict[str, str]) -> None:
    @given(case=operation.as_strategy())
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def keeps_promises(case: Any) -> None:
        for name, identifier in ids.items():
            if name in case.path_parameters and len(case.path_parameters[name]) % 4:
                case.path_parameters[name] = identifier
        answer = case.call()
        excluded = [positive_data_acceptance] if is_about_data(answer) else []
        case.validate_response(answer, excluded_checks=excluded)

    keeps_promises()
