"""Exams: numbered items with a right answer each, and what became of them.

    Exam ── chunks ──► deal to ranks ──► examine ──► ItemRecord per item ──► Score per exam ──► mean_centred

Which items are examined together is settled by the exam alone, not by the number of ranks nor by what is done already,
so that a record is the same however the work was shared out and however often it was interrupted.
"""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from nanochat_pl.system.errors import BadInput
from nanochat_pl.tasks.base import require_choice


class ItemRecord(NamedTuple):
    """What became of one item.

    Attributes:
        index: number of the item in its exam.
        prompt: first 16 hex digits of the sha256 of what was asked; two runs that agree in it asked the same.
        prediction: the model's answer, as JSON can hold it.
        gold: the right one.
        score: 0 to 1.
        cropped: prompts of it that lost their beginning because they were longer than the model's context.
    """

    index: int
    prompt: str
    prediction: Any
    gold: Any
    score: float
    cropped: int = 0


class Exam(ABC):
    """A task together with the model that takes it.

    Attributes:
        name: as in metrics, such as `core/hellaswag` or `chat/MMLU`.
        baseline: the score that chance reaches, 0 to 1.
        chunk: items examined together; a killed test repeats no more than that on each rank.
        facts: what the items, the prompts and the marks depend on besides the model, as JSON can hold it.
    """

    name: str
    baseline: float
    chunk: int
    facts: Mapping[str, Any]

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of items."""

    @abstractmethod
    def examine(self, indices: Sequence[int]) -> list[ItemRecord]:
        """Ask the model these items; return a record of each, in their order."""


class Chunk(NamedTuple):
    """Items that are examined together.

    Attributes:
        exam: number of the exam in the list.
        indices: numbers of its items.
    """

    exam: int
    indices: tuple[int, ...]


def chunks_of(exams: Sequence[Exam], done: Sequence[Iterable[int]] = ()) -> list[Chunk]:
    """Return all chunks that are not done, exam after exam.

    Args:
        exams: what is to be taken.
        done: for each exam the items that have a record; empty means none has.
    """
    chunks = []
    for number, exam in enumerate(exams):
        finished = set(done[number]) if done else set()
        for begin in range(0, len(exam), exam.chunk):
            indices = tuple(range(begin, min(begin + exam.chunk, len(exam))))
            if not finished.issuperset(indices):
                chunks.append(Chunk(number, indices))
    return chunks


class Score(NamedTuple):
    """How a model did in an exam.

    Attributes:
        name: the exam's.
        mean: of the items' scores.
        standard_error: of the mean, from the items' own spread; 0 where it cannot be known from one item.
        n: items.
        baseline: what chance reaches.
    """

    name: str
    mean: float
    standard_error: float
    n: int
    baseline: float = 0.0

    @property
    def centred(self) -> float:
        """The mean on a scale where chance is 0 and all right is 1."""
        return (self.mean - self.baseline) / (1 - self.baseline)

    @classmethod
    def of(cls, name: str, scores: Sequence[float], baseline: float = 0.0) -> Score:
        """Return the score of items, one at least."""
        return cls.from_sums(name, sum(scores), sum(score * score for score in scores), len(scores), baseline)

    @classmethod
    def from_sums(cls, name: str, total: float, squares: float, n: int, baseline: float = 0.0) -> Score:
        """Return the score of `n` items from the sum of their scores and of the squares of these."""
        mean = total / n
        variance = max(0.0, squares / n - mean * mean) * n / (n - 1) if n > 1 else 0.0
        return cls(name, mean, math.sqrt(variance / n), n, baseline)


class Estimate(NamedTuple):
    """A number and the standard error of it."""

    value: float
    standard_error: float


def mean_centred(scores: Sequence[Score]) -> Estimate:
    """Return the mean of centred scores, every exam counting the same; one exam at least."""
    variances = ((score.standard_error / (1 - score.baseline)) ** 2 for score in scores)
    n = len(scores)
    return Estimate(sum(score.centred for score in scores) / n, math.sqrt(sum(variances)) / n)


def chosen(option: str | None, usual: Sequence[str], known: Sequence[str]) -> list[str]:
    """Return the names of what is to be taken: those of the option `--tasks`, else the usual ones.

    Raises:
        BadInput: a name is not known, or there is none.
    """
    if option is None:
        return list(usual)
    names = [name.strip() for name in option.split(",") if name.strip()]
    if not names:
        raise BadInput(f"--tasks {option!r} names no task; there is {', '.join(known)}")
    for name in names:
        require_choice("--tasks", name, known)
    return list(dict.fromkeys(names))


def require_problems(max_problems: int | None) -> None:
    """Raise BadInput where a limit leaves no item."""
    if max_problems is not None and max_problems < 1:
        raise BadInput(f"max_problems={max_problems} leaves no item; give 1 or more, or leave it out for all")


def prompt_hash(asked: Any) -> str:
    """Return 16 hex digits for what was asked: text, ids, or lists of them."""
    return hashlib.sha256(json.dumps(asked, ensure_ascii=False).encode("utf-8", "replace")).hexdigest()[:16]
