"""Who holds what: which elements of a parameter lie on which rank, and who orthogonalizes which matrix.

Pure arithmetic, the same on every rank, so that nobody has to ask. Two things are dealt apart from each other:

- *Elements*: weights, gradients and moments of a rank are a contiguous part of each flattened parameter, perhaps an
  empty one. `EqualRanges` cuts one long vector of all parameters, so no shape has to divide; `row_part` is how FSDP2
  cuts a single parameter.
- *Matrices*: `balanced_owners` gives every matrix to one rank, by cost.

Where a matrix's elements lie with its owner nothing travels; `exchange.py` moves the others.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

# In elements. A vectorized loop treats the remainder at the end of its range by other instructions; with every part
# beginning and ending at a multiple of this, that happens where it happens on one rank, and results are bit-equal.
ALIGNMENT = 64


class Part(NamedTuple):
    """Elements `start` to `end` of a flattened parameter."""

    start: int
    end: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.end - self.start


class EqualRanges:
    """One vector of all parameters behind each other, cut into as many equal ranges as there are ranks.

    Args:
        sizes: elements of each parameter.
        ranks: number of ranks.

    Attributes:
        offsets: where in the vector each parameter begins.
        share: elements of one rank's range.
    """

    def __init__(self, sizes: Sequence[int], ranks: int) -> None:
        ends = list(accumulate(map(_aligned, sizes), initial=0))
        self.sizes, self.offsets = tuple(sizes), ends[:-1]
        self.share = _aligned(-(-ends[-1] // ranks))

    def part(self, number: int, rank: int) -> Part:
        """Return what `rank` holds of a parameter."""
        begin = rank * self.share - self.offsets[number]
        return _clipped(begin, begin + self.share, self.sizes[number])


def row_part(rows: int, columns: int, rank: int, ranks: int) -> Part:
    """Return what `rank` holds of a (rows, columns) parameter cut along its rows, as `torch.chunk` does."""
    rows_each = -(-rows // ranks)
    return _clipped(rank * rows_each * columns, (rank + 1) * rows_each * columns, rows * columns)


def orthogonalization_cost(m: int, n: int) -> int:
    """Return what one polar iteration of an (m, n) matrix costs, in multiplications."""
    small, large = min(m, n), max(m, n)
    return small * small * (2 * large + small)


def balanced_owners(costs: Sequence[int], ranks: int) -> list[int]:
    """Give every item to the rank with the least cost so far, dear items first; equal inputs give equal owners."""
    loads = [(0, rank) for rank in range(ranks)]
    owners = [0] * len(costs)
    for number in sorted(range(len(costs)), key=lambda number: (-costs[number], number)):
        load, rank = heapq.heappop(loads)
        owners[number] = rank
        heapq.heappush(loads, (load + costs[number], rank))
    return owners


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _clipped(start: int, end: int, size: int) -> Part:
    start = min(max(start, 0), size)
    return Part(start, min(max(end, start), size))
