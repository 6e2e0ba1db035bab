"""Prompts put through a model's chat template, as a server puts those of its users.

`prompts.jsonl` holds them, one JSON object with `kind` and `prompt` a line. A third of them is held
out: text to verify predictions and to evaluate checkpoints on answers no prompt that statistics
were made on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np

from bitbudget.app.core.calibration_text import OwnText
from bitbudget.app.core.canonical import JsonObject, canonical_json
from bitbudget.app.core.errors import InvalidModelError
from bitbudget.workers.files.folder import json_object_or_empty
from bitbudget.workers.models.tokenizer import open_tokenizer
from bitbudget.workers.models.vocabulary import check_tokens

__all__ = ["Chat", "bundled_prompts", "chat_of", "open_chat", "own_text", "template_digest"]

_SPLIT_SEED: Final = 0xC4A7
_HELD_OUT: Final = 3
"""One in so many prompts is held out."""
_ANSWER: Final = "forty-two"
"""Stands for the model's answer, to find out what the template writes after one."""
_DATE: Final = "01 Jan 2026"
"""What Llama 3's templates write instead of today, so that the text is the same tomorrow."""
_MOST_CHARACTERS: Final = 1 << 16
"""Of a prompt in its template; the longest known system prompts have a few thousand."""
_END_WITHIN: Final = 4
"""Tokens after an answer among which the template's end of turn is looked for."""


@dataclass(frozen=True, slots=True)
class Chat:
    """Prompts as token ids, of which the first of a conversation has what a template begins with.

    `starts` begin a conversation and `turns` go on with one after an answer, both up to where the
    model's answer begins; `ends` are the tokens that end an answer.
    """

    starts: tuple[tuple[int, ...], ...]
    turns: tuple[tuple[int, ...], ...]
    ends: frozenset[int]


@cache
def bundled_prompts(*, held_out: bool) -> tuple[str, ...]:
    """Return the prompts to measure on, or those that are held out, in a fixed random order."""
    lines = Path(__file__).with_name("prompts.jsonl").read_text(encoding="utf-8").splitlines()
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(lines))
    chosen = [i for i in order if held_out == (i % _HELD_OUT == 0)]
    return tuple(json.loads(lines[i])["prompt"] for i in chosen)


def own_text(folder: Path) -> tuple[OwnText, str]:
    """Return how the model in `folder` writes its own text, and what the user should know of it.

    A model answers prompts where it has a chat template that works.
    """
    if template_digest(folder) is None:
        return OwnText.SELF, ""
    try:
        open_chat(folder)
    except InvalidModelError as error:
        note = f"the model writes its own text from its beginning token: {error}"
        return OwnText.SELF, note
    return OwnText.CHAT, ""


def chat_of(folder: Path, *, held_out: bool = False) -> Chat | None:
    """Return the prompts that the model in `folder` answers, None where it does not: `own_text`."""
    if template_digest(folder) is None:
        return None
    try:
        return open_chat(folder, held_out=held_out)
    except InvalidModelError:
        return None


def template_digest(folder: Path) -> str | None:
    """Return the SHA-256 of what the files in `folder` say of chat templates, None for nothing.

    The tokenizer, whose opening takes a second, is not opened.
    """
    found = {name: json_object_or_empty(folder / name).get("chat_template") for name in _CONFIGS}
    template = folder / "chat_template.jinja"
    if template.is_file():
        found[template.name] = template.read_text(encoding="utf-8", errors="replace")
    found = {name: value for name, value in found.items() if value}
    return hashlib.sha256(canonical_json(found)).hexdigest() if found else None


_CONFIGS: Final = ("tokenizer_config.json", "chat_template.json")


def open_chat(folder: Path, *, held_out: bool = False) -> Chat:
    """Return the bundled prompts as the chat template of the model in `folder` writes them.

    Raises InvalidModelError when there is no tokenizer, no template, one that fails, or one that
    writes tokens which the embedding does not have.
    """
    tokenizer, prompts = open_tokenizer(folder), bundled_prompts(held_out=held_out)
    try:
        chat = _templated(tokenizer, prompts)
    except Exception as error:  # templates raise what they like
        raise InvalidModelError(
            where=f"chat template of {folder.name}",
            found=f"{type(error).__name__}: {error}"[:200],
            expected="a template that takes the words of a user",
            remedy="mend the template, or give a text",
        ) from error
    check_tokens(folder, list(chain.from_iterable((*chat.starts, *chat.turns))), tokenizer)
    return chat


def _templated(tokenizer: Any, prompts: Sequence[str]) -> Chat:
    starts = tuple(tuple(_ids(tokenizer, _text(tokenizer, _user(p)))) for p in prompts)
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    turns, ends = [], set(tokenizer.eos_token_ids)
    for prompt in prompts:
        ids = _after_answer(tokenizer, prompt)
        end = next((i for i, token in enumerate(ids[:_END_WITHIN]) if token in special), None)
        if end is not None:
            ends.add(ids[end])
            ids = ids[end + 1 :]
        if ids:
            turns.append(tuple(ids))
    return Chat(starts, tuple(turns), frozenset(ends))


def _after_answer(tokenizer: Any, prompt: str) -> list[int]:
    """Return what the template writes between an answer and the next, which `prompt` asks for."""
    answered = [*_user("What is six times seven?"), {"role": "assistant", "content": _ANSWER}]
    text = _text(tokenizer, [*answered, *_user(prompt)])
    _, found, rest = text.partition(_ANSWER)
    return _ids(tokenizer, rest) if found else []


def _user(prompt: str) -> list[JsonObject]:
    return [{"role": "user", "content": prompt}]


def _text(tokenizer: Any, messages: list[JsonObject]) -> str:
    """Return the messages as the template writes them, in a sandbox; ValueError for a flood."""
    text = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, date_string=_DATE
    )
    if len(text) > _MOST_CHARACTERS:
        raise ValueError(f"{len(text):,} characters for one short prompt")
    return str(text)


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))
