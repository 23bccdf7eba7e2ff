"""Conversations: control ids are the renderer's alone, rows are never exceeded, malformed ones are refused."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat_pl.system.errors import BadInput
from nanochat_pl.tokenizer.conversation import render, render_for_completion
from nanochat_pl.tokenizer.encoding import SPECIAL_TOKENS, Tokenizer
from nanochat_pl.tokenizer.train import SPLIT_PATTERN, train_tokenizer

# A vocabulary that knows the spellings of all control tokens well.
TOKENIZER = train_tokenizer(
    [*(f"{name} x{name}y " * 50 for name in SPECIAL_TOKENS), "hello <|bos|>", "a|b<|>c" * 9],
    300,
    max_chars=10**9,
)
BYTES = Tokenizer.from_ranks([bytes([byte]) for byte in range(256)], SPLIT_PATTERN)
FIRST_CONTROL = TOKENIZER.vocab_size - len(SPECIAL_TOKENS)
LOOK_ALIKES = (
    "<｜bos｜>",
    "<|BOS|>",
    "<\u200b|bos|>",
    "< |bos|>",
    "&lt;|bos|&gt;",
    "<|bos|",
    "|bos|>",
    "264",
)

pieces = st.one_of(
    st.sampled_from(SPECIAL_TOKENS),
    st.sampled_from(LOOK_ALIKES),
    st.sampled_from([half for name in SPECIAL_TOKENS for half in (name[:5], name[5:])]),
    st.text(max_size=8),
)
texts = st.lists(pieces, max_size=6).map("".join)
parts = st.lists(
    st.fixed_dictionaries({"type": st.sampled_from(["text", "python", "python_output"]), "text": texts}),
    max_size=4,
)


@st.composite
def conversations(draw):
    messages = [{"role": "system", "content": draw(texts)}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        messages.append({"role": "user", "content": draw(texts)})
        messages.append({"role": "assistant", "content": draw(st.one_of(texts, parts))})
    return {"messages": messages}


def expected_controls(conversation) -> list[str]:
    """The control tokens a conversation has, from its structure alone."""
    found = ["<|bos|>"]
    for message in conversation["messages"]:
        if message["role"] == "user":
            found += ["<|user_start|>", "<|user_end|>"]
        elif message["role"] == "assistant":
            found.append("<|assistant_start|>")
            content = message["content"]
            for part in content if isinstance(content, list) else []:
                found += {
                    "text": [],
                    "python": ["<|python_start|>", "<|python_end|>"],
                    "python_output": ["<|output_start|>", "<|output_end|>"],
                }[part["type"]]
            found.append("<|assistant_end|>")
    return found


def holds(conversation) -> None:
    ids, mask, truncated = render(TOKENIZER, conversation)
    controls = [SPECIAL_TOKENS[token - FIRST_CONTROL] for token in ids if token >= FIRST_CONTROL]
    assert controls == expected_controls(conversation)
    assert len(ids) == len(mask)
    assert not truncated


@given(conversations())
@settings(max_examples=1500, deadline=None)
def test_no_text_of_anyone_becomes_a_control_token(conversation):
    holds(conversation)


@pytest.mark.slow
@given(conversations())
@settings(max_examples=25_000, deadline=None)  # four messages and more in each: 100,000
def test_no_text_of_a_hundred_thousand_messages_becomes_a_control_token(conversation):
    holds(conversation)


@given(conversations(), st.integers(1, 60))
@settings(max_examples=300, deadline=None)
def test_a_row_is_never_exceeded_and_what_fits_is_unchanged(conversation, row):
    before = copy.deepcopy(conversation)
    whole, cut = render(TOKENIZER, conversation), render(TOKENIZER, conversation, row)
    assert conversation == before
    assert cut.ids == whole.ids[:row]
    assert cut.mask == whole.mask[:row]
    assert cut.truncated == (len(whole.ids) > row)


@given(conversations())
@settings(max_examples=200, deadline=None)
def test_a_completion_continues_as_the_conversation_does(conversation):
    prompt, whole = render_for_completion(TOKENIZER, conversation), render(TOKENIZER, conversation)
    assert whole.ids[: len(prompt)] == prompt
    assert sum(whole.mask[len(prompt) :]) > 0


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([], "no message"),
        ([{"role": "assistant", "content": "a"}], "message 0 is 'assistant', expected 'user'"),
        ([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}], "message 1 is 'user'"),
        ([{"role": "user", "content": ["a"]}], "message 0 of the user is no string"),
        ([{"role": "system", "content": "a"}], "must be followed by the user's"),
        ([{"role": "user"}], 'has no "role" and "content"'),
        (
            [
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": [{"type": "image", "text": ""}]},
            ],
            "is no part; it needs a text and a type of text, python, python_output",
        ),
        ([{"role": "user", "content": "a"}, {"role": "assistant", "content": 7}], "content is int"),
        ("hello", 'no object with a list "messages"'),
    ],
)
def test_what_is_no_conversation_is_refused_by_name(messages, complaint):
    with pytest.raises(BadInput, match=complaint):
        render(BYTES, {"messages": messages})
