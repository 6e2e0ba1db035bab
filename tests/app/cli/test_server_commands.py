from __future__ import annotations

from pathlib import Path

import pytest

from tests.app.cli.conftest import Run


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITBUDGET_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("BITBUDGET_DATABASE_URL", raising=False)


def test_a_key_is_made_listed_without_its_token_and_revoked(bitbudget: Run) -> None:
    made = bitbudget("key", "create", "laptop", "--scope", "jobs:read", "--json").document
    assert made["scopes"] == ["jobs:read"]
    listed = bitbudget("key", "list", "--json")
    assert [key["id"] for key in listed.document["keys"]] == [made["id"]]
    assert made["token"] not in listed.out
    revoked = bitbudget("key", "revoke", made["id"], "--json").document
    assert revoked["revoked_at"] is not None
    assert "laptop" in bitbudget("key", "list").out


def test_an_unknown_scope_or_key_is_told(bitbudget: Run) -> None:
    assert bitbudget("key", "create", "x", "--scope", "everything").code == 2
    assert bitbudget("key", "revoke", "none").code == 1


def test_gc_of_an_empty_server_removes_nothing(bitbudget: Run) -> None:
    assert bitbudget("gc", "--json").document == {
        "jobs": 0,
        "workers": 0,
        "artifacts": 0,
        "artifact_bytes": 0,
        "cache_entries": 0,
        "cache_bytes": 0,
    }


def test_doctor_finds_this_machine_fit_and_an_absent_server_not(bitbudget: Run) -> None:
    well = bitbudget("doctor", "--json")
    assert well.code == 0
    names = {finding["name"] for finding in well.document["findings"]}
    assert {"Python", "[worker] extra", "[server] extra", "home", "database"} <= names
    answer = bitbudget("doctor", "--server", "http://127.0.0.1:9", "--json")
    assert answer.code == 1
    bad = [f for f in answer.document["findings"] if f["level"] == "bad"]
    assert [finding["name"] for finding in bad] == ["server"]
    assert bad[0]["remedy"]


def test_a_missing_extra_is_named_with_the_command_that_installs_it(
    bitbudget: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bitbudget.app.cli.extras._PROBES", {"worker": ("no_such_package",)})
    answer = bitbudget("measure", "org/model", "--json")
    assert answer.code == 1
    assert "pip install 'mlx-bitbudget[worker]'" in answer.document["detail"]
