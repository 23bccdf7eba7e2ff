"""Tasks: numbered conversations, some with a rule that tells whether an answer is right; and mixtures of them.

    Mixture [i] ── order, seed ──> Task [j] ── start:stop:step ──> item k ── shuffle 42 ──> row of a file

Constructing a task only stores its arguments, so a configuration is read on machines that have no data; the first
`len()` or `[i]` opens the files. Rows are shuffled and mixtures ordered as nanochat does it, so that item i is
nanochat's item i.
"""

from __future__ import annotations

import hashlib
import json
import operator
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property
from inspect import signature
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np

from nanochat_pl.system.errors import BadInput, Failure
from nanochat_pl.system.parsing import nearest
from nanochat_pl.system.paths import tasks_dir, user_path
from nanochat_pl.tasks.rows import Row, Rows, find_files

if TYPE_CHECKING:
    from nanochat_pl.tokenizer.conversation import Conversation

SHUFFLE_SEED = 42

Kind = Literal["categorical", "generative"]


class Task(ABC, Sequence["Conversation"]):
    """A sequence of conversations that all set the same kind of problem.

    Args:
        start: first item.
        stop: one past the last item; None, or a number beyond the data, means all there are.
        step: distance between items.

    Raises:
        BadInput: the slice cannot hold an item.
    """

    name: str  # in metrics, `chat/<name>`; never changes
    kind: ClassVar[Kind | None] = (
        None  # how answers are marked: the likeliest of `letters`, a text, not at all
    )
    chance: float = 0.0  # what guessing scores

    def __init__(self, start: int = 0, stop: int | None = None, step: int = 1) -> None:
        if start < 0 or step < 1:
            raise BadInput(f"start={start}, step={step}: start is 0 or more and step 1 or more")
        if stop is not None and stop <= start:
            raise BadInput(
                f"stop={stop} is not beyond start={start}; leave the task out if you want none of it"
            )
        self.start, self.stop, self.step = start, stop, step

    @abstractmethod
    def _total(self) -> int:
        """Return the number of items before slicing."""

    @abstractmethod
    def _item(self, number: int) -> Conversation:
        """Return item `number`, counted before slicing."""

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Conversation:
        """Return one conversation, ending with the right answer where there is one; nobody else holds it.

        Raises:
            Failure: the data is missing or damaged.
        """
        return self._item(self._numbers[operator.index(index)])

    def evaluate(self, conversation: Conversation, completion: str) -> bool:
        """Tell whether an answer is right.

        Args:
            conversation: one of this task.
            completion: what the assistant wrote instead of the conversation's last message.

        Raises:
            BadInput: this task has no right answers (`kind` is None).
        """
        raise BadInput(f"{self.name} has no right answers to compare with; it is for training only")

    def require_marking(self) -> None:
        """Raise Failure where this machine cannot mark answers as it should."""

    @property
    def asset(self) -> str | None:
        """Name of its data in the registry of what can be fetched; None for what is made here or its user's own."""
        return None

    @property
    def files(self) -> list[Path]:
        """The files its items come from."""
        return []

    def find(self) -> list[Path]:
        """Return these files without reading them.

        Raises:
            Failure: there are none, or some of them are missing.
        """
        return self.files

    @property
    def facts(self) -> dict[str, Any]:
        """What decides its items: name, arguments, number, and the names and bytes of files, not where they lie."""
        names = [name for name in signature(type(self)).parameters if name != "path"]
        return {
            "name": self.name,
            "arguments": {name: getattr(self, name) for name in names},
            "length": len(self),
            "files": [[file.name, file.stat().st_size] for file in self.files],
        }

    @cached_property
    def _numbers(self) -> range:
        total = self._total()
        numbers = range(total)[self.start : self.stop : self.step]
        if not numbers:
            raise Failure(
                f"{self.name}: start={self.start} is beyond its {total} items; give a smaller start"
            )
        return numbers


