"""GSM8K: school arithmetic in words; the reference answers call a calculator."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from nanochat_pl.tasks.answers import final_number, has_result
from nanochat_pl.tasks.base import RowTask, require_choice
from nanochat_pl.tasks.rows import Row

if TYPE_CHECKING:
    from nanochat_pl.tokenizer.conversation import Conversation, Part

SPLITS = ("train", "test")
CALL = re.compile(r"<<([^>]+)>>")


class GSM8K(RowTask):
    """Word problems whose answer is a number; the calculator's `<<48/2=24>>` become tool calls.

    Args:
        split: which problems.
        path: file or folder of the split; None means `tasks/gsm8k` below the base directory.
        start: first item.
        stop: one past the last; None, or a number beyond the data, means all.
        step: distance between items.

    Source:
        Cobbe et al. 2021, arXiv:2110.14168; openai/gsm8k (main) on the Hugging Face hub.
    """

    name = "GSM8K"
    kind = "generative"
    folder = "gsm8k"

    def __init__(
        self,
        split: Literal["train", "test"] = "test",
        path: str | None = None,
        start: int = 0,
        stop: int | None = None,
        step: int = 1,
    ) -> None:
        super().__init__(path, start, stop, step)
        require_choice("split", split, SPLITS)
        self.split = split

    def evaluate(self, conversation: Conversation, completion: str) -> bool:
        return has_result(completion, final_number(conversation["messages"][-1]["content"][-1]["text"]))

    def _conversation(self, row: Row) -> Conversation:
        answer = row.field("answer", str)
        if final_number(answer) is None:
            raise row.failure("its answer does not end with #### and a number")
        messages = [
            {"role": "user", "content": row.field("question", str)},
            {"role": "assistant", "content": answer_parts(answer)},
        ]
        return {"messages": messages}


def answer_parts(answer: str) -> list[Part]:
    """Return a reference answer as text, tool calls and their outputs, in order.

    Args:
        answer: text with calls such as `<<48/2=24>>`; what stands behind the last "=" is the output.
    """
    parts: list[Part] = []
    for place, piece in enumerate(CALL.split(answer)):  # texts at even places, calls between them
        if place % 2:
            expression, _, result = piece.rpartition("=") if "=" in piece else (piece, "", "")
            parts += [{"type": "python", "text": expression}, {"type": "python_output", "text": result}]
        elif piece:
            parts.append({"type": "text", "text": piece})
    return parts
