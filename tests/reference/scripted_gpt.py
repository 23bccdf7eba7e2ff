"""A stand-in for the GPT that says what a script says, and keeps count of what it was asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace

import torch
from torch import Tensor

from nanochat_pl.model.attention import Past
from nanochat_pl.model.config import GPTConfig

Wish = int | tuple[int, ...]


class ScriptedGPT:
    """Rows are told apart by their first id, which it reads from the cache; so a mixed-up cache shows.

    Args:
        scripts: for each first id of a prompt, what to say at every place of the row: after its first id, after its
            second, and so on. An entry is an id, or ids in order of preference.
        sequence_len: the context.
        vocab_size: number of ids.

    Attributes:
        read: every id it was given, by first id of the row, in order of position; padding too.
        calls: number of forward passes.
    """

    def __init__(
        self, scripts: Mapping[int, Sequence[Wish]], *, sequence_len: int = 64, vocab_size: int = 265
    ) -> None:
        self.config = GPTConfig(
            sequence_len=sequence_len, vocab_size=vocab_size, n_layer=1, n_head=1, n_kv_head=1, n_embd=2
        )
        self.wte = SimpleNamespace(weight=torch.zeros(1))
        self.scripts, self.calls = scripts, 0
        self.read: dict[int, list[int]] = {first: [] for first in scripts}

    def hidden(self, ids: Tensor, past: Past) -> Tensor:
        """Return (B, T, 2): first id of the row and position, for ids (B, T)."""
        self.calls += 1
        memory = torch.stack((ids, past.positions), -1)[:, :, None].float()  # (B, T, 1, 2)
        keys, _ = past.update(0, memory, memory)
        firsts = keys[:, 0, 0, 0]  # (B,)
        for first, row in zip(firsts.tolist(), ids.tolist(), strict=True):
            self.read[int(first)] += row
        return torch.stack((firsts[:, None].expand(ids.shape), past.positions), -1)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return (B, V) logits: 9 for what is wished most, 8 for what next; 0 for all that is not."""
        logits = torch.zeros(len(hidden), self.config.vocab_size)
        for row, (first, position) in zip(logits, hidden.int().tolist(), strict=True):
            wish = self.scripts[first][position]
            for place, token in enumerate(wish if isinstance(wish, tuple) else (wish,)):
                row[token] = 9 - place
        return logits