class RowTask(Task):
    """A task whose items are rows of files, in the order of Hugging Face's `.shuffle(seed=42)`.

    Args:
        path: file, or folder with the files of the split; None means the task's own folder below the base directory.
        start: see `Task`.
        stop: see `Task`.
        step: see `Task`.
    """

    folder: ClassVar[str]
    is_shuffled: ClassVar[bool] = True

    def __init__(
        self, path: str | None = None, start: int = 0, stop: int | None = None, step: int = 1
    ) -> None:
        super().__init__(start, stop, step)
        self.path = path

    @abstractmethod
    def _conversation(self, row: Row) -> Conversation:
        """Return the conversation a row holds."""

    @property
    def stems(self) -> Sequence[str]:
        """Names its files may have, without suffix, the usual one first."""
        return [self.split]

    @property
    def asset(self) -> str | None:
        return None if self.path else f"{self.folder}/{self.stems[0]}"

    def find(self) -> list[Path]:
        place = user_path(self.path) if self.path else tasks_dir(self.folder)
        return find_files(place, self.stems, whose=self.name)

    def _total(self) -> int:
        return len(self._rows)

    def _item(self, number: int) -> Conversation:
        return self._conversation(self._rows[int(self._order[number])])

    @property
    def files(self) -> list[Path]:
        return self._rows.files

    @cached_property
    def _rows(self) -> Rows:
        return Rows(self.find())

    @cached_property
    def _order(self) -> np.ndarray:
        """Number of the row behind each item, (rows,) int32."""
        rows = len(self._rows)
        order = np.random.default_rng(SHUFFLE_SEED).permutation(rows) if self.is_shuffled else np.arange(rows)
        return order.astype(np.int32)


class MultipleChoice(RowTask):
    """A task whose right answer is one letter among a few, mostly four."""

    kind = "categorical"
    chance = 0.25

    def evaluate(self, conversation: Conversation, completion: str) -> bool:
        return completion.strip() == conversation["messages"][-1]["content"]


def multiple_choice(
    question: str, letters: Sequence[str], choices: Sequence[str], answer: str
) -> Conversation:
    """Return the conversation of a multiple-choice question; its key `letters` holds the possible answers.

    The letter stands behind its choice, which binds better in small models, and right behind the "=": with a space
    before it, it would be another token than the answer.
    """
    listed = "".join(f"- {choice}={letter}\n" for letter, choice in zip(letters, choices, strict=True))
    prompt = (
        f"Multiple Choice question: {question}\n{listed}\nRespond only with the letter of the correct answer."
    )
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return {"messages": messages, "letters": tuple(letters)}


class Place(NamedTuple):
    """Where an item of a mixture comes from.

    Attributes:
        task: number of the task in the mixture's list.
        index: number of the item in that task.
    """

    task: int
    index: int


class Mixture(Sequence["Conversation"]):
    """The items of several tasks in one random order, each exactly once.

    Args:
        tasks: what to mix; a task listed twice is seen twice.
        seed: of the order; equal tasks and seed give the same sequence on every machine.

    Raises:
        BadInput: there is no task.
    """

    def __init__(self, tasks: list[Task], seed: int = 42) -> None:
        if not tasks:
            raise BadInput("tasks is empty; list at least one task")
        self.tasks, self.seed = list(tasks), seed

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Conversation:
        task, inner = self.place(index)
        return self.tasks[task][inner]

    def place(self, index: int) -> Place:
        """Return which item of which task item `index` is, without reading it."""
        number = int(self._order[operator.index(index)])
        task = bisect_right(self._ends, number)
        return Place(task, number - (self._ends[task - 1] if task else 0))

    @cached_property
    def fingerprint(self) -> str:
        """Hex digits that two mixtures share if they are the same sequence.

        Made of names, arguments, lengths and the sizes of files, so it costs no reading; of two files with the same
        name and size it cannot tell which is which, and where they lie does not matter.
        """
        facts = {"seed": self.seed, "tasks": [task.facts for task in self.tasks]}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(map(len, self.tasks)))

    @cached_property
    def _order(self) -> np.ndarray:
        """Number, counted through all tasks, behind each index, (items,) int32."""
        numbers = list(range(len(self)))
        Random(self.seed).shuffle(numbers)
        return np.array(numbers, np.int32)


def require_choice(key: str, value: str, choices: Sequence[str]) -> None:
    """Raise BadInput unless `value` is one of `choices`."""
    if value in choices:
        return
    near = nearest(value, choices)
    hint = f"\ndid you mean {near}?" if near else ""
    raise BadInput(f"{key}={value!r} does not exist; there is {', '.join(choices)}{hint}")
