"""MMLU: questions from 57 subjects, four choices each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from nanochat_pl.system.errors import BadInput
from nanochat_pl.tasks.base import MultipleChoice, multiple_choice, require_choice
from nanochat_pl.tasks.rows import Row

if TYPE_CHECKING:
    from nanochat_pl.tokenizer.conversation import Conversation

LETTERS = ("A", "B", "C", "D")
SPLITS = {"all": ("dev", "validation", "test", "auxiliary_train"), "auxiliary_train": ("train",)}


class MMLU(MultipleChoice):
    """Questions with four choices; the key `subject` of a conversation names one of 57.

    Args:
        subset: `all` has the subjects' own questions, `auxiliary_train` 99,842 of other tests, for training.
        split: which questions; `auxiliary_train` has `train` only.
        path: file or folder of the split; None means `tasks/mmlu/<subset>` below the base directory.
        start: first item.
        stop: one past the last; None, or a number beyond the data, means all.
        step: distance between items.

    Source:
        Hendrycks et al. 2020, arXiv:2009.03300; cais/mmlu on the Hugging Face hub.
    """

    name = "MMLU"

    def __init__(
        self,
        subset: Literal["all", "auxiliary_train"] = "all",
        split: Literal["train", "dev", "validation", "test", "auxiliary_train"] = "test",
        path: str | None = None,
        start: int = 0,
        stop: int | None = None,
        step: int = 1,
    ) -> None:
        super().__init__(path, start, stop, step)
        require_choice("subset", subset, tuple(SPLITS))
        if split not in SPLITS[subset]:
            raise BadInput(f"split={split!r}: subset {subset} has {', '.join(SPLITS[subset])}")
        self.subset, self.split = subset, split
        self.folder = f"mmlu/{subset}"

    def _conversation(self, row: Row) -> Conversation:
        if isinstance(row.content, dict) and isinstance(row.content.get("train"), dict):
            row = Row(row.where, row.content["train"])  # as the hub has auxiliary_train
        choices, answer = row.texts("choices"), row.field("answer", int)
        if len(choices) != len(LETTERS) or not 0 <= answer < len(LETTERS):
            raise row.failure(f"answer {answer} of {len(choices)} choices; expected 0 to 3 of 4")
        conversation = multiple_choice(row.field("question", str), LETTERS, choices, LETTERS[answer])
        return {**conversation, "subject": row.field("subject", str)}
