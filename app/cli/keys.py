"""`bitbudget key`: keys of the server on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from bitbudget.app.cli.options import Json
from bitbudget.app.cli.output import say
from bitbudget.app.core.canonical import JsonObject

if TYPE_CHECKING:
    from rich.console import Console

    from bitbudget.app.auth.service import ApiKey, KeyService

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Make, list and revoke the server's keys.")


def _service() -> KeyService:
    from bitbudget.app.cli.extras import require_extra

    require_extra("server", "key")
    from bitbudget.app.auth.service import KeyService
    from bitbudget.app.server.settings import Settings
    from bitbudget.app.storage import migrate
    from bitbudget.app.storage.database import Database
    from bitbudget.app.storage.ids import utc_now

    database = Database(Settings().resolved_database_url)
    migrate.upgrade(database)
    return KeyService(database, utc_now)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    *,
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help="jobs:read, jobs:write, measurements:write, worker or admin; repeatable."
        ),
    ] = None,
    days: Annotated[float | None, typer.Option(help="Days it is good for (default: ever).")] = None,
    as_json: Json = False,
) -> None:
    """Make a key and show its token, this once."""
    from bitbudget.app.auth.principal import Scope
    from bitbudget.app.core.errors import InvalidRequestError

    try:
        scopes = [Scope(value) for value in scope or ("jobs:read", "jobs:write")]
    except ValueError as error:
        raise InvalidRequestError(
            where="--scope",
            found=str(error).split(" is not")[0],
            expected=", ".join(Scope),
            remedy="write for example --scope jobs:write --scope worker",
        ) from error
    made = _service().create(name, scopes, days=days)

    def render(console: Console) -> None:
        console.print(made.token, markup=False, soft_wrap=True)
        console.print(f"[dim]id {made.key.id}; it cannot be shown again[/]")

    say({**_document(made.key), "token": made.token}, as_json=as_json, render=render)


@app.command("list")
def list_keys(*, as_json: Json = False) -> None:
    """List the keys; their tokens are not stored."""
    from bitbudget.app.cli.tables import listing

    keys = _service().keys()

    def render(console: Console) -> None:
        rows = []
        for key in keys:
            moments = (key.created_at, key.last_used_at, key.revoked_at)
            shown = ["-" if m is None else m.strftime("%Y-%m-%d %H:%M") for m in moments]
            rows.append((key.id, key.name, " ".join(key.scopes), *shown))
        columns = ("id", "name", "scopes", "created", "last used", "revoked")
        console.print(listing(columns, rows, copied=1) if keys else "no keys")

    say({"keys": [_document(key) for key in keys]}, as_json=as_json, render=render)


@app.command()
def revoke(
    key: Annotated[
        str, typer.Argument(metavar="KEY", help="Its id, the beginning of that, or its name.")
    ],
    *,
    as_json: Json = False,
) -> None:
    """Make a key useless from now on."""
    service = _service()
    revoked = service.revoke(service.named(key).id)
    said = f"revoked {revoked.name} ({revoked.id})"
    say(_document(revoked), as_json=as_json, render=lambda c: c.print(said, markup=False))


def _document(key: ApiKey) -> JsonObject:
    moments = {
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "last_used_at": key.last_used_at,
        "revoked_at": key.revoked_at,
    }
    times = {name: None if m is None else m.isoformat() for name, m in moments.items()}
    return {"id": key.id, "name": key.name, "scopes": list(key.scopes), **times}
