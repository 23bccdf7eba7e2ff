"""ARC and MMLU: labels as given, letters that exist, one right answer, defects named."""

from __future__ import annotations

import pytest
from task_files import FORMS, write_rows

from nanochat_pl.system.errors import Failure
from nanochat_pl.tasks import ARC, MMLU


def arc_row(labels: str = "ABCD", answer: str = "B") -> dict:
    texts = [f"choice {label}" for label in labels]
    return {
        "id": "x",
        "question": "Why?",
        "choices": {"text": texts, "label": list(labels)},
        "answerKey": answer,
    }


def mmlu_row(answer: int = 2, choices: int = 4) -> dict:
    texts = [f"choice {i}" for i in range(choices)]
    return {"question": "Why?", "subject": "logic", "choices": texts, "answer": answer}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("labels", "answer"), [("ABCD", "D"), ("ABC", "C"), ("ABCDE", "E"), ("1234", "3")])
def test_arc_keeps_the_labels_it_is_given(base_dir, form, labels, answer):
    write_rows(base_dir / f"tasks/arc/ARC-Easy/train.{form}", [arc_row(labels, answer)])
    (conversation,) = ARC("ARC-Easy", "train")
    assert conversation["letters"] == tuple(labels)
    assert conversation["messages"][-1] == {"role": "assistant", "content": answer}


def test_the_halves_of_arc_are_two_tasks(base_dir):
    write_rows(base_dir / "tasks/arc/ARC-Easy/test.jsonl", [arc_row(answer="A")])
    write_rows(base_dir / "tasks/arc/ARC-Challenge/test.jsonl", [arc_row(answer="B")])
    easy, challenge = ARC("ARC-Easy"), ARC("ARC-Challenge")
    assert (easy.name, challenge.name) == ("ARC-Easy", "ARC-Challenge")
    assert [task[0]["messages"][-1]["content"] for task in (easy, challenge)] == ["A", "B"]


@pytest.mark.parametrize("form", FORMS)
def test_mmlu_numbers_become_letters(base_dir, form):
    write_rows(base_dir / f"tasks/mmlu/all/test.{form}", [mmlu_row(answer) for answer in range(4)])
    task = MMLU()
    assert sorted(conversation["messages"][-1]["content"] for conversation in task) == ["A", "B", "C", "D"]
    assert {conversation["letters"] for conversation in task} == {("A", "B", "C", "D")}
    assert {conversation["subject"] for conversation in task} == {"logic"}


@pytest.mark.parametrize("form", FORMS)
def test_mmlu_unwraps_its_auxiliary_training_rows(base_dir, form):
    write_rows(base_dir / f"tasks/mmlu/auxiliary_train/train.{form}", [{"train": mmlu_row(3)}])
    write_rows(base_dir / f"tasks/mmlu/all/auxiliary_train.{form}", [mmlu_row(3)])
    wrapped, plain = MMLU("auxiliary_train", "train"), MMLU("all", "auxiliary_train")
    assert wrapped[0] == plain[0]


def test_only_the_right_letter_is_right(tmp_path):
    task = ARC(path=str(write_rows(tmp_path / "x.jsonl", [arc_row(answer="B")])))
    assert all(task.evaluate(task[0], completion) for completion in ("B", " B\n"))
    assert not any(task.evaluate(task[0], completion) for completion in ("A", "b", "", "B or C"))


@pytest.mark.parametrize(
    ("make", "row", "complaint"),
    [
        (ARC, arc_row(answer="E"), "answer 'E' and 4 choices do not fit"),
        (ARC, {**arc_row(), "choices": {"text": ["a"], "label": ["A", "B"]}}, "1 choices do not fit"),
        (ARC, {**arc_row(), "choices": ["a", "b"]}, "'choices' is list, not dict"),
        (ARC, {"question": "Why?"}, "has no 'choices'"),
        (MMLU, mmlu_row(answer=4), "answer 4 of 4 choices"),
        (MMLU, mmlu_row(answer=-1), "answer -1 of 4 choices"),
        (MMLU, mmlu_row(choices=3), "answer 2 of 3 choices"),
        (MMLU, {**mmlu_row(), "answer": "C"}, "'answer' is str, not int"),
        (MMLU, {**mmlu_row(), "question": None}, "'question' is NoneType, not str"),
    ],
)
def test_a_row_that_is_no_question_is_named(tmp_path, make, row, complaint):
    task = make(path=str(write_rows(tmp_path / "x.jsonl", [row])))
    with pytest.raises(Failure, match=rf"x\.jsonl: line 1: .*{complaint}"):
        task[0]
