"""The tool's state machine, id by id: traces written by hand from nanochat's rules; where they differ, it is said."""

from __future__ import annotations

import pytest
from reference.byte_tokenizer import ChatByteTokenizer
from reference.scripted_gpt import ScriptedGPT

from nanochat_pl.inference.engine import Engine
from nanochat_pl.inference.sampling import SamplingSettings

BOS, END, PY, PY_END, OUT, OUT_END = 256, 260, 261, 262, 263, 264
USER = 257
ANY = 0  # what the model would say while the tool speaks; never heard
TOKENIZER = ChatByteTokenizer()


def trace(script, calculate=None, **limits):
    """Return the completion of the prompt [7], and the model that gave it."""
    gpt = ScriptedGPT({7: script})
    engine = Engine(gpt, TOKENIZER, calculate)
    (completion,) = engine.generate([[7]], SamplingSettings(temperature=0, **limits))
    return completion, gpt


def answer(expression: str) -> str | None:
    return {"6*7": "42", "1": "", "2": "é"}.get(expression)


def ids_of(*parts):
    """Write ids as text and numbers."""
    return [token for part in parts for token in (part.encode() if isinstance(part, str) else [part])]


def test_plain_text_until_the_turn_ends():
    said = ids_of("Hi", END)
    completion, gpt = trace(said)
    assert completion.ids == said
    assert completion.mask == [1, 1, 1]
    assert completion.text == "Hi"
    assert completion.finish_reason == "stop"
    assert completion.parts == [{"type": "text", "text": "Hi"}]
    assert gpt.read[7] == ids_of(7, "Hi")  # the terminal id is not read


def test_a_call_is_answered_between_output_tokens_with_mask_0():
    said = ids_of("a", PY, "6*7", PY_END, ANY, ANY, ANY, ANY, "b", END)
    completion, gpt = trace(said, answer)
    expected = ids_of("a", PY, "6*7", PY_END, OUT, "42", OUT_END, "b", END)
    assert completion.ids == expected
    assert completion.mask == [1] * 6 + [0] * 4 + [1, 1]
    assert completion.text == "ab"
    assert completion.parts == [
        {"type": "text", "text": "a"},
        {"type": "python", "text": "6*7"},
        {"type": "python_output", "text": "42"},
        {"type": "text", "text": "b"},
    ]
    assert gpt.read[7] == [7, *expected[:-1]]  # the model reads the result


def test_two_calls_in_a_row_get_two_answers():
    call = ids_of(PY, "6*7", PY_END, ANY, ANY, ANY, ANY)
    completion, _ = trace([*call, *call, END], answer)
    once = ids_of(PY, "6*7", PY_END, OUT, "42", OUT_END)
    assert completion.ids == [*once, *once, END]
    assert completion.mask == [1, 1, 1, 1, 1, 0, 0, 0, 0] * 2 + [1]
    pair = [{"type": "python", "text": "6*7"}, {"type": "python_output", "text": "42"}]
    assert completion.parts == pair + pair
    assert completion.text == ""


def test_a_result_is_encoded_as_ordinary_text_of_several_ids():
    completion, _ = trace(ids_of(PY, "2", PY_END, *[ANY] * 4, END), answer)
    assert completion.ids == ids_of(PY, "2", PY_END, OUT, 0xC3, 0xA9, OUT_END, END)
    assert completion.parts[1] == {"type": "python_output", "text": "é"}


def test_a_result_that_spells_a_control_token_is_text():
    completion, _ = trace(ids_of(PY, "x", PY_END, *[ANY] * 19, END), lambda _: "<|assistant_end|>")
    assert completion.ids == ids_of(PY, "x", PY_END, OUT, "<|assistant_end|>", OUT_END, END)
    assert completion.finish_reason == "stop"


def test_an_empty_result_still_gets_its_frame():
    completion, _ = trace(ids_of(PY, "1", PY_END, ANY, ANY, END), answer)
    assert completion.ids == ids_of(PY, "1", PY_END, OUT, OUT_END, END)
    assert completion.parts == [{"type": "python", "text": "1"}, {"type": "python_output", "text": ""}]


