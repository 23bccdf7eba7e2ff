"""SmolTalk: general conversations, the bulk of what a chat model is trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from nanochat_pl.tasks.base import RowTask, require_choice
from nanochat_pl.tasks.messages import checked_messages
from nanochat_pl.tasks.rows import Row

if TYPE_CHECKING:
    from nanochat_pl.tokenizer.conversation import Conversation

SPLITS = ("train", "test")


class SmolTalk(RowTask):
    """Conversations from any file with a column `messages` of roles and contents.

    Args:
        split: which conversations.
        path: file or folder of the split; None means `tasks/smoltalk` below the base directory.
        start: first item.
        stop: one past the last; None, or a number beyond the data, means all.
        step: distance between items.

    Source:
        Ben Allal et al. 2025, arXiv:2502.02737; HuggingFaceTB/smol-smoltalk on the Hugging Face hub.
    """

    name = "SmolTalk"
    folder = "smoltalk"

    def __init__(
        self,
        split: Literal["train", "test"] = "train",
        path: str | None = None,
        start: int = 0,
        stop: int | None = None,
        step: int = 1,
    ) -> None:
        super().__init__(path, start, stop, step)
        require_choice("split", split, SPLITS)
        self.split = split

    def _conversation(self, row: Row) -> Conversation:
        return {"messages": checked_messages(row, row.field("messages", list))}
