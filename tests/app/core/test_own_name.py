"""A model is called as whoever asks for it has it."""

from __future__ import annotations

import pytest

from bitbudget.app.core.own_name import OwnName, asked_name

SECRET = OwnName("secret-project", "local")
COMMIT = "a" * 40


@pytest.mark.parametrize(
    ("model", "stated", "expected"),
    [
        ("/models/public", None, OwnName("public", "local")),
        ("/models/public", "org/mine", OwnName("org/mine", "local")),
        (f"/hub/models--org--name/snapshots/{COMMIT}", None, OwnName("org/name", COMMIT)),
        ("org/name", None, OwnName("org/name", "main")),
        (f"org/name@{COMMIT}", None, OwnName("org/name", COMMIT)),
        ("org/name", "mine", OwnName("mine", "main")),
        ("0123456789abcdef", None, SECRET),
    ],
)
def test_the_name_is_the_requests(model: str, stated: str | None, expected: OwnName) -> None:
    assert asked_name(model, stated, SECRET) == expected


def test_the_commit_of_the_same_repository_is_kept() -> None:
    stored = OwnName("org/name", COMMIT)
    assert asked_name("org/name", None, stored) == stored
