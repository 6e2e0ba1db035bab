from __future__ import annotations

import importlib.util
import socket
from pathlib import Path

import pytest

from bitbudget.app.cli.completion import device_names
from bitbudget.app.core.devices import DEVICES
from bitbudget.distribution import installed_version
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


def test_a_key_is_revoked_by_name_or_by_the_beginning_of_its_id(bitbudget: Run) -> None:
    bitbudget("key", "create", "laptop")
    first = bitbudget("key", "revoke", "laptop", "--json").document
    again = bitbudget("key", "create", "laptop", "--json").document
    bitbudget("key", "create", "laptop")
    both = bitbudget("key", "revoke", "laptop", "--json")
    assert (both.code, again["id"] in both.document["detail"]) == (1, True)
    by_id = bitbudget("key", "revoke", again["id"][:-1], "--json").document
    assert by_id["id"] == again["id"] != first["id"]


def test_a_list_of_keys_never_cuts_an_id(bitbudget: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    made = bitbudget("key", "create", "a name that is rather long", "--json").document
    monkeypatch.setenv("COLUMNS", "40")
    assert made["id"] in bitbudget("key", "list").out


def test_the_version_and_the_devices_are_told(bitbudget: Run) -> None:
    assert bitbudget("--version").out == f"bitbudget {installed_version()}\n"
    names = [found["name"] for found in bitbudget("devices", "--json").document["devices"]]
    assert set(names) == set(DEVICES)
    assert "m4-pro-24gb" in bitbudget("devices").out
    assert [name for name, _ in device_names("M4-PRO-2")] == ["m4-pro-24gb"]


def test_doctor_says_how_to_compare_logits(bitbudget: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("torch") is None:
        monkeypatch.delenv("BITBUDGET_TORCH_PYTHON", raising=False)
        findings = bitbudget("doctor", "--logits", "--json").document["findings"]
        (found,) = [finding for finding in findings if finding["name"] == "logits"]
        assert "BITBUDGET_TORCH_PYTHON" in found["remedy"]
    monkeypatch.setenv("BITBUDGET_TORCH_PYTHON", "/bin/false")
    answer = bitbudget("doctor", "--logits", "--json")
    assert answer.code == 1
    (found,) = [f for f in answer.document["findings"] if f["name"] == "logits"]
    assert found["level"] == "bad"


def test_the_mac_that_doctor_keeps_is_the_one_fit_answers_for(
    bitbudget: Run, measurement_file: Path
) -> None:
    neither = bitbudget("fit", measurement_file, "--json")
    assert (neither.code, "doctor --remember" in neither.document["detail"]) == (2, True)
    kept = bitbudget("doctor", "--remember", "--device", "m4-pro-24gb", "--json").document
    mine = next(found for found in kept["findings"] if found["name"] == "my Mac")
    assert mine["detail"].startswith("m4-pro-24gb")
    assert bitbudget("fit", measurement_file, "--json").document["device"] == "m4-pro-24gb"
    assert bitbudget("doctor", "--remember", "--device", "abacus").code == 2


def test_fit_answers_for_a_budget_without_a_device(bitbudget: Run, measurement_file: Path) -> None:
    found = bitbudget("fit", measurement_file, "--budget", "140kB", "--json").document
    assert found["smallest"]["fits"]
    assert not found["now"]["fits"]
    tiny = bitbudget("fit", measurement_file, "--budget", "10kB")
    least = found["smallest"]["file_bytes"]
    assert f"smallest safe files take {least:,} bytes" in tiny.out


def test_a_port_that_is_taken_is_one_sentence(bitbudget: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        answer = bitbudget("serve", "--port", port, "--json")
    assert answer.code == 1
    assert answer.document["detail"] == (
        f"Port '{port}': another program listens there on 127.0.0.1; end that program, or choose"
        " another with --port."
    )


@pytest.mark.parametrize("days", ["0", "-1", "0.0001", "1e300", "inf", "nan", "yesterday"])
def test_gc_refuses_an_age_that_is_none_and_removes_nothing(
    bitbudget: Run, days: str, tmp_path: Path
) -> None:
    needed = tmp_path / "home" / "statistics" / "of-a-running-job"
    needed.mkdir(parents=True)
    answer = bitbudget("gc", f"--days={days}", "--json")
    assert answer.code == 2, answer
    assert needed.is_dir()
