"""What a task is: numbered conversations, some of which can be marked; and how several are mixed.

A task is built from settings alone, so that a stage's file can be read on a machine without any data; the data is
read once, when the first item or the length is asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from nanochat_pl.system.errors import BadInput

if TYPE_CHECKING:
    from nanochat_pl.tokenizer.conversation import Conversation


class Task:
    """Conversations by number, each a problem with its model answer.

    A subclass says how many there are (`_count`) and what each is (`_item`), and marks completions (`evaluate`) unless
    its kind is None. Its constructor takes `start`, `stop` and `step` besides its own settings and only stores them.

    Args:
        start: first item.
        stop: item to stop before; None, or more than there are, means all.
        step: distance between items.

    Attributes:
        kind: "categorical" tasks are answered by one of the conversation's `letters`, "generative" ones by any
            text; None is for training only.

    Raises:
        BadInput: a number is out of range.
    """

    kind: ClassVar[Literal["categorical", "generative"] | None] = None

    def __init__(self, start: int = 0, stop: int | None = None, step: int = 1) -> None:
        for key, value, least in (("start", start, 0), ("stop", stop, 0), ("step", step, 1)):
            if value is not None and value < least:
                raise BadInput(f"{type(self).__name__}: {key}={value} is less than {least}")
        self.start, self.stop, self.step = start, stop, step

    @property
    def name(self) -> str:
        """The task's name in metrics: `chat/<name>`."""
        return type(self).__name__

    @property
    def identity(self) -> dict[str, Any]:
        """What decides which items there are: settings, length and, where they come from files, their sizes."""
        settings = {key: value for key, value in vars(self).items() if isinstance(value, (str, int, float))}
        return {"task": self.name, "items": len(self), **settings, **self._source()}

    def evaluate(self, conversation: Conversation, completion: str) -> bool:
        """Tell whether a completion solves the problem.

        Args:
            conversation: an item of this task.
            completion: what the assistant wrote, without tool calls and what the tool answered.
        """
        raise NotImplementedError(f"{self.name} has no right answers")

    def __len__(self) -> int:
        return len(self._range)

    def __getitem__(self, index: int) -> Conversation:
        return self._item(self._range[index])

    @cached_property
    def _range(self) -> range:
        count = self._count()
        return range(self.start, count if self.stop is None else min(count, self.stop), self.step)

    def _count(self) -> int:
        raise NotImplementedError

    def _item(self, index: int) -> Conversation:
        raise NotImplementedError

    def _source(self) -> dict[str, Any]:
        return {}


class Mixture(Sequence["Conversation"]):
    """The conversations of several tasks in one shuffled order; a task listed twice counts twice.

    Args:
        tasks: what is mixed.
        seed: of the order.
    """

    def __init__(self, tasks: Sequence[Task], seed: int = 42) -> None:
        self.tasks, self.seed = tuple(tasks), seed

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> Conversation:
        task, item = self._place(index)
        return task[item]

    def origin(self, index: int) -> str:
        """Return where an item comes from, for messages."""
        task, item = self._place(index)
        return f"{task.name}, item {item}"

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of everything that decides which conversation has which number."""
        facts = [self.seed, *(task.identity for task in self.tasks)]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    @cached_property
    def _ends(self) -> np.ndarray:
        """(tasks,) where each task's items end, were they not shuffled."""
        return np.cumsum([len(task) for task in self.tasks])

    @cached_property
    def _order(self) -> np.ndarray:
        """(items,) int32: the unshuffled number of each item."""
        return np.random.default_rng(self.seed).permutation(self._ends[-1]).astype(np.int32)

    def _place(self, index: int) -> tuple[Task, int]:
        number = int(self._order[index])
        which = int(np.searchsorted(self._ends, number, side="right"))
        return self.tasks[which], number - int(self._ends[which - 1]) * (which > 0)
