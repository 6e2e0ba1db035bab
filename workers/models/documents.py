"""A user's text as documents of token ids: plain text, or JSON with text or chats.

Understood, one object a line or all in one array:

    {"text": "..."}
    {"messages": [{"role": "user", "content": "..."}, ...]}      through the model's chat template
    {"prompt": "..." or messages, "completion": "..." or messages}       as a chat of two turns
    {"conversations": [{"from": "human", "value": "..."}, ...]}          as a chat

Anything else is plain text, in documents that lines `<|endoftext|>` part.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.errors import InvalidRequestError

__all__ = ["documents"]

_END: Final = "<|endoftext|>"
_ROLES: Final = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bard": "assistant"}
_KINDS: Final = "an object with text, messages, conversations, or prompt and completion"


def documents(
    text: str, tokenizer: Any, *, where: str, begin: int | None = None
) -> list[list[int]]:
    """Return the token ids of each document in `text`, without special tokens at the beginning.

    `begin` is a token that a chat template may write first and that the caller adds itself.
    Raises InvalidRequestError with the line for JSON that is broken or of another kind, and for
    chats where the model has no chat template.
    """
    text = text.removeprefix("\ufeff")
    if not _is_json(text):
        parts = (part.strip() for part in text.split(_END))
        return [tokenizer.encode(part, add_special_tokens=False) for part in parts if part]
    found = []
    for line, value in _values(text, where):
        ids = _encode(value, tokenizer, f"{where}: line {line}")
        found.append(ids[1:] if begin is not None and ids[:1] == [begin] else ids)
    return [ids for ids in found if ids]


def _is_json(text: str) -> bool:
    """Whether the text begins as JSON objects do, or an array of them."""
    head = text.lstrip()[:64]
    return head.startswith(('{"', '{ "')) or head.removeprefix("[").lstrip().startswith('{"')


def _values(text: str, where: str) -> Iterator[tuple[int, JsonObject]]:
    if text.lstrip().startswith("["):
        values = _parsed(text, where, 1)
        yield from ((1, _object(value, where, 1)) for value in values)
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, _object(_parsed(line, where, number), where, number)


def _parsed(text: str, where: str, line: int) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(
            where=f"{where}: line {line}",
            found=f"broken JSON ({error})"[:200],
            expected="one JSON object a line",
            remedy="mend or remove the line; a text that is no JSON must not begin with {",
        ) from error


def _object(value: Any, where: str, line: int) -> JsonObject:
    if isinstance(value, dict):
        return value
    raise _odd(f"{where}: line {line}", repr(value)[:80])


def _encode(value: JsonObject, tokenizer: Any, where: str) -> list[int]:
    if isinstance(value.get("text"), str):
        ids: list[int] = tokenizer.encode(value["text"], add_special_tokens=False)
        return ids
    messages = _messages(value)
    if not messages:
        raise _odd(where, f"the keys {sorted(value)}"[:200])
    if not getattr(tokenizer, "chat_template", None):
        if isinstance(value.get("prompt"), str):
            joined = value["prompt"] + str(value["completion"])
            return list(tokenizer.encode(joined, add_special_tokens=False))
        raise InvalidRequestError(
            where=where,
            found="a chat",
            expected="text: this model has no chat template",
            remedy="give plain text, or lines with a text",
        )
    try:
        return list(tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False))
    except Exception as error:  # templates raise what they like
        raise InvalidRequestError(
            where=where,
            found=f"a chat that the model's template refuses ({error})"[:200],
            expected="messages with role and content",
            remedy="mend or remove the line",
        ) from error


def _messages(value: JsonObject) -> list[JsonObject]:
    for key in ("messages", "conversations"):
        if isinstance(value.get(key), list):
            return [_message(item) for item in value[key] if isinstance(item, dict)]
    if "prompt" in value and "completion" in value:
        prompt, completion = value["prompt"], value["completion"]
        return [*_turn("user", prompt), *_turn("assistant", completion)]
    return []


def _turn(role: str, said: Any) -> list[JsonObject]:
    if isinstance(said, list):
        return [_message(item) for item in said if isinstance(item, dict)]
    return [{"role": role, "content": str(said)}]


def _message(item: JsonObject) -> JsonObject:
    if "from" not in item:
        return item
    speaker = str(item["from"])
    return {"role": _ROLES.get(speaker, speaker), "content": item.get("value", "")}


def _odd(where: str, found: str) -> InvalidRequestError:
    return InvalidRequestError(
        where=where, found=found, expected=_KINDS, remedy="give such lines, or plain text"
    )
