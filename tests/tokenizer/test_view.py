"""The coloured view shows every token once, learned ones apart from the others."""

from __future__ import annotations

from nanochat_pl.tokenizer.conversation import render
from nanochat_pl.tokenizer.encoding import Tokenizer
from nanochat_pl.tokenizer.train import SPLIT_PATTERN
from nanochat_pl.tokenizer.view import view

BYTES = Tokenizer.from_ranks([bytes([byte]) for byte in range(256)], SPLIT_PATTERN)
TALK = {"messages": [{"role": "user", "content": "a\n"}, {"role": "assistant", "content": "b"}]}


def test_without_colours_what_is_learned_stands_in_quotes():
    shown = view(BYTES, render(BYTES, TALK), color=False)
    assert shown == r"<|bos|>|<|user_start|>|a|\n|<|user_end|>|<|assistant_start|>|«b|<|assistant_end|>»"


def test_colours_are_green_for_learned_and_red_for_read_and_ids_are_written_if_asked():
    shown = view(BYTES, render(BYTES, TALK), color=True, with_ids=True)
    assert "\x1b[31m<|bos|>(256)|" in shown
    assert shown.endswith("\x1b[32mb(98)|<|assistant_end|>(260)\x1b[0m")


def test_a_token_that_would_command_the_terminal_is_escaped():
    talk = {"messages": [{"role": "user", "content": "\x1b[2J"}]}
    assert r"\x1b|[|2|J" in view(BYTES, render(BYTES, talk), color=False)
