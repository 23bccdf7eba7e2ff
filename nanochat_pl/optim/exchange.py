"""Bringing matrices together: every rank sends its parts of K matrices to their owners and gets the results back.

    parts ─► outbox ═► inbox ─► whole matrices ─► … ─► whole matrices ─► inbox ═► outbox ─► parts

The outbox lies in the order of owners, the inbox in that of senders, so both are sent as they are. Where every matrix
lies with its owner already, as on one rank, nothing is sent and the outbox *is* the stack of matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nanochat_pl.optim.collectives import send_to_each
from nanochat_pl.optim.ownership import Part

PartOf = Callable[[int, int], Part]  # matrix, rank -> what the rank holds of it


class Routes(NamedTuple):
    """What one rank sends and receives for K matrices of one size: numbers only.

    Attributes:
        leaving: matrices in the order of the outbox.
        out_sizes: elements for each rank.
        arriving: sender and matrix of each piece of the inbox, in its order.
        in_sizes: elements from each rank.
        owned: matrices this rank owns.
        is_still: whether nothing has to travel between any ranks.
    """

    leaving: tuple[int, ...]
    out_sizes: tuple[int, ...]
    arriving: tuple[tuple[int, int], ...]
    in_sizes: tuple[int, ...]
    owned: tuple[int, ...]
    is_still: bool


def plan_routes(part_of: PartOf, owners: Sequence[int], size: int, rank: int, ranks: int) -> Routes:
    """Return the routes of `rank` for matrices of `size` elements, matrix k being owned by `owners[k]`."""
    matrices = range(len(owners))
    leaving = sorted(matrices, key=lambda k: owners[k])  # stable: equal owners by number
    owned = tuple(k for k in matrices if owners[k] == rank)
    arriving = tuple((sender, k) for sender in range(ranks) for k in owned if part_of(k, sender).size)
    out_sizes, in_sizes = [0] * ranks, [0] * ranks
    for k in matrices:
        out_sizes[owners[k]] += part_of(k, rank).size
    for sender, k in arriving:
        in_sizes[sender] += part_of(k, sender).size
    is_still = all(part_of(k, owners[k]).size == size for k in matrices)
    return Routes(tuple(leaving), tuple(out_sizes), arriving, tuple(in_sizes), owned, is_still)


class Exchange:
    """The way of K matrices of one shape to their owners and back.

    Args:
        shape: (m, n) of every matrix.
        part_of: what a rank holds of matrix k.
        owners: rank that gets matrix k.
        rank: this one.
        ranks: how many there are.
    """

    def __init__(
        self, shape: tuple[int, int], part_of: PartOf, owners: Sequence[int], rank: int, ranks: int
    ) -> None:
        self.shape, self.part_of, self.rank = shape, part_of, rank
        self.size = shape[0] * shape[1]
        self.routes = plan_routes(part_of, owners, self.size, rank, ranks)

    def packed(self, parts: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Copy this rank's part of each matrix into a new outbox.

        Returns:
            The outbox, and views into it, in the order and shapes of `parts`.
        """
        outbox = torch.cat([parts[k].reshape(-1) for k in self.routes.leaving])
        return outbox, self._views(outbox, parts)

    def to_owners(self, outbox: Tensor) -> Tensor:
        """Return the matrices this rank owns, (k, m, n)."""
        if self.routes.is_still:
            return outbox.view(-1, *self.shape)
        inbox = send_to_each(outbox, self.routes.out_sizes, self.routes.in_sizes)
        matrices = outbox.new_empty(len(self.routes.owned), self.size)
        for row, start, end, piece in self._pieces(inbox):
            matrices[row, start:end] = piece
        return matrices.view(-1, *self.shape)

    def from_owners(self, matrices: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
        """Return this rank's part of each matrix, given those it owns; shapes are those of `like`."""
        matrices = matrices.reshape(-1, self.size)
        if self.routes.is_still:
            return self._views(matrices.view(-1), like)
        inbox = matrices.new_empty(sum(self.routes.in_sizes))
        for row, start, end, piece in self._pieces(inbox):
            piece.copy_(matrices[row, start:end])
        return self._views(send_to_each(inbox, self.routes.in_sizes, self.routes.out_sizes), like)

    def _views(self, outbox: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
        """Return the pieces of an outbox by matrix."""
        pieces = outbox.split([like[k].numel() for k in self.routes.leaving])
        found = dict(zip(self.routes.leaving, pieces, strict=True))
        return [found[k].view_as(part) for k, part in enumerate(like)]

    def _pieces(self, inbox: Tensor) -> list[tuple[int, int, int, Tensor]]:
        """Return for every piece of the inbox its row among the owned matrices, start, end, and itself."""
        rows = {k: row for row, k in enumerate(self.routes.owned)}
        parts = [(rows[k], self.part_of(k, sender)) for sender, k in self.routes.arriving]
        pieces = inbox.split([part.size for _, part in parts])
        return [(row, *part, piece) for (row, part), piece in zip(parts, pieces, strict=True)]
