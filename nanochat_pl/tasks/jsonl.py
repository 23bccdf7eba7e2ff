"""Conversations of one's own: a file with one conversation a line, such as those that tell a model who it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nanochat_pl.system.assets import TASKS
from nanochat_pl.system.errors import Failure, Unfetched
from nanochat_pl.system.paths import tasks_dir, user_path
from nanochat_pl.tasks.base import RowTask
from nanochat_pl.tasks.messages import checked_messages
from nanochat_pl.tasks.rows import Row, find_files

if TYPE_CHECKING:
    from nanochat_pl.tokenizer.conversation import Conversation


class CustomJSON(RowTask):
    """Conversations in the order of the file, all checked before the first is used.

    Args:
        path: the file; where there is none of this name, it is looked for below `tasks` in the base directory, and
            gzipped (`.gz`). Each line is a list of messages `{"role": ..., "content": ...}`, or an object with such a
            list under `messages`.
        start: first item.
        stop: one past the last; None, or a number beyond the data, means all.
        step: distance between items.
    """

    name = "CustomJSON"
    is_shuffled = False

    def __init__(self, path: str, start: int = 0, stop: int | None = None, step: int = 1) -> None:
        super().__init__(path, start, stop, step)

    @property
    def asset(self) -> str | None:
        return self.path if self.path in TASKS else None

    def find(self) -> list[Path]:
        places = (user_path(self.path), tasks_dir(self.path))
        for place in places:
            for file in (place, place.with_name(place.name + ".gz")):
                if file.is_file():
                    return find_files(file, (), whose=self.name)
        looked_in = " nor ".join(dict.fromkeys(map(str, places)))
        complaint = f"conversations are neither in {looked_in}"
        if self.asset:
            raise Unfetched(complaint, "bring them here")
        raise Failure(f"{complaint}\ncorrect the path of CustomJSON, or write the file")

    def _total(self) -> int:
        rows = self._rows
        for number in range(len(rows)):
            self._conversation(rows[number])
        return len(rows)

    def _conversation(self, row: Row) -> Conversation:
        content = row.content
        messages = content if isinstance(content, list) else row.field("messages", list)
        return {"messages": checked_messages(row, messages)}
