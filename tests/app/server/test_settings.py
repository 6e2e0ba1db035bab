from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from bitbudget.app.server.settings import Settings, is_loopback, settings_table

DOCUMENT = Path(__file__).parents[3] / "docs" / "settings.md"


def test_the_documented_table_is_the_settings() -> None:
    assert settings_table() in DOCUMENT.read_text()


def test_every_setting_says_what_it_means() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_settings_come_from_the_environment_and_never_change(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BITBUDGET_HOME", str(tmp_path))
    monkeypatch.setenv("BITBUDGET_PORT", "1234")
    settings = Settings()
    assert settings.port == 1234
    assert settings.resolved_database_url == f"sqlite:///{tmp_path.resolve() / 'bitbudget.db'}"
    with pytest.raises(ValidationError):
        settings.port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),  # noqa: S104 - the point of the test
        ("::", False),
        ("192.168.1.2", False),
        ("example.org", False),
        ("localhost.example.org", False),
    ],
)
def test_loopback(host: str, expected: bool) -> None:  # noqa: FBT001 - a table of cases
    assert is_loopback(host) is expected
    assert Settings(host=host).needs_keys is not expected


def test_an_open_server_answers_loopback_names_only() -> None:
    assert Settings().answered_hosts == frozenset({"localhost", "127.0.0.1", "[::1]"})
    assert Settings(require_keys=True).answered_hosts is None
    assert Settings(allowed_hosts="a.org, B.org").answered_hosts == frozenset({"a.org", "b.org"})


def test_local_models_need_a_root_once_keys_are_needed(tmp_path: Path) -> None:
    assert Settings().allowed_model_roots is None
    assert Settings(require_keys=True).allowed_model_roots == ()
    assert Settings(model_roots=f"{tmp_path}:/models").allowed_model_roots == (
        tmp_path.resolve(),
        Path("/models"),
    )
