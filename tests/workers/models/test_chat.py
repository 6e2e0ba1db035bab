"""Bundled prompts through a model's chat template, and models that have none that works."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitbudget.app.core.calibration_text import OwnText, text_words
from bitbudget.app.core.errors import InvalidModelError
from bitbudget.workers.models.chat import (
    bundled_prompts,
    chat_of,
    open_chat,
    own_text,
    template_digest,
)
from bitbudget.workers.models.tokenizer import open_tokenizer
from tests.workers.models.tiny import write_tiny

ENDING = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|endoftext|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
PLAIN = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
BROKEN = "{{ raise_exception('no user is served') }}"


@pytest.fixture
def model(sample_model: Path, tmp_path: Path) -> Path:
    """A tiny model with the bundled tokenizer, which has no chat template."""
    folder = write_tiny(tmp_path / "model", "llama", vocab_size=4096)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(sample_model / name, folder)
    return folder


def give_template(folder: Path, template: Any) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template}))


def test_held_out_prompts_are_others_and_of_every_kind() -> None:
    measured, held_out = bundled_prompts(held_out=False), bundled_prompts(held_out=True)
    prompts = {*measured, *held_out}
    assert len(prompts) == len(measured) + len(held_out) == 260
    assert len(held_out) == 87


@pytest.mark.parametrize(
    ("template", "start", "turn"),
    [
        (
            ENDING,
            "<|user|>{}<|endoftext|>\n<|assistant|>",
            "\n<|user|>{}<|endoftext|>\n<|assistant|>",
        ),
        (PLAIN, "user: {}\nassistant:", "\nuser: {}\nassistant:"),
    ],
    ids=["with an end of turn", "without one"],
)
def test_prompts_are_written_as_the_template_writes_them(
    template: str, start: str, turn: str, model: Path
) -> None:
    give_template(model, template)
    chat, tokenizer = open_chat(model, held_out=True), open_tokenizer(model)
    prompts = bundled_prompts(held_out=True)
    assert [tokenizer.decode(ids) for ids in chat.starts] == [start.format(p) for p in prompts]
    assert [tokenizer.decode(ids) for ids in chat.turns] == [turn.format(p) for p in prompts]
    assert chat.ends == {tokenizer.eos_token_id}
    assert own_text(model) == (OwnText.CHAT, "")


def test_a_template_writes_the_same_every_day(model: Path) -> None:
    today = "{% if not date_string is defined %}{% set date_string = 'today' %}{% endif %}"
    give_template(model, today + "{{ date_string }}: {{ messages[-1].content }}")
    tokenizer = open_tokenizer(model)
    assert tokenizer.decode(open_chat(model).starts[0]).startswith("01 Jan 2026: ")


def test_a_model_without_a_template_writes_from_its_beginning_token(model: Path) -> None:
    assert template_digest(model) is None
    assert own_text(model) == (OwnText.SELF, "")
    assert chat_of(model) is None


def raise_in_template(folder: Path) -> None:
    give_template(folder, BROKEN)


def raise_in_file(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(BROKEN)


def flood(folder: Path) -> None:
    give_template(folder, "{% for i in range(99999) %}{{ messages[0].content }}{% endfor %}")


def lose_tokenizer(folder: Path) -> None:
    give_template(folder, PLAIN)
    (folder / "tokenizer.json").unlink()


def lose_embedding(folder: Path) -> None:
    give_template(folder, PLAIN)
    write_tiny(folder, "llama")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (raise_in_template, "no user is served"),
        (raise_in_file, "no user is served"),
        (flood, "characters for one short prompt"),
        (lose_tokenizer, "tokenizer"),
        (lose_embedding, "embedding has 128 rows"),
    ],
)
def test_a_template_that_fails_is_told_and_not_used(
    spoil: Callable[[Path], None], told: str, model: Path
) -> None:
    spoil(model)
    kind, note = own_text(model)
    assert kind is OwnText.SELF
    assert "from its beginning token" in note
    assert told in note
    assert chat_of(model) is None
    with pytest.raises(InvalidModelError):
        open_chat(model)


def test_digests_tell_templates_apart(model: Path) -> None:
    found = set()
    for template in (ENDING, PLAIN, [{"name": "default", "template": ENDING}]):
        give_template(model, template)
        found.add(template_digest(model))
    assert len(found) == 3


@pytest.mark.parametrize("text", [*OwnText, "none", "ab" * 32])
def test_every_text_has_words(text: str) -> None:
    assert text_words(text) != text
