"""What is left to read, dealt anew when a run goes on with another number of ranks.

    old ranks   read ▓, waiting in a buffer o, to come ·

    rank 0   ▓▓▓▓▓▓o▓▓▓▓▓▓▓····│···
    rank 1   ▓▓▓o▓▓▓▓▓▓▓▓▓▓▓▓▓▓│···     backlog: every o, and every · to the left of the line, one by one in turns
    rank 2   ▓▓▓▓▓▓▓▓▓▓▓▓······│···     right of it: the regular turns of the new number of ranks
                               └ turns_from: the first number that no rank has come to

Nothing is read twice, and nothing is left out. How numbers fall to ranks by turns is known to whoever asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, takewhile
from typing import Any

from nanochat_pl.data.batch import Redealt

Turns = Callable[
    [int, int], Iterator[int]
]  # rank, number -> that rank's numbers from there on, ascending, endless


def numbers_of(redealt: Redealt | None, number: int, turns: Callable[[int], Iterator[int]]) -> Iterator[int]:
    """Yield the numbers of one rank from `number` on: its backlog, then its turns."""
    if redealt is None:
        return turns(number)
    backlog = (one for one in map(int, redealt["backlog"]) if one >= number)
    return chain(backlog, turns(max(number, redealt["turns_from"])))


def unread(redealt: Redealt | None, number: int) -> Redealt | None:
    """Return what is left of a backlog for a rank that has come to `number`; None if that is nothing."""
    if redealt is None or number >= redealt["turns_from"]:
        return None
    return redealt


def dealt_anew(positions: Iterable[dict[str, Any]], ranks: int, turns: Turns) -> list[Redealt]:
    """Return what each of `ranks` new ranks reads.

    Args:
        positions: of the old ranks, in their order.
        ranks: how many there are from now on.
        turns: by which the old ranks read.
    """
    positions = list(positions)
    starts = [max(old["next"], (old.get("redealt") or {"turns_from": 0})["turns_from"]) for old in positions]
    turns_from = max(starts)
    left: list[int] = []
    for rank, old in enumerate(positions):
        left += map(int, old["buffered"])
        coming = numbers_of(old.get("redealt"), old["next"], lambda number, rank=rank: turns(rank, number))
        left += takewhile(lambda number: number < turns_from, coming)
    left.sort()
    return [Redealt(backlog=left[rank::ranks], turns_from=turns_from) for rank in range(ranks)]
