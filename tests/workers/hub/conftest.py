"""A Hub of our own for every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.workers.hub.hub_server import HubServer
from workers.hub.client import Hub
from workers.hub.patience import Patience


@pytest.fixture
def server() -> Iterator[HubServer]:
    with HubServer() as running:
        yield running


@pytest.fixture
def hub(server: HubServer) -> Hub:
    patience = Patience(attempts=3, first_wait_seconds=0.01, longest_wait_seconds=2)
    return Hub(endpoint=server.endpoint, patience=patience)
