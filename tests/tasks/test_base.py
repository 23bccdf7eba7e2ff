"""Tasks and mixtures: slices, laziness, each item exactly once, fingerprints that tell mixtures apart."""

from __future__ import annotations

import pickle
from collections import Counter
from random import Random

import numpy as np
import pytest
from jsonargparse import ArgumentParser
from task_files import write_lines, write_rows

from nanochat_pl.system.errors import BadInput, Failure
from nanochat_pl.tasks import (
    ARC,
    GSM8K,
    MMLU,
    CustomJSON,
    HumanEval,
    Mixture,
    SimpleSpelling,
    SmolTalk,
    SpellingBee,
)
from nanochat_pl.tasks.base import multiple_choice


def numbered(count: int, tag: str = "q") -> list[list[dict[str, str]]]:
    return [
        [{"role": "user", "content": f"{tag}{i}"}, {"role": "assistant", "content": f"a{i}"}]
        for i in range(count)
    ]


def first_texts(conversations) -> list[str]:
    return [conversation["messages"][0]["content"] for conversation in conversations]


@pytest.fixture
def ten(tmp_path) -> str:
    return str(write_rows(tmp_path / "ten.jsonl", numbered(10, "t")))


@pytest.fixture
def three(tmp_path) -> str:
    return str(write_rows(tmp_path / "three.jsonl", numbered(3, "h")))


@pytest.mark.parametrize(
    ("start", "stop", "step"),
    [(0, None, 1), (3, None, 1), (0, 4, 1), (2, 9, 3), (1, 10, 2), (0, 99, 4), (9, None, 5)],
)
def test_a_slice_is_that_of_a_list(ten, start, stop, step):
    task = CustomJSON(ten, start=start, stop=stop, step=step)
    expected = [f"t{i}" for i in range(10)][start:stop:step]
    assert len(task) == len(expected)
    assert first_texts(task) == expected
    assert first_texts([task[-1]]) == expected[-1:]
    with pytest.raises(IndexError):
        task[len(expected)]


@pytest.mark.parametrize(
    "arguments", [{"start": -1}, {"step": 0}, {"start": 5, "stop": 5}, {"start": 5, "stop": 2}]
)
def test_a_slice_that_holds_nothing_is_refused(arguments):
    with pytest.raises(BadInput):
        GSM8K("train", **arguments)


def test_a_start_beyond_the_data_is_a_failure(ten):
    with pytest.raises(Failure, match="start=10 is beyond its 10 items"):
        len(CustomJSON(ten, start=10))


@pytest.mark.parametrize(
    ("make", "arguments", "near"),
    [
        (ARC, {"subset": "ARC-Esy"}, "did you mean ARC-Easy"),
        (ARC, {"split": "dev"}, "train, validation, test"),
        (MMLU, {"subset": "al"}, "did you mean all"),
        (MMLU, {"subset": "all", "split": "train"}, "auxiliary_train"),
        (MMLU, {"subset": "auxiliary_train", "split": "test"}, "has train"),
        (GSM8K, {"split": "tran"}, "did you mean train"),
        (SmolTalk, {"split": "val"}, "train, test"),
        (SpellingBee, {"split": "tst"}, "did you mean test"),
        (SimpleSpelling, {"size": 0}, "size=0"),
    ],
)
def test_a_wrong_name_is_answered_with_the_right_ones(make, arguments, near):
    with pytest.raises(BadInput, match=near) as caught:
        make(**arguments)
    assert len(str(caught.value).splitlines()) <= 3


