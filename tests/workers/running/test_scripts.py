"""Conversations: what is asked, where the model writes, and that what it writes keeps to both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bitbudget.workers.models.chat import Chat
from bitbudget.workers.running.scripts import OWN, asking, from_begin
from bitbudget.workers.running.tokens import sample_tokens

CHAT = Chat(
    starts=tuple((1, 2, 10 + i, 3) for i in range(40)),
    turns=tuple((4, 100 + i, 5) for i in range(40)),
    ends=frozenset(range(0, 4096, 3)),
)


@pytest.mark.parametrize("length", [4, 16, 64, 256])
def test_three_quarters_of_a_row_are_left_to_the_model(length: int) -> None:
    script = asking(CHAT, 50, length, seed=3)
    forced = (script != OWN).sum(1)
    assert script.shape == (50, length)
    assert forced.max() <= max(1, length // 4)
    assert forced.min() >= min(4, length // 4)
    assert np.all(script[:, 0] == 1)


def test_every_prompt_begins_a_row_before_one_does_again() -> None:
    first = asking(CHAT, 80, 64, seed=3)[:, 2]
    assert {*first[:40]} == {*first[40:]} == set(range(10, 50))
    assert not np.array_equal(first, asking(CHAT, 80, 64, seed=4)[:, 2])


def test_prompts_that_are_too_long_are_left_out_or_all_cut() -> None:
    some = Chat((*CHAT.starts, tuple(range(1, 99))), (), CHAT.ends)
    assert asking(some, 41, 64, seed=0)[:, 16:].max() == OWN
    long = Chat(tuple((1, *range(50, 80), 10 + i, 3) for i in range(40)), (), CHAT.ends)
    cut = asking(long, 32, 64, seed=0)
    assert np.all(cut[:, 0] == 1)
    assert np.all(cut[:, 15] == 3)
    assert np.all(cut[:, 1] == 67)
    assert len({*cut[:, 14]}) == 32


def test_rows_keep_to_their_script(sample_model: Path) -> None:
    tokens = sample_tokens(sample_model, 6, 64, seed=5, batch=4, chat=CHAT)
    script = asking(CHAT, 6, 64, seed=5)
    asked = 0
    for row, given in zip(tokens.tolist(), script.tolist(), strict=True):
        at = 0
        for token in row:
            if given[at] == OWN:
                at += token in CHAT.ends
            else:
                assert token == given[at]
                at += 1
        asked += given[:at].count(OWN)
    assert asked > 6
    assert np.array_equal(tokens, sample_tokens(sample_model, 6, 64, seed=5, batch=4, chat=CHAT))


def test_from_the_beginning_all_but_one_token_is_the_models() -> None:
    assert from_begin(7, 2, 4).tolist() == [[7, OWN, OWN, OWN]] * 2


def test_by_turns_every_second_row_begins_without_a_prompt(sample_model: Path) -> None:
    tokens = sample_tokens(sample_model, 5, 32, seed=5, chat=CHAT, by_turns=True)
    asked = asking(CHAT, 5, 32, seed=5)
    assert np.array_equal(tokens[::2, :4], asked[::2, :4])
    begin = sample_tokens(sample_model, 1, 4, seed=0)[0, 0]
    assert np.all(tokens[1::2, 0] == begin)
    assert not np.array_equal(tokens[1::2, 1:4], asked[1::2, 1:4])
