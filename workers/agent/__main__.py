"""`python -m bitbudget.workers.agent --server URL`: be a worker until told to stop."""

from __future__ import annotations

import argparse
import logging
import os
import platform
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

from bitbudget.app.client.transport import ServerProblemError
from bitbudget.app.core.sizes import parse_size
from bitbudget.app.server.settings import Settings
from bitbudget.workers.agent.loop import Agent

__all__ = ["main"]


def main() -> int:
    """Run an agent; SIGTERM and SIGINT hand the job back and end it."""
    options = _options()
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s: %(message)s"
    )
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    stop = threading.Event()

    def end(_: int, __: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    agent = Agent(
        server=options.server,
        name=options.name,
        home=options.home,
        token=os.environ.get("BITBUDGET_TOKEN") or None,
        idle_exit=options.idle_exit,
        disk_limit_bytes=options.disk_limit and parse_size(options.disk_limit, "--disk-limit"),
        publishes_to=options.publish_to,
        measurement_repositories=Settings().measurement_sources,
        stop=stop,
    )
    try:
        agent.run()
    except ServerProblemError as error:
        logging.getLogger(__name__).error("%s", error)  # noqa: TRY400, the message says it all
        return 1
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bitbudget.workers.agent", description=__doc__)
    parser.add_argument("--server", required=True, help="such as http://127.0.0.1:8765")
    parser.add_argument("--name", default=platform.node() or "worker", help="shown to people")
    parser.add_argument(
        "--home", type=Path, default=Settings().home_folder, help="state and caches"
    )
    parser.add_argument("--disk-limit", help="most bytes of downloaded weights to keep: 20GiB")
    parser.add_argument(
        "--publish-to", default="", help="Hub namespace to publish to, with the token in HF_TOKEN"
    )
    parser.add_argument("--idle-exit", action="store_true", help="end when there is no job")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
