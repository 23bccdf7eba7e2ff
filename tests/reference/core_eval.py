"""Slow twin of CORE: one item at a time, every row alone and whole, plain lists.

It knows the model only as logits of one row, and the tokenizer only as ids of one text.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

Ids = list[int]
Encode = Callable[[str], Ids]  # without BOS
Logits = Callable[[Ids], Sequence[Sequence[float]]]  # T rows of V


class Answer(NamedTuple):
    """What became of an item: option and mean losses, or whether the text was continued rightly."""

    is_right: bool
    option: int | None
    means: list[float]


def answer(
    number: int,
    items: Sequence[dict[str, Any]],
    pool: int,
    *,
    kind: str,
    shots: int,
    delimiter: str,
    bos: int,
    encode: Encode,
    logits: Logits,
    context: int,
) -> Answer:
    """Ask item `number` of a file, counted in the order of asking.

    Args:
        number: of the item.
        items: the file, in its own order.
        pool: shots are drawn from the first so many.
        kind: of the task.
        shots: shown before.
        delimiter: of the task.
        bos: the id that begins a row.
        encode: the tokenizer.
        logits: the model.
        context: ids a row may have.
    """
    asked = list(items)
    random.Random(1337).shuffle(asked)
    item = asked[number]
    others = [place for place in range(pool) if place != number]
    drawn = random.Random(1234 + number).sample(others, shots)
    shown = "".join(solved(kind, asked[place], delimiter) + "\n\n" for place in drawn)
    if kind == "language_modeling":
        opening = shown + item["context"].strip() + delimiter
        ids = [bos, *encode(opening + item["continuation"])]
        start = in_common([bos, *encode(opening.strip())], ids)
        ids, start = last(ids, start, context)
        said = [max(range(len(row)), key=row.__getitem__) for row in logits(ids)]
        return Answer(said[start - 1 : -1] == ids[start:], None, [])
    if kind == "schema":
        texts = [shown + option + delimiter + item["continuation"] for option in item["context_options"]]
    else:
        texts = [shown + item["query"] + delimiter + choice for choice in item["choices"]]
    rows = [[bos, *encode(text)] for text in texts]
    means = []
    for row in rows:
        if kind == "schema":
            start = len(row) - min(in_common(row[::-1], other[::-1]) for other in rows)
        else:
            start = min(in_common(row, other) for other in rows)
        ids, start = last(row, start, context)
        means.append(mean_loss(ids, start, logits(ids)))
    best = 0
    for option, mean in enumerate(means):
        if mean < means[best]:
            best = option
    return Answer(best == item["gold"], best, means)


def solved(kind: str, item: dict[str, Any], delimiter: str) -> str:
    """Return an item with its right answer."""
    if kind == "multiple_choice":
        return item["query"] + delimiter + item["choices"][item["gold"]]
    if kind == "schema":
        return item["context_options"][item["gold"]] + delimiter + item["continuation"]
    return item["context"].strip() + delimiter + item["continuation"]


def in_common(a: Ids, b: Ids) -> int:
    """Return how many ids two rows begin with alike."""
    count = 0
    while count < min(len(a), len(b)) and a[count] == b[count]:
        count += 1
    return count


def last(ids: Ids, start: int, context: int) -> tuple[Ids, int]:
    """Return the last ids that fit, and where scoring begins in them."""
    while len(ids) > context:
        ids, start = ids[1:], start - 1
    return ids, max(1, start)


def mean_loss(ids: Ids, start: int, logits: Sequence[Sequence[float]]) -> float:
    """Return nats per id from `start` on; not a number where there is no id."""
    losses = []
    for place in range(start, len(ids)):
        row = logits[place - 1]
        highest = max(row)
        losses.append(highest + math.log(sum(math.exp(value - highest) for value in row)) - row[ids[place]])
    return sum(losses) / len(losses) if losses else math.nan