def test_tasks_are_made_from_yaml_where_there_is_no_data(base_dir):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--mixture", type=Mixture)
    parts = [
        {"class_path": "nanochat_pl.tasks.ARC", "init_args": {"subset": "ARC-Challenge", "split": "train"}},
        {"class_path": "nanochat_pl.tasks.GSM8K", "init_args": {"split": "train", "stop": 420}},
        {"class_path": "nanochat_pl.tasks.MMLU"},
        {"class_path": "nanochat_pl.tasks.HumanEval"},
        {"class_path": "nanochat_pl.tasks.SmolTalk", "init_args": {"stop": 10_000}},
        {"class_path": "nanochat_pl.tasks.CustomJSON", "init_args": {"path": "identity.jsonl"}},
        {"class_path": "nanochat_pl.tasks.SpellingBee", "init_args": {"split": "train", "size": 300}},
        {"class_path": "nanochat_pl.tasks.SimpleSpelling"},
    ]
    config = parser.parse_object(
        {"mixture": {"class_path": "Mixture", "init_args": {"tasks": parts, "seed": 1}}}
    )
    mixture = parser.instantiate_classes(config).mixture
    assert [task.name for task in mixture.tasks] == [
        "ARC-Challenge",
        "GSM8K",
        "MMLU",
        "HumanEval",
        "SmolTalk",
        "CustomJSON",
        "SpellingBee",
        "SimpleSpelling",
    ]
    assert mixture.tasks[1].stop == 420
    assert not base_dir.exists()
    for task in mixture.tasks:
        with pytest.raises(Failure) as caught:
            len(task)
        assert str(base_dir / "tasks") in str(caught.value)
        assert len(str(caught.value).splitlines()) <= 3


def test_data_lies_below_the_base_directory(base_dir):
    row = {"question": "1+1?", "answer": "#### 2"}
    write_rows(base_dir / "tasks" / "gsm8k" / "train.jsonl.gz", [row])
    assert first_texts(GSM8K("train")) == ["1+1?"]


def test_data_is_read_once(base_dir):
    file = write_rows(base_dir / "tasks/gsm8k/train.jsonl", [{"question": "1+1?", "answer": "#### 2"}])
    task = GSM8K("train")
    assert len(task) == 1
    file.unlink()
    assert first_texts(task) == ["1+1?"]


def test_a_path_may_be_a_file_or_a_folder(tmp_path):
    file = write_rows(tmp_path / "mine" / "train.jsonl", [{"question": "1+1?", "answer": "#### 2"}])
    for path in (file, file.parent):
        assert first_texts(GSM8K("train", path=str(path))) == ["1+1?"]


def test_rows_are_in_the_order_of_hugging_face_shuffle(tmp_path):
    # numpy's PCG64 with seed 42 permutes 0..9 into this order; datasets.Dataset.shuffle(seed=42) does the same.
    file = write_rows(tmp_path / "train.jsonl", [{"messages": messages} for messages in numbered(10)])
    expected = [f"q{i}" for i in np.random.default_rng(42).permutation(10)]
    assert expected == ["q5", "q6", "q0", "q7", "q3", "q2", "q4", "q9", "q1", "q8"]
    assert first_texts(SmolTalk("train", path=str(file))) == expected


def test_nobody_can_change_what_another_reader_gets(ten):
    task = CustomJSON(ten)
    task[0]["messages"][0]["content"] = "changed"
    task[0]["messages"].clear()
    assert first_texts(task)[0] == "t0"


def test_a_used_task_can_be_sent_to_a_worker(ten):
    task = CustomJSON(ten)
    len(task)
    assert first_texts(pickle.loads(pickle.dumps(task))) == first_texts(task)


@pytest.mark.parametrize("make", [SmolTalk, SimpleSpelling])
def test_what_has_no_right_answer_cannot_be_marked(make):
    assert make.kind is None
    with pytest.raises(BadInput, match="no right answers"):
        make().evaluate({"messages": []}, "anything")


def test_multiple_choice_puts_the_letter_right_behind_its_choice():
    conversation = multiple_choice("What is hot?", ["1", "2"], ["ice", "fire"], "2")
    assert conversation["messages"] == [
        {
            "role": "user",
            "content": "Multiple Choice question: What is hot?\n- ice=1\n- fire=2\n\n"
            "Respond only with the letter of the correct answer.",
        },
        {"role": "assistant", "content": "2"},
    ]
    assert conversation["letters"] == ("1", "2")


def test_a_mixture_has_each_item_once_and_of_a_task_listed_twice_twice(ten, three):
    mixture = Mixture([CustomJSON(ten), CustomJSON(three), CustomJSON(three)])
    expected = Counter({f"t{i}": 1 for i in range(10)}) + Counter({f"h{i}": 2 for i in range(3)})
    assert len(mixture) == 16
    assert Counter(first_texts(mixture)) == expected
    with pytest.raises(IndexError):
        mixture[16]


