"""What a training step receives.

Letters: B rows, T positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypedDict

from torch import Tensor


class Redealt(TypedDict):
    """What a rank reads before the regular turns begin, after a run has changed its number of ranks; see `redeal.py`.

    Keys:
        backlog: numbers given to this rank one by one, ascending; all below `turns_from`.
        turns_from: number from which on every rank reads what falls to it by turns.
    """

    backlog: Sequence[int] | Tensor
    turns_from: int


class Position(TypedDict):
    """Where in the endless sequence of documents a rank stands after a batch; see `shards.py` for the numbers.

    Keys:
        next: number of the first document not yet taken into the buffer.
        buffered: (n,) int64 numbers of the documents in the buffer, ascending.
        skipped: by file name, from which document number on a shard is left out, and why.
        redealt: what comes before the regular turns, if anything is left of it.
    """

    next: int
    buffered: Tensor
    skipped: dict[str, tuple[int, str]]
    redealt: Redealt | None


class ChatPosition(TypedDict):
    """Where in the endless sequence of conversations a rank stands after a step; see `chat.py` for the numbers.

    Keys:
        next: number from which on conversations have not been looked at.
        buffered: numbers of the conversations in the buffer, ascending.
        truncated: conversations so far whose end was cut off.
        unanswered: conversations so far passed over because nothing in them was left to learn.
        redealt: what comes before the regular turns, if anything is left of it.
    """

    next: int
    buffered: list[int]
    truncated: int
    unanswered: int
    redealt: Redealt | None


class Batch(NamedTuple):
    """One micro-batch of one rank.

    Attributes:
        inputs: (B, T) int64 ids.
        targets: (B, T) int64 ids that follow the inputs, -1 where not scored.
        position: where the data stands once this batch has been trained on; None where nothing resumes.
        step_targets: scored targets of all batches of this rank's optimizer step, this one's included; None
            where every batch has equally many.
    """

    inputs: Tensor
    targets: Tensor
    position: Position | ChatPosition | None = None
    step_targets: int | None = None
