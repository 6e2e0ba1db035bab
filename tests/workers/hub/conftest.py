"""A Hub of our own for every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bitbudget.app.core.formats import KEEP
from bitbudget.app.core.manifest import Certificate, Manifest, ManifestModel, ModuleChoice
from bitbudget.app.core.measurement import Encoder, Sensitivity
from bitbudget.app.core.requests import AllocationRequest
from bitbudget.retrying import RetryPolicy
from bitbudget.workers.hub.client import Hub
from tests.workers.hub.hub_server import HubServer


@pytest.fixture
def server() -> Iterator[HubServer]:
    with HubServer() as running:
        yield running


@pytest.fixture
def hub(server: HubServer) -> Hub:
    retries = RetryPolicy(attempts=3, first_wait_seconds=0.01, longest_wait_seconds=2)
    return Hub(endpoint=server.endpoint, retries=retries)


@pytest.fixture
def manifest() -> Manifest:
    return Manifest(
        model=ManifestModel(
            name="org/model", revision="1" * 40, digest="0" * 64, model_type="x", weights=8_000
        ),
        measurement="0" * 64,
        encoder=Encoder.MINMAX,
        sensitivity=Sensitivity.FISHER,
        request=AllocationRequest(budget=10_000),
        budget_bytes=10_000,
        file_bytes=5_000,
        certificate=Certificate(
            predicted_kl_nats_per_token=0.1,
            bound=0.1,
            gap=0.0,
            shadow_price_nats_per_byte=0.0,
            status="optimal",
            solver="dp",
        ),
        modules={"model.norm": ModuleChoice(format=KEEP, bytes=5_000, t2=0.0, kl_nats=0.0)},
    )
