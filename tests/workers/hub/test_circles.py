"""What a Hub, or what lies before it, answers without end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from bitbudget.app.core.errors import HubUnavailableError
from bitbudget.app.core.hub_id import HubId
from bitbudget.workers.hub.client import Hub


class _Circle(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(302)
        self.send_header("Location", self.path)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET  # noqa: N815 - the name that its base calls

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its own name
        """Say nothing."""


@pytest.fixture
def circle() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Circle) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_redirects_in_a_circle_end_with_a_sentence(circle: str) -> None:
    with pytest.raises(HubUnavailableError, match="circle"):
        Hub(circle).resolve(HubId("org/name"))
