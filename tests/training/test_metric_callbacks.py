"""CORE and chat tasks while training: at the interval and after the last step, equal to what a test would say."""

from __future__ import annotations

import json

import pytest
from core_files import make_items, write_bundle
from reference.byte_tokenizer import ChatByteTokenizer
from task_files import write_rows
from tiny_trainer import Kept, RandomRows, tiny_module, train

from nanochat_pl.evaluation.chat_tasks import chat_exam
from nanochat_pl.evaluation.core_bundle import read_bundle
from nanochat_pl.evaluation.core_metric import core_exams, core_metric
from nanochat_pl.evaluation.exam_scores import score_alone
from nanochat_pl.evaluation.likelihood import GPTScorer
from nanochat_pl.inference.engine import Engine
from nanochat_pl.system.errors import BadInput, Failure
from nanochat_pl.tasks.exams import chat_task
from nanochat_pl.training.callbacks.chat_metric import ChatMetric
from nanochat_pl.training.callbacks.core_metric import CoreMetric

TOKENIZER = ChatByteTokenizer()


class TokenizedRows(RandomRows):
    """Random rows, with a tokenizer for whoever asks."""

    tokenizer_on_disk = TOKENIZER

    def completed(self, failure):
        return failure.for_stage("mine.yaml")


@pytest.fixture
def bundle(base_dir):
    return write_bundle(
        base_dir / "tasks" / "core",
        {
            "choices": {
                "kind": "multiple_choice",
                "items": make_items("multiple_choice", 12),
                "baseline": 25,
            },
            "words": {"kind": "language_modeling", "items": make_items("language_modeling", 9), "shots": 1},
        },
    )


@pytest.fixture
def arc(base_dir):
    rows = [
        {
            "id": str(n),
            "question": f"{n}?",
            "choices": {"text": ["a", "b"], "label": ["A", "B"]},
            "answerKey": "AB"[n % 2],
        }
        for n in range(9)
    ]
    return write_rows(base_dir / "tasks" / "arc" / "ARC-Easy" / "test.jsonl", rows)


def module(steps: int):
    return tiny_module(steps, vocab_size=TOKENIZER.vocab_size)


def test_core_is_measured_at_the_interval_and_at_the_end(tmp_path, bundle):
    logger, model = Kept(), module(5)
    train(model, tmp_path, CoreMetric(every_n_steps=2, max_problems=6), logger=logger, data=TokenizedRows())
    assert sorted(logger.lines) == [2, 4, 5]
    exams = core_exams(GPTScorer(model.gpt, TOKENIZER), read_bundle(bundle), max_problems=6)
    scores = [score_alone(exam) for exam in exams]
    line = logger.lines[5]
    assert line["core/metric"] == core_metric(scores, read_bundle(bundle)).value
    assert {line["core/choices"], line["core/choices_n"]} == {scores[0].mean, 6}
    assert not line["core/is_partial"]
    assert model.gpt.training


@pytest.mark.parametrize("every_n_steps", [0, -1])
def test_off_is_off(tmp_path, base_dir, every_n_steps):
    logger = Kept()
    callbacks = CoreMetric(every_n_steps=every_n_steps), ChatMetric(every_n_steps=every_n_steps)
    train(module(2), tmp_path, *callbacks, logger=logger, data=TokenizedRows())
    assert logger.lines == {}


def test_a_run_without_the_bundle_goes_on_and_says_so(tmp_path, base_dir, capsys):
    logger = Kept()
    train(module(2), tmp_path, CoreMetric(every_n_steps=1), logger=logger, data=TokenizedRows())
    assert logger.lines == {}
    said = capsys.readouterr().err
    assert "CORE is not measured in this run" in said
    assert "python cli.py data fetch --for mine.yaml\n" in said


def test_chat_tasks_are_asked_at_the_interval_and_at_the_end(tmp_path, arc):
    logger, model = Kept(), module(3)
    callback = ChatMetric(every_n_steps=2, training_tasks=["ARC-Easy"], max_problems=7)
    train(model, tmp_path, callback, logger=logger, data=TokenizedRows())
    assert sorted(logger.lines) == [2, 3]
    score = score_alone(
        chat_exam("ARC-Easy", chat_task("ARC-Easy"), Engine(model.gpt, TOKENIZER), max_problems=7)
    )
    assert logger.lines[3]["chat/ARC-Easy"] == score.mean
    assert logger.lines[3]["chat/ARC-Easy_n"] == 7
    assert json.dumps(logger.lines[3])


def test_a_missing_chat_task_is_known_before_the_first_step(tmp_path, base_dir):
    with pytest.raises(Failure, match="ARC"):
        train(module(2), tmp_path, ChatMetric(every_n_steps=1), logger=Kept(), data=TokenizedRows())
    with pytest.raises(BadInput, match=r"chat_metric\.training_tasks is empty"):
        ChatMetric(training_tasks=[])
