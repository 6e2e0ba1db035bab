"""How a route gets the part of the running server that it needs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from fastapi import FastAPI, Request

__all__ = ["provide", "provided"]

Part = TypeVar("Part")


def provide(app: FastAPI, *parts: object) -> None:
    """Make each part available to routes under its type."""
    app.state.provided = {type(part): part for part in parts}


def provided(kind: type[Part]) -> Callable[[Request], Awaitable[Part]]:
    """Return a FastAPI dependency that gives the part of this type.

    A domain names its own once and its routes use that name:

        Jobs = Annotated[JobService, Depends(provided(JobService))]
    """

    async def find(request: Request) -> Part:
        part: Part = request.app.state.provided[kind]
        return part

    return find
