"""How to read many rows with as few positions as possible; numbers only, no model.

    rows ── equal inputs once ──► branches ── a beginning in common once ──► groups ── alike in length ──► batches

        A B C D e          a group of three branches: A B C D is read once, then `e`, `f g` and `h` after it
        A B C D f g
        A B C D h

The last id of a row is only predicted, so it is no input: choices of one letter are one row. The plan depends on the
rows alone, and not on their order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

WORTHWHILE_TOKENS = 16  # saved by sharing, or it is not worth a second call of the network
ALIKE = 0.75  # the shortest of a batch is at least so much of the longest


class Continuation(NamedTuple):
    """Ids, the last of which are to be scored.

    Attributes:
        ids: (n,) the whole row.
        start: the first that is scored, 1 to n; n scores nothing.
    """

    ids: np.ndarray
    start: int


def count_in_common(rows: Sequence[np.ndarray]) -> int:
    """Return how many ids all rows begin with."""
    length = min(map(len, rows))
    differs = np.zeros(length, bool)
    for row in rows[1:]:
        differs |= rows[0][:length] != row[:length]
    return int(differs.argmax()) if differs.any() else length


class Branch(NamedTuple):
    """Inputs that are read once, whatever is scored of them.

    Attributes:
        inputs: (n,) ids.
        first: the first position that is needed; all later ones are too.
        rows: numbers of the rows that have these inputs.
    """

    inputs: np.ndarray
    first: int
    rows: list[int]

    @property
    def needed(self) -> int:
        """Positions whose prediction is needed."""
        return len(self.inputs) - self.first


class Group(NamedTuple):
    """Branches that begin alike.

    Attributes:
        prefix: how many ids they share, none of them needed; 0 where a branch is alone.
        branches: one or more.
    """

    prefix: int
    branches: list[Branch]

    @property
    def rest(self) -> int:
        """Positions after the prefix, of all branches together."""
        return sum(len(branch.inputs) - self.prefix for branch in self.branches)

    @property
    def tokens(self) -> int:
        """Positions read."""
        return self.prefix + self.rest


def plan_batches(rows: Sequence[Continuation], context: int, batch_tokens: int) -> list[list[Group]]:
    """Return batches in which every row that has something to score is read.

    Args:
        rows: what is to be scored.
        context: positions the network reads at once; a group's branches together have no more after its prefix.
            0 shares nothing.
        batch_tokens: positions of a batch, padding included; a group that has more alone is a batch by itself.

    Returns:
        Batches of groups that all have a prefix, or of groups of one branch.
    """
    groups = _groups(_branches(rows), context)
    alone = [group for group in groups if not group.prefix]
    sharing = [group for group in groups if group.prefix]
    return [*_batches(alone, batch_tokens), *_batches(sharing, batch_tokens)]


def _branches(rows: Sequence[Continuation]) -> list[Branch]:
    """Return the different inputs in the order of their ids."""
    found: dict[bytes, Branch] = {}
    for number, (ids, start) in enumerate(rows):
        if start == len(ids):
            continue
        key = ids[:-1].astype(">u4").tobytes()  # in this form bytes are ordered as ids are
        branch = found.get(key, Branch(ids[:-1], start - 1, []))
        found[key] = branch._replace(first=min(branch.first, start - 1), rows=[*branch.rows, number])
    return [found[key] for key in sorted(found)]


def _groups(branches: Iterable[Branch], context: int) -> list[Group]:
    """Join neighbours wherever that saves positions; those that begin alike are neighbours."""
    groups: list[Group] = []
    for branch in branches:
        if groups and (joined := _join(groups[-1], branch, context)):
            groups[-1] = joined
        else:
            groups.append(Group(0, [branch]))
    return groups


def _join(group: Group, branch: Branch, context: int) -> Group | None:
    """Return the group with one branch more, or None where that saves too little or grows too long."""
    other = group.branches[0]
    limit = group.prefix or min(len(other.inputs), other.first)
    prefix = min(count_in_common([other.inputs[:limit], branch.inputs]), branch.first)
    saved = len(group.branches) * prefix - (len(group.branches) - 1) * group.prefix
    joined = Group(prefix, [*group.branches, branch])
    return joined if saved >= WORTHWHILE_TOKENS and joined.rest <= context else None


def _batches(groups: Sequence[Group], batch_tokens: int) -> list[list[Group]]:
    """Put groups alike in length together."""
    batches: list[list[Group]] = []
    for group in sorted(groups, key=lambda group: group.tokens, reverse=True):
        if batches and _fits(batches[-1], group, batch_tokens):
            batches[-1].append(group)
        else:
            batches.append([group])
    return batches


def _fits(batch: Sequence[Group], group: Group, batch_tokens: int) -> bool:
    """Tell whether a group may join a batch of longer ones."""
    padded = max(one.prefix for one in (*batch, group)) + max(one.rest for one in (*batch, group))
    return group.tokens >= ALIKE * padded and (len(batch) + 1) * padded <= batch_tokens
