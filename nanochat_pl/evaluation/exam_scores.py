"""Scores of exams added up over batches and over ranks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from nanochat_pl.evaluation.exam import Chunk, Exam, ItemRecord, Score, chunks_of


class ExamScores(Metric):
    """Number, sum and sum of squares of the items' scores of several exams.

    Args:
        exams: what is taken; the order counts.
    """

    full_state_update = False
    counts: Tensor
    totals: Tensor
    squares: Tensor

    def __init__(self, exams: Sequence[Exam]) -> None:
        super().__init__()
        self.exams = list(exams)
        for name in ("totals", "squares"):
            self.add_state(name, torch.zeros(len(exams), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(len(exams), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, exam: int, records: Iterable[ItemRecord]) -> None:
        """Add items of exam number `exam`; each item once in all, over all ranks."""
        for record in records:
            self.counts[exam] += 1
            self.totals[exam] += record.score
            self.squares[exam] += record.score**2

    def compute(self) -> Tensor:
        """Return (exams, 3) float64: number, sum and sum of squares."""
        return torch.stack((self.counts.double(), self.totals, self.squares), dim=1)

    def scores(self) -> list[Score]:
        """Return each exam's score, in their order; every exam must have an item. All ranks must ask."""
        return [
            Score.from_sums(exam.name, total, squares, int(n), exam.baseline)
            for exam, (n, total, squares) in zip(self.exams, self.compute().tolist(), strict=True)
        ]


def take(exams: Sequence[Exam], chunks: Iterable[Chunk], scores: ExamScores) -> None:
    """Let the model take chunks of exams and add up what it scores."""
    for chunk in chunks:
        scores.update(chunk.exam, exams[chunk.exam].examine(chunk.indices))


def score_alone(exam: Exam) -> Score:
    """Take one exam whole, in this process, and return its score."""
    scores = ExamScores([exam])
    take([exam], chunks_of([exam]), scores)
    return scores.scores()[0]
