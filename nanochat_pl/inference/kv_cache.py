"""Keys and values of rows that are being continued, allocated once.

    rows x capacity places per layer; row r fills its first lengths[r]:

        row 0   k k k k k k . . . .      lengths[0] = 6
        row 1   k k k x x . . . . .      lengths[1] = 3; x is padding of a ragged prefill
        row 2   k k k k . . . . . .

What lies beyond a row's length is never read: a new position is written before it is attended to, and reads only
up to itself. It is finite all the same, for 0 times NaN would be NaN. Nothing grows; which row is whose, and when
it is free, is `engine.py`'s concern.

Letters: L layers, R rows, S places, B rows of a call, T new positions, K key/value heads, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nanochat_pl.model.config import GPTConfig


class KVCache:
    """The memory of a batch.

    Args:
        config: shape of the model.
        rows: rows that can be continued at once.
        capacity: positions of a row, at most the model's `sequence_len`.
        dtype: the model's compute dtype.
        device: the model's device.

    Attributes:
        lengths: positions filled, per row.
    """

    def __init__(
        self,
        config: GPTConfig,
        rows: int,
        capacity: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ) -> None:
        assert 0 < capacity <= config.sequence_len, "no model has positions beyond its context"
        shape = (config.n_layer, rows, capacity, config.n_kv_head, config.head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)  # (L, R, S, K, D)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.lengths = [0] * rows

    @property
    def capacity(self) -> int:
        """Positions a row can have."""
        return self.keys.size(2)

    def extension(self, first: int, rows: int, new: int) -> Extension:
        """Return what `GPT.hidden` needs to continue some neighbouring rows by as many positions each.

        Args:
            first: the first of the rows.
            rows: how many.
            new: positions to add to each; fewer may be kept, see `advance`.
        """
        return Extension(self, first, self.lengths[first : first + rows], new)

    def advance(self, first: int, counts: Sequence[int]) -> None:
        """Keep the first `counts[i]` of the positions last added to row `first + i`; the others were padding."""
        for row, count in enumerate(counts, first):
            self.lengths[row] += count

    def copy(self, source: int, target: int) -> None:
        """Make row `target` remember what row `source` does."""
        length = self.lengths[target] = self.lengths[source]
        if source != target:
            for memory in (self.keys, self.values):
                memory[:, target, :length] = memory[:, source, :length]

    def clear(self, row: int) -> None:
        """Let a row begin anew."""
        self.lengths[row] = 0


class Extension:
    """Rows of a cache during one call of the network; a `model.attention.Past`.

    Args:
        cache: where keys and values go.
        first: the first of the rows.
        starts: positions each row has already, (B,).
        new: T, positions each row gets.
    """

    def __init__(self, cache: KVCache, first: int, starts: Sequence[int], new: int) -> None:
        self.width = max(starts) + new
        assert self.width <= cache.capacity, f"{self.width} positions in a cache of {cache.capacity}"
        device = cache.keys.device
        self._rows = slice(first, first + len(starts))
        self._memory = cache.keys[:, self._rows], cache.values[:, self._rows]  # (L, B, S, K, D)
        self._places = torch.arange(len(starts), device=device)[:, None]  # (B, 1)
        begins = torch.tensor(starts, device=device)[:, None]  # (B, 1)
        self.positions = begins + torch.arange(new, device=device)  # (B, T)
        self.visible = None if _is_plain(starts, new) else self._visible()

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write (B, T, K, D) keys and values at `positions`; return all up to the longest row's end."""
        for memory, new in zip(self._memory, (k, v), strict=True):
            memory[layer][self._places, self.positions] = new
        return self._memory[0][layer, :, : self.width], self._memory[1][layer, :, : self.width]

    def _visible(self) -> Tensor:
        """Return (B, T, width) bool: a position reads those up to itself."""
        return torch.arange(self.width, device=self.positions.device) <= self.positions[..., None]


def _is_plain(starts: Sequence[int], new: int) -> bool:
    """Tell whether attention needs no mask: equal rows, from their beginning or by one position."""
    return len(set(starts)) == 1 and (new == 1 or starts[0] == 0)
