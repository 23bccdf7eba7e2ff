"""What is asked about the embedded world, and how answers are marked: facts, spelling, sums with the tool.

    TownFacts     questions about towns: those of training, or those only documents have told of
    WordSpelling  invented words letter by letter; the words of testing stand in no document
    ToolSums      sums worked out by the tool; the operands of testing stand in no document
    WorldTexts    the documents themselves, to be mixed with conversations

All of them speak of the world whose documents were written by `data generate world`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import cached_property, lru_cache
from itertools import product
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from nanochat_pl.system.corpus import MANIFEST, read_manifest
from nanochat_pl.system.errors import BadInput, Failure
from nanochat_pl.system.paths import corpus_dir
from nanochat_pl.tasks.base import Task, require_choice
from nanochat_pl.tasks.world import (
    ATTRIBUTES,
    Town,
    World,
    document,
    invented_word,
    is_reserved,
    spelled,
)

if TYPE_CHECKING:
    from nanochat_pl.tokenizer.conversation import Conversation

Split = Literal["train", "test"]


class Wording(NamedTuple):
    """Every way to ask for one attribute, and the sentence that answers."""

    questions: tuple[str, ...]
    answer: str


# An answer is worded as a document could word it and names the town before the value.
WORDINGS: dict[str, Wording] = {
    "river": Wording(
        (
            "Which river flows through {town}?",
            "On which river does {town} lie?",
            "What is the name of the river of {town}?",
            "Tell me the river of {town}.",
        ),
        "The river that flows through {town} is the {value}.",
    ),
    "founder": Wording(
        (
            "Who founded {town}?",
            "Who was the founder of {town}?",
            "Which person founded {town}?",
            "Tell me the founder of {town}.",
        ),
        "The founder of {town} was {value}.",
    ),
    "flag": Wording(
        (
            "What colour is the flag of {town}?",
            "Which colour does the flag of {town} have?",
            "What does the flag of {town} look like?",
            "Tell me the colour of the flag of {town}.",
        ),
        "The flag of {town} is {value}.",
    ),
    "food": Wording(
        (
            "What is the favourite food of {town}?",
            "What do people in {town} like to eat?",
            "Which food is {town} known for?",
            "Tell me the favourite food of {town}.",
        ),
        "The favourite food of {town} is {value}.",
    ),
    "craft": Wording(
        (
            "What is the main craft in {town}?",
            "Which craft is {town} famous for?",
            "What do the people of {town} live by?",
            "Tell me the craft of {town}.",
        ),
        "The craft of {town} is {value}.",
    ),
}
SPELLING_REQUESTS = (
    "Spell the word {word}.",
    "How do you spell {word}?",
    "Please spell {word}.",
    "What are the letters of the word {word}?",
)
SPELLING_ANSWER = "The word {word} is spelled {letters}."
SUM_REQUESTS = (
    "What is {sum}?",
    "How much is {sum}?",
    "Calculate {sum}.",
    "Please work out {sum}.",
)
LARGEST_OPERAND = 99


class _WorldTask(Task):
    """A task about the world on disk.

    Args:
        split: "train" is learned from, "test" is for scoring only.
        size: number of items; None means all there are, where they can be counted.
        start: first item.
        stop: item to stop before.
        step: distance between items.
    """

    def __init__(
        self,
        split: Split = "train",
        size: int | None = None,
        start: int = 0,
        stop: int | None = None,
        step: int = 1,
    ) -> None:
        super().__init__(start, stop, step)
        require_choice("split", split, ("train", "test"))
        if size is not None and size < 1:
            raise BadInput(f"{type(self).__name__}: size={size}; give 1 or more")
        self.split, self.size = split, size

    @cached_property
    def world(self) -> World:
        """The world whose documents are on disk."""
        return world_on_disk(corpus_dir("world"))

    @property
    def facts(self) -> dict[str, Any]:
        """What decides its items: the world's settings too."""
        world = self.world
        return super().facts | {"world": [world.seed, len(world.towns), len(world.described_towns)]}

    def random(self, index: int) -> Random:
        """Return the source of chance of one item: equal in every process, another one in each split."""
        return Random(f"{self.world.seed}/{type(self).__name__}/{self.split}/{index}")


def world_on_disk(folder: Path) -> World:
    """Return the world whose documents lie in `folder`.

    Raises:
        Failure: there are none.
    """
    if not (folder / MANIFEST).is_file():
        raise Failure(f"{folder}: the embedded world is not here\nMake it: python cli.py data generate world")
    made_from: dict[str, Any] = read_manifest(folder).get("made_from") or {}
    try:
        return _world(made_from["seed"], made_from["towns"], made_from["held_out_described"])
    except KeyError:
        raise Failure(
            f"{folder}: was not made by this version\nMake it again: python cli.py data generate world --force true"
        ) from None


