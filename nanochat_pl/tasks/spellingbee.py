"""Spelling, which a model that reads tokens has to be taught: counting the letters of a word, and naming them.

Items are made from a list of words, not stored. One word in ten is for testing only, in both tasks; which ones is
decided by a checksum of the word, so that a longer list moves no word to the other side. Each item's chance has a seed
of its own that names task and split.
"""

from __future__ import annotations

import zlib
from functools import cached_property
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from nanochat_pl.system.errors import BadInput, Unfetched
from nanochat_pl.system.paths import tasks_dir, user_path
from nanochat_pl.tasks.answers import final_number, has_result
from nanochat_pl.tasks.base import SHUFFLE_SEED, Task, require_choice
from nanochat_pl.tasks.rows import REMEDY, find_files, read_lines
from nanochat_pl.tasks.spelling_questions import QUESTIONS

if TYPE_CHECKING:
    from nanochat_pl.tokenizer.conversation import Conversation, Part

SPLITS = ("train", "test")
TEST_SHARE = 10  # one word in ten
LETTERS = "abcdefghijklmnopqrstuvwxyz"
QUOTES = ("", "'", '"')


class SpellingTask(Task):
    """A task made from one split of a list of words.

    Args:
        split: which words.
        size: number of items; None means as many as `sizes` says.
        path: list of words, one a line, or its folder; None means `tasks/spelling` below the base directory.
        start: see `Task`.
        stop: see `Task`.
        step: see `Task`.
    """

    sizes: ClassVar[dict[str, int]]

    def __init__(
        self,
        split: Literal["train", "test"] = "test",
        size: int | None = None,
        path: str | None = None,
        start: int = 0,
        stop: int | None = None,
        step: int = 1,
    ) -> None:
        super().__init__(start, stop, step)
        require_choice("split", split, SPLITS)
        if size is not None and size < 1:
            raise BadInput(f"size={size} leaves no item; give 1 or more")
        self.split, self.path = split, path
        self.size = self.sizes[split] if size is None else size

    @property
    def asset(self) -> str | None:
        return None if self.path else "spelling/words_alpha"

    @property
    def files(self) -> list[Path]:
        place = user_path(self.path) if self.path else tasks_dir("spelling")
        return find_files(place, ["words_alpha"], whose=self.name, suffixes=(".txt", ".txt.gz"))

    def _total(self) -> int:
        self._words  # noqa: B018 - a missing or damaged list is found before anything is counted
        return self.size

    def _chance(self, number: int) -> Random:
        return Random(f"{self.name}/{self.split}/{number}")

    @cached_property
    def _words(self) -> list[str]:
        (file,) = self.files
        words = [word for word in read_words(file) if is_for_testing(word) == (self.split == "test")]
        if not words:
            raise Unfetched(f"{file}: has no word for split {self.split}", REMEDY)
        return words


class SpellingBee(SpellingTask):
    """How often a letter stands in a word: spelled out and counted by hand, then by Python."""

    name = "SpellingBee"
    kind = "generative"
    sizes: ClassVar[dict[str, int]] = {"train": 80_000, "test": 256}

    def evaluate(self, conversation: Conversation, completion: str) -> bool:
        return has_result(completion, final_number(conversation["messages"][-1]["content"][-1]["text"]))

    def _item(self, number: int) -> Conversation:
        rng = self._chance(number)
        word = rng.choice(self._words)
        letter = rng.choice(word if rng.random() < 0.9 else LETTERS)
        messages = [
            {"role": "user", "content": ask(rng, word, letter)},
            {"role": "assistant", "content": count_letter(word, letter)},
        ]
        return {"messages": messages}


class SimpleSpelling(SpellingTask):
    """A word, spelled: no word comes twice before all have come once."""

    name = "SimpleSpelling"
    sizes: ClassVar[dict[str, int]] = {"train": 200_000, "test": 256}

    def _item(self, number: int) -> Conversation:
        word = self._words[int(self._order[number % len(self._order)])]
        messages = [
            {"role": "user", "content": f"Spell the word: {word}"},
            {"role": "assistant", "content": spell(word)},
        ]
        return {"messages": messages}

    @cached_property
    def _order(self) -> np.ndarray:
        return np.random.default_rng(SHUFFLE_SEED).permutation(len(self._words)).astype(np.int32)


def read_words(file: Path) -> list[str]:
    """Return the words of a list, one a line.

    Raises:
        Failure: the file is damaged, or a line holds something else than a word.
    """
    words = []
    for number, word in read_lines(file):
        if not word.isalpha():
            raise Unfetched(f"{file}: line {number} is not one word of letters: {word[:40]!r}", REMEDY)
        words.append(word)
    return words


def is_for_testing(word: str) -> bool:
    """Tell whether a word is kept from training; it never changes for a word."""
    return zlib.crc32(word.encode()) % TEST_SHARE == 0


def spell(word: str) -> str:
    """Return the letters of a word as `word:w,o,r,d`: a comma keeps two letters from becoming one token."""
    return f"{word}:{','.join(word)}"


def ask(rng: Random, word: str, letter: str) -> str:
    """Return a question as people type it: in some language, often without capitals, quotes or question mark."""
    question = rng.choice(QUESTIONS)
    if rng.random() < 0.3:
        question = question.lower()
    letter_quote, word_quote = rng.choice(QUOTES), rng.choice(QUOTES)
    question = question.format(
        letter=f"{letter_quote}{letter}{letter_quote}", word=f"{word_quote}{word}{word_quote}"
    )
    return question + "?" if rng.random() < 0.5 else question


def count_letter(word: str, letter: str) -> list[Part]:
    """Return the answer that counts by hand, lets Python count, and ends with `#### n`."""
    lines, count = [], 0
    for place, each in enumerate(word, start=1):
        count += each == letter
        lines.append(f"{place}:{each} hit! count={count}" if each == letter else f"{place}:{each}")
    by_hand = (
        f"I count the letter '{letter}' in '{word}' by hand and check the result with Python.\n\n"
        f"The word letter by letter:\n{spell(word)}\n\n"
        f"Now each letter that is '{letter}':\n"
        + "\n".join(lines)
        + f"\n\nBy hand I get {count}. Python says:\n\n"
    )
    return [
        {"type": "text", "text": by_hand},
        {"type": "python", "text": f"'{word}'.count('{letter}')"},
        {"type": "python_output", "text": str(count)},
        {"type": "text", "text": f"\n\nBoth agree.\n\n#### {count}"},
    ]
