"""Inventories and measurements small enough to read, and the server on real databases."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.formats import KEEP, STOCK_FORMATS, Format
from bitbudget.app.core.inventory import (
    Architecture,
    CacheKind,
    CacheLayer,
    Inventory,
    Module,
    ModuleKind,
    StoredArray,
)
from bitbudget.app.core.measurement import (
    KEEP_POINT,
    Curve,
    CurvePoint,
    Encoder,
    Measurement,
    ModelIdentity,
    Sensitivity,
)
from bitbudget.app.server.main import create_app
from bitbudget.app.server.settings import Settings
from bitbudget.app.storage.database import Database
from bitbudget.app.storage.migrate import upgrade
from tests.support.http import FakeClock, Server, opened
from tests.support.postgres import Cluster, running


def _module(path: str, shape: tuple[int, ...], kind: ModuleKind = ModuleKind.LINEAR) -> Module:
    layer = int(path.split(".")[2]) if ".layers." in path else None
    return Module(path, kind, shape, Dtype.BF16, decision_group=path, layer=layer)


@pytest.fixture(scope="session")
def inventory() -> Inventory:
    """Two layers, one stack of experts, one width that no group divides."""
    return Inventory(
        architecture=Architecture(
            model_type="llama",
            hidden_size=128,
            intermediate_size=172,
            vocabulary_size=512,
            layers=2,
            attention_heads=4,
            max_context=256,
            cache=(
                CacheLayer(0, CacheKind.FULL, elements_per_token=128, head_width=32),
                CacheLayer(1, CacheKind.FULL, elements_per_token=128, head_width=32),
            ),
        ),
        modules=(
            _module("model.embed_tokens", (512, 128), ModuleKind.EMBEDDING),
            _module("model.layers.0.self_attn.q_proj", (128, 128)),
            _module("model.layers.0.mlp.down_proj", (128, 172)),
            _module(
                "model.layers.1.mlp.switch_mlp.up_proj", (8, 64, 128), ModuleKind.SWITCH_LINEAR
            ),
        ),
        passthrough=(
            StoredArray("model.norm.weight", Dtype.BF16, (128,)),
            StoredArray("model.layers.0.odd", Dtype.BF16, (3,)),
        ),
    )


def _point(format_: Format, alpha: float) -> CurvePoint:
    if format_ == KEEP:
        return KEEP_POINT
    t2 = 1.5 * 4.0**-format_.bits * (1 + format_.group_size / 256)
    return CurvePoint(format_, t2=t2, kl_nats=alpha * t2)


@pytest.fixture(scope="session")
def measurement(inventory: Inventory) -> Measurement:
    """Gaussian-like curves with a different sensitivity per module."""
    curves = []
    for index, module in enumerate(inventory.modules):
        alpha = 0.5 + index
        points = tuple(_point(f, alpha) for f in module.legal_formats(STOCK_FORMATS))
        curves.append(Curve(module.path, alpha, points, features={"rms": 0.02}))
    return Measurement(
        model=ModelIdentity("org/model", "main", "0" * 64),
        inventory=inventory,
        encoder=Encoder.YAQA,
        sensitivity=Sensitivity.FISHER,
        curves=tuple(curves),
        text="self",
        tokens=4096,
    )


def _migrated(url: str) -> None:
    database = Database(url)
    upgrade(database)
    database.dispose()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty SQLite file."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    _migrated(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def postgres_cluster() -> Iterator[Cluster]:
    """A real PostgreSQL with a migrated database called `migrated`."""
    with running() as cluster:
        _migrated(cluster.create_database("migrated"))
        yield cluster


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty migrated database on each kind of server."""
    if request.param == "sqlite":
        template: Path = request.getfixturevalue("sqlite_template")
        shutil.copy(template, tmp_path / "bitbudget.db")
        return f"sqlite:///{tmp_path / 'bitbudget.db'}"
    cluster: Cluster = request.getfixturevalue("postgres_cluster")
    cluster.empty("migrated")
    return cluster.url("migrated")


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A connection to an empty migrated database."""
    opened = Database(database_url)
    yield opened
    opened.dispose()


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    """Settings of a server on that database, with the background work standing still."""
    return Settings(home=tmp_path, database_url=database_url, sweep_seconds=3600, header_readers=0)


@pytest.fixture
def server(settings: Settings) -> Iterator[Server]:
    """The application, asked through ASGI."""
    clock = FakeClock()
    app = create_app(settings, clock=clock)
    with opened(app) as http:
        yield Server(http, app.state.services, clock)
