"""GSM8K: calls of the calculator become parts, answers are compared as numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from task_files import FORMS, write_rows

from nanochat_pl.system.errors import Failure
from nanochat_pl.tasks import GSM8K
from nanochat_pl.tasks.gsm8k import answer_parts


def as_pairs(answer: str) -> list[tuple[str, str]]:
    return [(part["type"], part["text"]) for part in answer_parts(answer)]


def test_a_call_is_split_at_its_last_equals_sign():
    assert as_pairs("a <<1+1=2>>2 b <<x=3=4>>") == [
        ("text", "a "),
        ("python", "1+1"),
        ("python_output", "2"),
        ("text", "2 b "),
        ("python", "x=3"),
        ("python_output", "4"),
    ]


def test_a_call_without_a_result_has_empty_output():
    assert as_pairs("<<7>>") == [("python", "7"), ("python_output", "")]


@given(
    st.lists(st.text(st.characters(exclude_characters="<>", codec="utf-8")), min_size=1),
    st.lists(st.tuples(st.text("0123456789+-*/(). ", min_size=1), st.text("0123456789."))),
)
def test_parts_hold_everything_the_answer_says(texts, calls):
    answer = texts[0]
    for (expression, result), text in zip(calls, texts[1:], strict=False):
        answer += f"<<{expression}={result}>>{text}"
    rebuilt = "".join(
        {"text": "{}", "python": "<<{}=", "python_output": "{}>>"}[kind].format(text)
        for kind, text in as_pairs(answer)
    )
    assert rebuilt == answer


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_file_gives_the_same_problems(base_dir, form):
    write_rows(
        base_dir / f"tasks/gsm8k/test.{form}", [{"question": "1+1?", "answer": "It is <<1+1=2>>2.\n#### 2"}]
    )
    (conversation,) = GSM8K()
    assert [message["role"] for message in conversation["messages"]] == ["user", "assistant"]
    assert conversation["messages"][0]["content"] == "1+1?"
    assert len(conversation["messages"][1]["content"]) == 4


@pytest.mark.parametrize(
    ("completion", "is_right"),
    [
        ("#### 1200", True),
        ("#### 1,200", True),
        ("#### $1,200.00.", True),
        ("First #### 7, but in the end #### 1200", True),
        ("#### 1200\nor rather #### 7", False),
        ("<|output_start|>#### 1200<|output_end|>", False),
        ("1200", False),
        ("#### 120", False),
        ("#### 1200.5", False),
        ("#### -1200", False),
        ("", False),
    ],
)
def test_an_answer_is_right_if_its_number_is(tmp_path, completion, is_right):
    task = GSM8K(path=str(write_rows(tmp_path / "x.jsonl", [{"question": "?", "answer": "So\n#### 1,200"}])))
    assert task.evaluate(task[0], completion) is is_right


@pytest.mark.parametrize("answer", ["It is 2.", "#### two"])
def test_a_reference_without_a_number_is_a_failure(tmp_path, answer):
    task = GSM8K(path=str(write_rows(tmp_path / "x.jsonl", [{"question": "?", "answer": answer}])))
    with pytest.raises(Failure, match=r"x\.jsonl: line 1: its answer does not end"):
        task[0]
