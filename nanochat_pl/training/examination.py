"""Exams under Lightning: chunks dealt to ranks, marked in `test_step`, added up over ranks, kept on disk.

    exams ── chunks not done ──► dealt to ranks ──► examine ──► RecordFiles
                                                        └─────► ExamScores ──► all ranks ──► Score per exam

Every chunk goes to exactly one rank; nothing is repeated to make the ranks' shares equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from nanochat_pl.evaluation.exam import Chunk, Exam, Score, chunks_of
from nanochat_pl.evaluation.exam_scores import ExamScores, take
from nanochat_pl.evaluation.record_files import RecordFiles
from nanochat_pl.system import signals
from nanochat_pl.system.errors import Failure
from nanochat_pl.training.callbacks.cadence import agreed_stop


class Examination:
    """Exams that are to be taken, and what is done of them.

    Args:
        exams: what is to be taken.
        files: where records are kept.
        rank: of this process; rank 0 counts what was done before.

    Attributes:
        chunks: what is left to do, for all ranks together.
        scores: of the exams, on rank 0 after `conclude`.
        cropped: prompts of each exam that did not fit the context, by its name, on rank 0 after `conclude`.
    """

    def __init__(self, exams: Sequence[Exam], files: RecordFiles, rank: int = 0) -> None:
        self.exams, self.files, self.rank = list(exams), files, rank
        self._done = [files.read(exam) for exam in exams]
        self.chunks = chunks_of(self.exams, self._done)
        self._totals = ExamScores(self.exams)
        self.scores: list[Score] = []
        self.cropped: dict[str, int] = {}
        if rank == 0:
            self._count_what_is_done()

    def _count_what_is_done(self) -> None:
        for exam, indices in set(chunks_of(self.exams)) - set(self.chunks):
            self._totals.update(exam, [self._done[exam][index] for index in indices])

    @property
    def done(self) -> int:
        """Items that had a record at the beginning."""
        return sum(map(len, self._done))

    def loader(self, rank: int, world_size: int) -> DataLoader:
        """Return the chunks of one rank."""
        return DataLoader(self.chunks[rank::world_size], batch_size=None, generator=torch.Generator())

    def examine(self, chunk: Chunk) -> None:
        """Let the model take a chunk; keep its records."""
        exam = self.exams[chunk.exam]
        records = exam.examine(chunk.indices)
        self.files.append(exam, records, self.rank)
        self._totals.update(chunk.exam, records)

    def conclude(self, device: torch.device) -> None:
        """Add up over all ranks, on `device`; rank 0 writes the records in order.

        Raises:
            Failure: records and sums disagree.
        """
        self._totals.to(device).compute()
        if self.rank == 0:
            self.scores = self._totals.scores()
            for exam, score in zip(self.exams, self.scores, strict=True):
                self._finish(exam, score)

    def _finish(self, exam: Exam, score: Score) -> None:
        """Write an exam's records, one of each item."""
        records = self.files.finish(exam)
        self.cropped[exam.name] = sum(record.cropped > 0 for record in records)
        if not len(records) == score.n == len(exam):
            raise Failure(
                f"{exam.name}: {len(exam)} items, {score.n} scores and {len(records)} records do not agree\n"
                f"Another test may have written to {self.files.folder}; run the command again with --fresh."
            )


def taken_now(exams: Sequence[Exam], trainer: Trainer) -> list[Score] | None:
    """Let the model as it is take exams, shared out over ranks.

    Returns:
        The scores over all ranks; None, on all ranks, if the run is to stop and they were broken off.
    """
    totals = ExamScores(exams).to(trainer.strategy.root_device)
    mine = chunks_of(exams)[trainer.global_rank :: trainer.world_size]
    take(exams, takewhile(lambda _: not signals.first_received(), mine), totals)
    return None if agreed_stop(trainer) else totals.scores()
