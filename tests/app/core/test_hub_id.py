"""Hub ids by pattern."""

from __future__ import annotations

import pytest

from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.app.core.hub_id import HubId


@pytest.mark.parametrize(
    ("text", "repository", "revision"),
    [
        ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B", None),
        ("mlx-community/a_b.c-1", "mlx-community/a_b.c-1", None),
        ("org/name@main", "org/name", "main"),
        ("org/name@refs/pr/3", "org/name", "refs/pr/3"),
        ("org/name@" + "a" * 40, "org/name", "a" * 40),
    ],
)
def test_an_id_is_taken_apart_and_put_together(
    text: str, repository: str, revision: str | None
) -> None:
    parsed = HubId.parse(text)
    assert (parsed.repository, parsed.revision) == (repository, revision)
    assert str(parsed) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name",
        "/etc/passwd",
        "../a",
        "a/..",
        "a/b/c",
        "a/b--c",
        "a/b..c",
        "a/b.git",
        "a/b.",
        "a/-b",
        "a/b@",
        "a/b@../../c",
        "a/b@x//y",
        "a/b@x@y",
        "a/b\n",
        "a/b?x=1",
        "https://huggingface.co/a/b",
        "a/" + "b" * 97,
        "a/b\x00",
        "ä/b",
    ],
)
def test_anything_else_is_refused_with_its_text(text: str) -> None:
    assert not HubId.matches(text)
    with pytest.raises(InvalidRequestError, match="org/name"):
        HubId.parse(text)