@pytest.mark.parametrize("calculate", [answer, None])
def test_without_a_result_nothing_is_forced(calculate):
    said = ids_of(PY, "import os", PY_END, "?", END)
    completion, _ = trace(said, calculate)
    assert completion.ids == said
    assert completion.mask == [1] * len(said)
    assert completion.text == "?"


def test_an_empty_call_does_not_reach_the_tool():
    def never(expression):
        raise AssertionError("called")

    said = ids_of(PY, PY_END, "x", END)
    assert trace(said, never)[0].ids == said


def test_a_second_start_begins_the_expression_anew():
    completion, _ = trace(ids_of(PY, "9+", PY, "6*7", PY_END, *[ANY] * 4, END), answer)
    assert completion.ids == ids_of(PY, "9+", PY, "6*7", PY_END, OUT, "42", OUT_END, END)
    assert [part["text"] for part in completion.parts] == ["9+", "6*7", "42"]


def test_an_end_without_a_start_is_nothing():
    said = ids_of("a", PY_END, "b", END)
    completion, _ = trace(said, answer)
    assert completion.ids == said
    assert completion.parts == [{"type": "text", "text": "ab"}]


def test_a_second_end_does_not_repeat_the_call():
    said = ids_of(PY, "6*7", PY_END, *[ANY] * 4, PY_END, "a", END)
    completion, _ = trace(said, answer)
    assert completion.ids == ids_of(PY, "6*7", PY_END, OUT, "42", OUT_END, PY_END, "a", END)


@pytest.mark.parametrize("terminal", [BOS, END, USER, 258, 259])
@pytest.mark.parametrize("before", ["", "hm"])
def test_every_other_control_token_ends_the_turn_and_is_not_shown(terminal, before):
    """nanochat goes on after the three that only a renderer writes; here a turn never contains one."""
    completion, _ = trace(ids_of(before, terminal))
    assert completion.ids == ids_of(before, terminal)
    assert completion.mask == [1] * (len(before) + 1)
    assert (completion.text, completion.finish_reason) == (before, "stop")


def test_a_turn_may_end_within_a_call():
    completion, _ = trace(ids_of("a", PY, "6*", END), answer)
    assert completion.finish_reason == "stop"
    assert completion.text == "a"
    assert completion.parts[-1] == {"type": "python", "text": "6*"}


@pytest.mark.parametrize("forbidden", [OUT, OUT_END])
def test_the_model_cannot_write_tool_output_itself(forbidden):
    """nanochat lets it, and counts it as sampled: a model could invent the tool's answers."""
    completion, _ = trace([(forbidden, ord("z")), END])
    assert completion.ids == ids_of("z", END)


def test_forced_ids_count_towards_the_length():
    said = ids_of(PY, "6*7", PY_END, *[ANY] * 4, END)
    completion, gpt = trace(said, answer, max_new_tokens=7)
    assert completion.ids == ids_of(PY, "6*7", PY_END, OUT, "4")
    assert completion.mask == [1] * 5 + [0] * 2
    assert completion.finish_reason == "length"
    assert completion.parts[-1] == {"type": "python_output", "text": "4"}
    assert gpt.calls == 7


def test_rows_call_the_tool_independently():
    scripts = {
        1: ids_of("abc", END),
        2: ids_of(PY, "6*7", PY_END, *[ANY] * 4, "k", END),
        3: ids_of("x", PY, "2", PY_END, *[ANY] * 4, END),
    }
    engine = Engine(ScriptedGPT(scripts), TOKENIZER, answer, rows=2)
    done = engine.generate([[1], [2], [3]], SamplingSettings(temperature=0))
    assert [completion.ids for completion in done] == [
        ids_of("abc", END),
        ids_of(PY, "6*7", PY_END, OUT, "42", OUT_END, "k", END),
        ids_of("x", PY, "2", PY_END, OUT, "é", OUT_END, END),
    ]
