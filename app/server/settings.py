"""Every setting of the server, one frozen class read from `BITBUDGET_*` variables."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

__all__ = ["Settings", "is_loopback", "settings_table"]

_PREFIX = "BITBUDGET_"


class Settings(BaseSettings):
    """What can be set; each field is the variable `BITBUDGET_<NAME>`."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True, extra="ignore")

    home: Path = Field(Path("~/.bitbudget"), description="Folder for state and caches.")
    database_url: str = Field(
        "",
        description="SQLAlchemy URL, such as postgresql+psycopg://user@host/name; "
        "empty: SQLite in the home folder.",
    )
    database_pool_size: int = Field(20, ge=1, description="Database connections per server.")
    artifact_url: str = Field(
        "",
        description="Where artifacts are stored: a folder or any fsspec URL; "
        "empty: a folder in the home folder.",
    )
    host: str = Field(
        "127.0.0.1",
        description="Address to listen on; any other than loopback needs a key first.",
    )
    port: int = Field(8765, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    require_keys: bool = Field(
        default=False,
        description="Ask for keys on loopback, too, in place of the token in the home folder: "
        "set it behind a reverse proxy.",
    )
    allowed_hosts: str = Field(
        "",
        description="Comma-separated Host names to answer to; "
        "empty: loopback names on loopback without keys, else any.",
    )
    model_roots: str = Field(
        "",
        description="Folders that local model paths may lie in, separated like PATH; "
        "empty: any on loopback without keys, else none.",
    )
    header_readers: int = Field(
        2,
        ge=0,
        description="Processes that may read the headers of unknown models for `fit` at once; "
        "0: none. They need the worker extra.",
    )
    solver_threads: int = Field(
        2, ge=1, description="Requests that are solved at once; one key has half of them."
    )
    solver_waiting_per_key: int = Field(
        64, ge=1, description="Requests of one key that may wait for a solver or have one."
    )
    solver_seconds: float = Field(
        10.0, gt=0, description="Most time of one search, whatever a request asks for."
    )
    lease_seconds: float = Field(
        60.0, gt=0, description="How long a lease lasts without a renewal."
    )
    renew_seconds: float = Field(5.0, gt=0, description="How often a worker renews its lease.")
    poll_seconds: float = Field(2.0, gt=0, description="How often an idle worker asks for a job.")
    sweep_seconds: float = Field(5.0, gt=0, description="How often expired leases are requeued.")
    event_poll_seconds: float = Field(
        0.25, gt=0, description="How often event streams look for new events."
    )
    heartbeat_seconds: float = Field(
        15.0, gt=0, description="How often an idle event stream sends a comment."
    )
    shutdown_seconds: int = Field(
        5, ge=1, description="How long open requests may take to end at shutdown."
    )
    max_body_bytes: int = Field(2**20, ge=1, description="Largest request body but for the next.")
    max_artifact_bytes: int = Field(
        16 * 2**20, ge=1, description="Largest uploaded artifact or measurement."
    )
    max_open_jobs_per_key: int = Field(
        1000, ge=1, description="Jobs that one key may have queued or running."
    )
    requests_per_minute_per_key: int = Field(
        6000, ge=1, description="Requests that one key may make in a minute, per server."
    )
    retention_days: float = Field(
        90.0,
        ge=1,
        le=36_500,
        description="Age at which `bitbudget gc` removes finished jobs and caches; at least a day, "
        "so that a job that runs keeps what it has.",
    )
    measurement_repositories: str = Field(
        "",
        description="Comma-separated repositories on the Hub, `[datasets/]org/name`, that workers "
        "and commands look for a measurement in before they measure; empty: none.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severity that is logged."
    )
    log_format: Literal["json", "text"] = Field(
        "text", description="One JSON object per line, or text for people."
    )

    @property
    def home_folder(self) -> Path:
        """The home folder, absolute."""
        return self.home.expanduser().resolve()

    @property
    def resolved_database_url(self) -> str:
        """The database's URL, the default filled in."""
        return self.database_url or f"sqlite:///{self.home_folder / 'bitbudget.db'}"

    @property
    def resolved_artifact_url(self) -> str:
        """The artifact store's URL, the default filled in."""
        return self.artifact_url or str(self.home_folder / "artifacts")

    @property
    def measurement_sources(self) -> tuple[str, ...]:
        """The repositories to look for measurements in."""
        names = (name.strip() for name in self.measurement_repositories.split(","))
        return tuple(name for name in names if name)

    @property
    def needs_keys(self) -> bool:
        """Whether requests must carry a bearer token."""
        return self.require_keys or not is_loopback(self.host)

    @property
    def answered_hosts(self) -> frozenset[str] | None:
        """Host names requests may be addressed to, None for any.

        An open server on loopback answers loopback names only, so that no web page can reach it by
        pointing a name of its own at 127.0.0.1 (DNS rebinding).
        """
        if self.allowed_hosts:
            return frozenset(name.strip().lower() for name in self.allowed_hosts.split(","))
        return None if self.needs_keys else frozenset({"localhost", "127.0.0.1", "[::1]"})

    @property
    def allowed_model_roots(self) -> tuple[Path, ...] | None:
        """Folders that local models may lie in, None for any."""
        if self.model_roots:
            parts = [part for part in self.model_roots.split(os.pathsep) if part]
            return tuple(Path(part).expanduser().resolve() for part in parts)
        return () if self.needs_keys else None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def settings_table() -> str:
    """Return every setting as a Markdown table: variable, default, meaning."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = "" if field.default == "" else f"`{field.default}`"
        rows.append(f"| `{_PREFIX}{name.upper()}` | {default} | {field.description} |")
    return "\n".join(rows) + "\n"
