"""Rows of different lengths read as one: which go together, and how the shorter are filled up."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

PADDING = 0  # any id will do: nothing reads it


def alike(lengths: Sequence[int], most_positions: int | None = None) -> list[list[int]]:
    """Group the numbers of rows, the longest first, so that padding never makes one longer by more than a third.

    Args:
        lengths: ids of each row.
        most_positions: of a group, padding included, unless one row alone has more; None means no bound.
    """
    groups: list[list[int]] = []
    longest = 0
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        is_alike = 4 * lengths[number] >= 3 * longest
        if groups and is_alike and (not most_positions or longest * (len(groups[-1]) + 1) <= most_positions):
            groups[-1].append(number)
        else:
            groups.append([number])
            longest = lengths[number]
    return groups


def padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, list[int]]:
    """Return rows filled up at their end, (B, T) ids, and the length of each."""
    lengths = [len(row) for row in rows]
    width = max(lengths)
    filled = [[*row, *[PADDING] * (width - len(row))] for row in rows]
    return torch.tensor(filled, device=device), lengths
