"""Exams: every item in one chunk, scores with their errors, and records that a test can go on from."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from nanochat_pl.evaluation.exam import Exam, ItemRecord, Score, chunks_of, mean_centred, prompt_hash
from nanochat_pl.evaluation.exam_scores import ExamScores, score_alone, take
from nanochat_pl.evaluation.record_files import RecordFiles


class Numbers(Exam):
    """Item i scores 1 where i is a multiple of three; counts how often each was asked."""

    baseline = 0.25

    def __init__(self, name: str = "chat/numbers", length: int = 10, chunk: int = 4) -> None:
        self.name, self.length, self.chunk = name, length, chunk
        self.facts = {"chunk": chunk}
        self.asked: list[int] = []

    def __len__(self) -> int:
        return self.length

    def examine(self, indices):
        self.asked += indices
        return [ItemRecord(i, prompt_hash(i), str(i), "0", float(i % 3 == 0)) for i in indices]


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_every_item_goes_to_exactly_one_rank(world_size):
    exams = [Numbers(length=10), Numbers(length=1), Numbers(length=64, chunk=5)]
    dealt = [chunk for rank in range(world_size) for chunk in chunks_of(exams)[rank::world_size]]
    items = sorted((chunk.exam, index) for chunk in dealt for index in chunk.indices)
    assert items == [(number, index) for number, exam in enumerate(exams) for index in range(len(exam))]


def test_a_chunk_is_repeated_whole_unless_all_of_it_is_done():
    exam = Numbers(length=10, chunk=4)
    assert [chunk.indices for chunk in chunks_of([exam], [{0, 1, 2, 3, 4, 9, 8}])] == [(4, 5, 6, 7)]
    assert chunks_of([exam], [range(10)]) == []


def test_a_score_is_the_mean_and_its_error_that_of_a_sample():
    values = [random.Random(1).random() for _ in range(50)] + [0.0, 1.0]
    score = Score.of("x", values, baseline=0.25)
    assert score.mean == pytest.approx(statistics.mean(values))
    assert score.standard_error == pytest.approx(statistics.stdev(values) / math.sqrt(len(values)))
    assert Score.of("x", [1.0]).standard_error == 0


@pytest.mark.parametrize(
    ("accuracy", "baseline", "centred"), [(0.25, 0.25, 0.0), (1, 0.25, 1.0), (0.0, 0.5, -1)]
)
def test_centred_scores_are_0_by_chance_and_1_when_all_is_right(accuracy, baseline, centred):
    assert Score("x", accuracy, 0.0, 8, baseline).centred == pytest.approx(centred)


def test_the_mean_of_centred_scores_counts_every_exam_alike():
    scores = [Score("a", 1.0, 0.03, 10_000, 0.25), Score("b", 0.0, 0.04, 10, 0.0)]
    estimate = mean_centred(scores)
    assert estimate.value == pytest.approx(0.5)
    assert estimate.standard_error == pytest.approx(math.sqrt((0.03 / 0.75) ** 2 + 0.04**2) / 2)


def test_scores_shared_out_are_those_of_one_process():
    exams = [Numbers(length=10), Numbers(length=33, chunk=7)]
    alone = [score_alone(exam) for exam in exams]
    parts = [ExamScores(exams) for _ in range(3)]
    for rank, part in enumerate(parts):
        take(exams, chunks_of(exams)[rank::3], part)
    totals = sum(part.compute() for part in parts)
    assert [
        Score.from_sums(e.name, t, s, int(n), e.baseline)
        for e, (n, t, s) in zip(exams, totals.tolist(), strict=True)
    ] == alone
    assert alone[0].mean == pytest.approx(0.4)


def test_records_come_back_from_all_ranks_whatever_was_torn(tmp_path):
    exam, files = Numbers(), RecordFiles(tmp_path, {"weights": "a"})
    files.append(exam, exam.examine([0, 1]), rank=0)
    files.append(exam, exam.examine([4, 5]), rank=1)
    (part,) = tmp_path.glob(".progress/numbers.*.1.jsonl")
    part.write_bytes(part.read_bytes()[:-20])
    assert sorted(files.read(exam)) == [0, 1, 4]
    files.append(exam, exam.examine([5]), rank=1)
    assert sorted(files.read(exam)) == [0, 1, 4, 5]


@pytest.mark.parametrize("change", ["weights", "facts"])
def test_records_of_another_model_or_of_other_prompts_are_not_gone_on_with(tmp_path, change):
    exam = Numbers()
    RecordFiles(tmp_path, {"weights": "a"}).append(exam, exam.examine([0]), rank=0)
    other = RecordFiles(tmp_path, {"weights": "b" if change == "weights" else "a"})
    exam.facts = {"chunk": 5} if change == "facts" else exam.facts
    assert other.read(exam) == {}


def test_finished_records_stand_in_order_and_those_of_other_models_go(tmp_path):
    exam = Numbers(length=5)
    RecordFiles(tmp_path, {"weights": "old"}).append(exam, exam.examine([0]), rank=0)
    files = RecordFiles(tmp_path, {"weights": "new"})
    files.append(exam, exam.examine([3, 4]), rank=1)
    files.append(exam, exam.examine([0, 1, 2]), rank=0)
    assert [record.index for record in files.finish(exam)] == [0, 1, 2, 3, 4]
    assert len((tmp_path / "numbers.jsonl").read_text().splitlines()) == 5
    assert len(list(tmp_path.glob(".progress/*"))) == 2
    files.forget(exam)
    assert files.read(exam) == {}
