"""Ids and masks of six conversations, written by hand after the format; an id below 256 is a byte."""

from __future__ import annotations

import pytest

from nanochat_pl.tokenizer.conversation import render, render_for_completion
from nanochat_pl.tokenizer.encoding import Tokenizer
from nanochat_pl.tokenizer.train import SPLIT_PATTERN

BYTES = Tokenizer.from_ranks([bytes([byte]) for byte in range(256)], SPLIT_PATTERN)
BOS, USER, USER_END, ASSISTANT, ASSISTANT_END, PYTHON, PYTHON_END, OUTPUT, OUTPUT_END = range(256, 265)


def user(text):
    return {"role": "user", "content": text}


def assistant(content):
    return {"role": "assistant", "content": content}


def part(kind, text):
    return {"type": kind, "text": text}


# messages, ids, and the mask as a string of digits
CASES = {
    "one exchange": (
        [user("Hi"), assistant("Yo")],
        [BOS, USER, *b"Hi", USER_END, ASSISTANT, *b"Yo", ASSISTANT_END],
        "000000111",
    ),
    "a system message is merged with an empty line": (
        [{"role": "system", "content": "S"}, user("U"), assistant("A")],
        [BOS, USER, *b"S\n\nU", USER_END, ASSISTANT, *b"A", ASSISTANT_END],
        "0000000011",
    ),
    "two turns": (
        [user("a"), assistant("b"), user("c"), assistant("d")],
        [
            *(BOS, USER, *b"a", USER_END, ASSISTANT, *b"b", ASSISTANT_END),
            *(USER, *b"c", USER_END, ASSISTANT, *b"d", ASSISTANT_END),
        ],
        "0000011000011",
    ),
    "a tool call: the call is learned, the answer of the tool is not": (
        [
            user("?"),
            assistant(
                [part("text", "t"), part("python", "1+1"), part("python_output", "2"), part("text", "=2")]
            ),
        ],
        [
            *(BOS, USER, *b"?", USER_END, ASSISTANT, *b"t", PYTHON, *b"1+1", PYTHON_END),
            *(OUTPUT, *b"2", OUTPUT_END, *b"=2", ASSISTANT_END),
        ],
        "00000111111000111",
    ),
    "the last word is the user's": (
        [user("é")],
        [BOS, USER, 195, 169, USER_END],
        "00000",
    ),
    "empty texts": (
        [user(""), assistant("")],
        [BOS, USER, USER_END, ASSISTANT, ASSISTANT_END],
        "00001",
    ),
}


@pytest.mark.parametrize(("messages", "ids", "mask"), CASES.values(), ids=CASES.keys())
def test_ids_and_mask_are_those_written_by_hand(messages, ids, mask):
    assert render(BYTES, {"messages": messages}) == (ids, [int(digit) for digit in mask], False)


def test_completion_begins_after_the_assistant_start_and_without_its_last_message():
    messages, ids, _ = CASES["two turns"]
    assert render_for_completion(BYTES, {"messages": messages}) == ids[:-2]
    assert render_for_completion(BYTES, {"messages": messages[:-1]}) == ids[:-2]