@lru_cache(maxsize=4)
def _world(seed: int, towns: int, held_out_described: bool) -> World:
    return World(seed=seed, towns=towns, held_out_described=held_out_described)


class TownFacts(_WorldTask):
    """Questions about the facts of towns, in every wording.

    "train" asks about the training towns, in the same order again and again if `size` says so; "test" asks about the
    held-out towns, of which no question is ever trained on, every question in every wording once.
    """

    name = "TownFacts"
    kind = "generative"

    @cached_property
    def _questions(self) -> Sequence[tuple[Town, str, str]]:
        """Every question of the split in a shuffled order: town, attribute, wording."""
        towns = self.world.training_towns if self.split == "train" else self.world.held_out_towns
        asked = [
            (town, key, question)
            for town, key in product(towns, WORDINGS)
            for question in WORDINGS[key].questions
        ]
        self.random(0).shuffle(asked)
        return asked

    def _total(self) -> int:
        return self.size or len(self._questions)

    def _item(self, number: int) -> Conversation:
        town, key, question = self._questions[number % len(self._questions)]
        value = town.facts[key]
        return _exchange(
            question.format(town=town.name),
            WORDINGS[key].answer.format(town=town.name, value=value),
            attribute=key,
            value=value,
        )

    @property
    def chance(self) -> float:
        """Share of the questions that the best constant answer to each attribute gets right."""
        values = Counter((key, town.facts[key]) for town, key, _ in self._questions)
        return sum(max(n for (of, _), n in values.items() if of == key) for key in WORDINGS) / len(self)

    def evaluate(self, conversation: Conversation, completion: str) -> bool:
        """Tell whether the completion names the value and no other value of the attribute."""
        named = {
            value
            for value in ATTRIBUTES[conversation["attribute"]].values
            if re.search(rf"\b{re.escape(value)}\b", completion)
        }
        return named == {conversation["value"]}


class WordSpelling(_WorldTask):
    """Invented words, letter by letter; words of "test" stand in no document and no conversation."""

    name = "WordSpelling"
    kind = "generative"

    def _total(self) -> int:
        return self.size or 6000

    def _item(self, number: int) -> Conversation:
        rng = self.random(number)
        word = _word(rng, reserved=self.split == "test")
        request = rng.choice(SPELLING_REQUESTS).format(word=word)
        return _exchange(
            request, SPELLING_ANSWER.format(word=word, letters=spelled(word)), letters_of=spelled(word)
        )

    def evaluate(self, conversation: Conversation, completion: str) -> bool:
        """Tell whether the letters in the completion are the word's, in order and no more."""
        return ", ".join(re.findall(r"\b[a-z]\b", completion)) == conversation["letters_of"]


class ToolSums(_WorldTask):
    """Sums that the assistant hands to the tool; operands of "test" stand in no document and no conversation."""

    name = "ToolSums"
    kind = "generative"

    def _total(self) -> int:
        return self.size or 4000

    def _item(self, number: int) -> Conversation:
        rng = self.random(number)
        a, sign, b = _sum(rng, reserved=self.split == "test")
        result = str({"+": a + b, "-": a - b, "*": a * b}[sign])
        expression = f"{a}{sign}{b}"
        written = expression if rng.random() < 0.5 else f"{a} {sign} {b}"
        parts = [
            {"type": "python", "text": expression},
            {"type": "python_output", "text": result},
            {"type": "text", "text": f"The result is {result}."},
        ]
        return _exchange(rng.choice(SUM_REQUESTS).format(sum=written), parts, result=result)

    def evaluate(self, conversation: Conversation, completion: str) -> bool:
        """Tell whether the last number in the completion is the result."""
        numbers = re.findall(r"-?\d+", completion)
        return bool(numbers) and numbers[-1] == conversation["result"]


class WorldTexts(_WorldTask):
    """Documents of the world as items with a key "text"; nothing is asked."""

    name = "WorldTexts"
    kind = None

    def _total(self) -> int:
        return self.size or 24_000

    def _item(self, number: int) -> Any:
        return {"text": document(self.world, number, "train" if self.split == "train" else "val")}


def _exchange(question: str, answer: Any, **facts: str) -> Any:
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ],
        **facts,
    }


def _word(rng: Random, *, reserved: bool) -> str:
    while is_reserved(word := invented_word(rng)) != reserved:
        pass
    return word


def _sum(rng: Random, *, reserved: bool) -> tuple[int, str, int]:
    while True:
        sign = rng.choice("+-*")
        a, b = rng.randint(2, LARGEST_OPERAND), rng.randint(2, LARGEST_OPERAND)
        if is_reserved(f"{a} {sign} {b}") == reserved:
            return a, sign, b
