from __future__ import annotations

import pytest

from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.app.core.sizes import format_size, parse_size


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5.5GiB", 5_905_580_032),
        ("5.5 GB", 5_500_000_000),
        ("10MB", 10_000_000),
        ("10mib", 10_485_760),
        (123, 123),
        ("123", 123),
        ("5 B", 5),
        ("1.0000000001KiB", 1024),
    ],
)
def test_sizes_are_whole_bytes_never_rounded_up(text: str | int, expected: int) -> None:
    assert parse_size(text) == expected


@pytest.mark.parametrize("text", ["5.5", "0.3B", 5.5])
def test_a_fraction_needs_a_unit(text: str | int) -> None:
    with pytest.raises(InvalidRequestError, match=r"of what\? Write .*GiB"):
        parse_size(text)


@pytest.mark.parametrize("text", ["", "GB", "-1", "1e9", "5.5 giga", "1,5GB", "nan"])
def test_what_is_not_a_size_is_named(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="expected a number with MB, MiB"):
        parse_size(text)


def test_bytes_are_shown_in_binary_units() -> None:
    assert [format_size(n) for n in (12, 2048, 3 * 2**20, 5_905_580_032)] == [
        "12 B",
        "2.00 KiB",
        "3.00 MiB",
        "5.50 GiB",
    ]
