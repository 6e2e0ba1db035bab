from __future__ import annotations

import json
from importlib.resources import files

import pytest

from bitbudget.app.core.devices import DEVICES, device
from bitbudget.app.core.errors import InvalidRequestError


@pytest.mark.parametrize(
    ("name", "mebibytes"),
    [
        ("m1-16gb", 10_922),
        ("m4-32gb", 21_845),
        ("m4-pro-24gb", 16_384),
        ("m4-pro-48gb", 36_863),
        ("m2-max-96gb", 73_728),
        ("m4-max-128gb", 110_100),
        ("m2-ultra-192gb", 147_456),
    ],
)
def test_default_working_sets(name: str, mebibytes: int) -> None:
    assert device(name).working_set_bytes == mebibytes * 2**20


def test_every_device_is_plausible_and_sourced() -> None:
    assert len({chip.title for chip in DEVICES.values()}) == len(DEVICES) > 40
    for name, chip in DEVICES.items():
        assert chip.name == name
        assert 0.6 < chip.working_set_bytes / chip.memory_bytes < 0.9
        assert 60e9 < chip.bandwidth_bytes_per_second < 1000e9
        assert "Apple" in chip.source


def test_an_unknown_device_offers_near_names() -> None:
    assert device("M4-Pro-24GB") is DEVICES["m4-pro-24gb"]
    with pytest.raises(InvalidRequestError, match="m4-pro-24gb"):
        device("m4-pro-32gb")


def test_every_entry_names_what_confirms_it_or_says_that_nothing_does() -> None:
    table = json.loads(
        files("bitbudget.app.core").joinpath("devices.json").read_text(encoding="utf-8")
    )
    for chip in table["chips"]:
        assert chip["source"]
        assert all(url.startswith("https://") for url in chip["confirmed_by"])
        assert chip["confirmed_by"] or chip["unconfirmed"]
        doubt = chip["unconfirmed"]
        for configuration in chip["configurations"]:
            named = DEVICES[f"{chip['name']}-{configuration['memory_gib']}gb"].source
            assert (doubt in named) if doubt else "not confirmed" not in named
    reported = table["working_set"]["reported_mib"].keys()
    confirmed = table["working_set"]["confirmed_by"].keys()
    assert [size for size in reported if size not in confirmed] == ["48"]
    assert "at 48 GB" in table["working_set"]["unconfirmed"]