def test_a_place_says_where_an_item_comes_from(ten, three):
    mixture = Mixture([CustomJSON(ten), CustomJSON(three)])
    for index in range(len(mixture)):
        place = mixture.place(index)
        assert mixture[index] == mixture.tasks[place.task][place.index]


def test_the_order_of_a_mixture_is_that_of_nanochat(ten, three):
    pairs = [(0, i) for i in range(10)] + [(1, i) for i in range(3)]
    Random(42).shuffle(pairs)
    mixture = Mixture([CustomJSON(ten), CustomJSON(three)])
    assert [tuple(mixture.place(index)) for index in range(13)] == pairs


def test_a_seed_fixes_the_order_of_a_mixture(ten, three):
    def texts(seed: int) -> list[str]:
        return first_texts(Mixture([CustomJSON(ten), CustomJSON(three)], seed=seed))

    assert texts(7) == texts(7)
    assert texts(7) != texts(8)
    assert sorted(texts(7)) == sorted(texts(8))


def test_an_order_of_850_000_items_takes_four_bytes_each(tmp_path):
    words = str(
        write_lines(tmp_path / "words_alpha.txt", ["apple", "banana", "cherry", "date", "elder", "fig"])
    )
    mixture = Mixture([SimpleSpelling("train", size=850_000, path=words)])
    mixture.place(0)
    assert mixture._order.nbytes == 4 * 850_000
    assert np.array_equal(np.sort(mixture._order), np.arange(850_000))


def test_a_fingerprint_changes_with_everything_that_changes_the_sequence(tmp_path, ten, three):
    def fingerprint(*tasks, seed: int = 42) -> str:
        return Mixture(list(tasks), seed=seed).fingerprint

    words = str(
        write_lines(tmp_path / "words_alpha.txt", ["apple", "banana", "cherry", "date", "elder", "fig"])
    )
    longer = str(write_rows(tmp_path / "longer" / "ten.jsonl", numbered(10, "longer")))
    renamed = str(write_rows(tmp_path / "renamed.jsonl", numbered(10, "t")))
    seen = [
        fingerprint(CustomJSON(ten), CustomJSON(three)),
        fingerprint(CustomJSON(ten), CustomJSON(three), seed=1),
        fingerprint(CustomJSON(three), CustomJSON(ten)),
        fingerprint(CustomJSON(ten), CustomJSON(three), CustomJSON(three)),
        fingerprint(CustomJSON(ten)),
        fingerprint(CustomJSON(ten, start=1)),
        fingerprint(CustomJSON(ten, stop=9)),
        fingerprint(CustomJSON(ten, step=2)),
        fingerprint(CustomJSON(longer)),
        fingerprint(CustomJSON(renamed)),
        fingerprint(SimpleSpelling("train", size=5, path=words)),
        fingerprint(SimpleSpelling("train", size=6, path=words)),
        fingerprint(SpellingBee("train", size=5, path=words)),
    ]
    assert len(set(seen)) == len(seen)


def test_a_fingerprint_does_not_depend_on_where_the_files_lie(tmp_path):
    here = write_rows(tmp_path / "here" / "mine.jsonl", numbered(4))
    there = write_rows(tmp_path / "there" / "mine.jsonl", numbered(4))
    assert Mixture([CustomJSON(str(here))]).fingerprint == Mixture([CustomJSON(str(there))]).fingerprint


def test_a_mixture_of_nothing_is_refused():
    with pytest.raises(BadInput, match="tasks is empty"):
        Mixture([])


def test_every_task_has_the_kind_its_evaluation_needs():
    kinds = {
        make.__name__: make.kind for make in (ARC, MMLU, GSM8K, HumanEval, SpellingBee, SmolTalk, CustomJSON)
    }
    assert kinds == {
        "ARC": "categorical",
        "MMLU": "categorical",
        "GSM8K": "generative",
        "HumanEval": "generative",
        "SpellingBee": "generative",
        "SmolTalk": None,
        "CustomJSON": None,
    }
