"""Text of users: plain, JSON lines of text, chats and completions, and what is wrong with some."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitbudget.app.core.errors import InvalidModelError, InvalidRequestError
from bitbudget.workers.evaluate.windows import text_windows
from bitbudget.workers.models.documents import documents
from bitbudget.workers.models.tokenizer import open_tokenizer
from bitbudget.workers.models.vocabulary import begin_token, check_tokens, longest_window
from bitbudget.workers.running.tokens import sample_tokens
from tests.workers.models.tiny import write_tiny

STORY = "Once upon a time there was a little girl named Lily. She liked to play in the park. "
TEMPLATE = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}"
CHAT = [{"role": "user", "content": "Tell me."}, {"role": "assistant", "content": STORY}]
TYPES = ["llama", "qwen3", "gpt2"]


@pytest.fixture(params=TYPES)
def model(request: pytest.FixtureRequest, sample_model: Path, tmp_path: Path) -> Path:
    """A tiny model of several types with the bundled tokenizer and a chat template."""
    folder = write_tiny(tmp_path / "model", request.param, vocab_size=4096)
    shutil.copy(sample_model / "tokenizer.json", folder)
    config = json.loads((sample_model / "tokenizer_config.json").read_text())
    config["chat_template"] = TEMPLATE
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def lines(*values: Any) -> str:
    return "\n".join(json.dumps(value) for value in values)


AS_CHAT: list[Any] = [
    {"messages": CHAT},
    {"prompt": "Tell me.", "completion": STORY},
    {"prompt": CHAT[:1], "completion": CHAT[1:]},
    {
        "conversations": [
            {"from": "human", "value": "Tell me."},
            {"from": "gpt", "value": STORY},
        ]
    },
]


@pytest.mark.parametrize("value", AS_CHAT, ids="-".join)
def test_chats_go_through_the_models_template(value: Any, model: Path) -> None:
    tokenizer = open_tokenizer(model)
    (ids,) = documents(lines(value), tokenizer, where="chat.jsonl")
    assert tokenizer.decode(ids) == f"<|user|>Tell me.\n<|assistant|>{STORY}\n"
    (again,) = documents(json.dumps([value]), tokenizer, where="chat.json")
    assert again == ids


def test_plain_text_and_lines_of_text_are_the_same(model: Path) -> None:
    tokenizer = open_tokenizer(model)
    plain = documents(f"{STORY}<|endoftext|>\n{STORY}", tokenizer, where="text")
    assert documents(lines({"text": STORY.strip()}, {"text": STORY.strip()}), tokenizer, where="x")
    assert plain == documents(
        "\ufeff" + lines({"text": STORY.strip()}, {"text": STORY.strip()}) + "\r\n",
        tokenizer,
        where="x",
    )


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"text": "a"}\n{"text": "b', r"story\.jsonl: line 2: found broken JSON"),
        ('{"text": "a"}\n[1]', r"line 2: found \[1\]"),
        ('{"label": 1}', r"the keys \['label'\]"),
        ('{"messages": []}', "keys"),
        ('{"messages": [{"content": {"a": 1}}]}', "template refuses|keys"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(text: str, named: str, model: Path) -> None:
    tokenizer = open_tokenizer(model)
    if "content" in text:
        tokenizer._tokenizer.chat_template = "{{ raise_exception('no role') }}"
    with pytest.raises(InvalidRequestError, match=named):
        documents(text, tokenizer, where="story.jsonl")


def test_a_chat_without_a_template_is_refused_and_a_completion_is_text(model: Path) -> None:
    config = json.loads((model / "tokenizer_config.json").read_text())
    del config["chat_template"]
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = open_tokenizer(model)
    with pytest.raises(InvalidRequestError, match="no chat template"):
        documents(lines({"messages": CHAT}), tokenizer, where="x")
    (ids,) = documents(lines({"prompt": "Tell me. ", "completion": STORY}), tokenizer, where="x")
    assert tokenizer.decode(ids) == f"Tell me. {STORY}"


def test_code_that_begins_with_a_brace_is_text(model: Path) -> None:
    tokenizer = open_tokenizer(model)
    (ids,) = documents("{ int a; }", tokenizer, where="main.c")
    assert tokenizer.decode(ids) == "{ int a; }"


@pytest.mark.parametrize("model_type", TYPES)
def test_a_token_beyond_the_embedding_is_named(
    model_type: str, sample_model: Path, tmp_path: Path
) -> None:
    folder = write_tiny(tmp_path / "model", model_type, vocab_size=64)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(sample_model / name, folder)
    with pytest.raises(InvalidModelError, match=r"token \d+ \('.*'\).*embedding has 64 rows"):
        text_windows(folder, STORY * 40, where="text")
    check_tokens(folder, [0, 63])


@pytest.mark.parametrize("model_type", TYPES)
def test_a_beginning_beyond_the_embedding_is_named(model_type: str, tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "model", model_type, bos_token_id=128)
    with pytest.raises(InvalidModelError, match=r"config\.json: bos_token_id: found token 128"):
        sample_tokens(folder, 1, 8, seed=0)
    (folder / "generation_config.json").write_text('{"bos_token_id": 5, ')
    config = json.loads((folder / "config.json").read_text()) | {"bos_token_id": [7, 8]}
    (folder / "config.json").write_text(json.dumps(config))
    assert begin_token(folder) == 7


@pytest.mark.parametrize("positions", [16, 100])
@pytest.mark.parametrize("model_type", ["gpt2", "gpt_bigcode", "llama"])
def test_windows_fit_the_models_positions(
    model_type: str, positions: int, sample_model: Path, tmp_path: Path
) -> None:
    folder = write_tiny(
        tmp_path / "model",
        model_type,
        vocab_size=4096,
        n_positions=positions,
        n_ctx=positions,
        max_position_embeddings=positions,
        **(
            {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_inner": 128} if "gpt" in model_type else {}
        ),
    )
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(sample_model / name, folder)
    assert longest_window(folder, 256) == positions
    assert sample_tokens(folder, 2, seed=0).shape == (2, positions)
    windows = text_windows(folder, STORY * 40, where="text")
    assert windows.shape[1] == positions
    assert np.all(windows[:, 0] == begin_token(folder))
