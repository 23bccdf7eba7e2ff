"""One batch of a plan through the network; what rows begin with alike is read once.

    prefix  A B C D . .          read first, causally; its keys and values are kept
    rest    e f g h .            then all branches of a group side by side in one row:
            positions 4 4 5 4    each where it would stand after the prefix,
            sees ABCD + itself   seeing the prefix and what of its own branch came before

Dots are padding. The prefix's keys are not copied for every branch, as they would be were each a row.

Letters: G groups of a batch, P positions of the longest prefix, T of the longest rest, K key/value heads, D head
width, C width, N needed positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nanochat_pl.evaluation.row_plan import Group
from nanochat_pl.model.gpt import GPT

PADDING = 0  # any id will do: nothing that is needed sees it
NO_BRANCH = -1


def read_batch(gpt: GPT, batch: Sequence[Group]) -> Tensor:
    """Return the hidden states that are needed, branch after branch, (N, C).

    Args:
        gpt: the model.
        batch: groups of which all have a prefix, or none.
    """
    device = gpt.wte.weight.device
    packed = pack(batch)
    ids, rows, columns = (_on(device, part) for part in (packed.ids, packed.rows, packed.columns))
    past = _read_prefixes(gpt, batch, packed, device) if batch[0].prefix else None
    return gpt.hidden(ids, past)[rows, columns]


class Packed(NamedTuple):
    """The rests of groups, branches side by side.

    Attributes:
        ids: (G, T).
        positions: (G, T) places in the row each id comes from.
        branches: (G, T) number of the branch in its group, -1 for padding.
        rows: (N,) where the needed positions are.
        columns: (N,).
    """

    ids: np.ndarray
    positions: np.ndarray
    branches: np.ndarray
    rows: np.ndarray
    columns: np.ndarray


def pack(batch: Sequence[Group]) -> Packed:
    """Put the branches of each group side by side, without the prefix."""
    shape = len(batch), max(group.rest for group in batch)
    ids, positions = np.full(shape, PADDING), np.zeros(shape, np.int64)
    branches = np.full(shape, NO_BRANCH)
    rows, columns = [], []
    for row, (prefix, members) in enumerate(batch):
        begin = 0
        for number, branch in enumerate(members):
            end = begin + len(branch.inputs) - prefix
            ids[row, begin:end] = branch.inputs[prefix:]
            positions[row, begin:end] = np.arange(prefix, len(branch.inputs))
            branches[row, begin:end] = number
            rows.append(np.full(branch.needed, row))
            columns.append(np.arange(end - branch.needed, end))
            begin = end
    return Packed(ids, positions, branches, np.concatenate(rows), np.concatenate(columns))


def _read_prefixes(gpt: GPT, batch: Sequence[Group], packed: Packed, device: torch.device) -> _AfterPrefix:
    """Read the beginning of each group; return what its branches remember of it."""
    lengths = np.array([group.prefix for group in batch])
    ids = np.full((len(batch), lengths.max()), PADDING)
    for row, group in enumerate(batch):
        ids[row, : group.prefix] = group.branches[0].inputs[: group.prefix]
    prefix = _Prefix(ids.shape[1], device)
    gpt.hidden(_on(device, ids), prefix)
    return _AfterPrefix(
        prefix.memory, *(_on(device, part) for part in (lengths, packed.positions, packed.branches))
    )


class _Prefix:
    """Rows from their beginning, whose keys and values are kept; a `model.attention.Past`.

    Args:
        length: P.
        device: the model's.
    """

    visible = None

    def __init__(self, length: int, device: torch.device) -> None:
        self.positions = torch.arange(length, device=device)[None]  # (1, P)
        self.memory: list[tuple[Tensor, Tensor]] = []

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keep (G, P, K, D) keys and values of a layer."""
        self.memory.append((k, v))
        return k, v


class _AfterPrefix:
    """Branches side by side after their prefix; a `model.attention.Past`.

    Args:
        memory: keys and values (G, P, K, D) of the prefixes, by layer.
        lengths: (G,) of the prefixes.
        positions: (G, T).
        branches: (G, T).
    """

    def __init__(
        self, memory: list[tuple[Tensor, Tensor]], lengths: Tensor, positions: Tensor, branches: Tensor
    ) -> None:
        self.positions = positions
        self._memory = memory
        before = torch.arange(memory[0][0].size(1), device=lengths.device) < lengths[:, None]  # (G, P)
        together = (branches[:, :, None] == branches[:, None]).tril()  # (G, T, T)
        width = positions.size(1)
        self.visible = torch.cat((before[:, None].expand(-1, width, -1), together), dim=-1)  # (G, T, P + T)

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return the prefix's keys and values with those of the branches, (G, P + T, K, D)."""
        keys, values = self._memory[layer]
        return torch.cat((keys, k), dim=1), torch.cat((values, v), dim=1)


def _on(device: torch.device, array: np.ndarray) -> Tensor:
    return torch.from_numpy(array).to(device, non_blocking=True)
