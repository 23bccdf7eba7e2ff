"""ARC: questions from school science tests, an easy and a hard half."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from nanochat_pl.tasks.base import MultipleChoice, multiple_choice, require_choice
from nanochat_pl.tasks.rows import Row

if TYPE_CHECKING:
    from nanochat_pl.tokenizer.conversation import Conversation

SUBSETS = ("ARC-Easy", "ARC-Challenge")
SPLITS = ("train", "validation", "test")


class ARC(MultipleChoice):
    """Questions with three to five choices, labelled with letters or, a few, with digits.

    Args:
        subset: the easy or the hard half.
        split: which questions.
        path: file or folder of the split; None means `tasks/arc/<subset>` below the base directory.
        start: first item.
        stop: one past the last; None, or a number beyond the data, means all.
        step: distance between items.

    Source:
        Clark et al. 2018, arXiv:1803.05457; allenai/ai2_arc on the Hugging Face hub.
    """

    def __init__(
        self,
        subset: Literal["ARC-Easy", "ARC-Challenge"] = "ARC-Easy",
        split: Literal["train", "validation", "test"] = "test",
        path: str | None = None,
        start: int = 0,
        stop: int | None = None,
        step: int = 1,
    ) -> None:
        super().__init__(path, start, stop, step)
        require_choice("subset", subset, SUBSETS)
        require_choice("split", split, SPLITS)
        self.subset, self.split = subset, split
        self.name, self.folder = subset, f"arc/{subset}"

    def _conversation(self, row: Row) -> Conversation:
        choices = Row(row.where, row.field("choices", dict))
        texts, labels = choices.texts("text"), choices.texts("label")
        answer = row.field("answerKey", str)
        if len(texts) != len(labels) or answer not in labels:
            raise row.failure(f"answer {answer!r} and {len(texts)} choices do not fit labels {labels}")
        return multiple_choice(row.field("question", str), labels, texts, answer)
