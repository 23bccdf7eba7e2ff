"""Rows that are continued together, step by step, in the slots of one cache.

Rows occupy the first slots, so that no step copies keys: when one finishes, the last moves into its place. Each step
brings ids from the device to the host once, for the whole batch. A row whose last id is known is never read again.

Letters: B rows, T positions, C width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nanochat_pl.inference.kv_cache import KVCache
from nanochat_pl.inference.padding import alike, padded
from nanochat_pl.inference.row import Row
from nanochat_pl.inference.sampling import RowSettings, sample_rows
from nanochat_pl.model.gpt import GPT
from nanochat_pl.system.errors import Failure


class Batch:
    """The rows being continued; row i is in slot i of the cache.

    Args:
        gpt: the model in its compute dtype.
        cache: its memory.
        never_sampled: (V,) bool.
    """

    def __init__(self, gpt: GPT, cache: KVCache, never_sampled: Tensor) -> None:
        self.rows: list[Row] = []
        self._gpt, self._cache, self._never_sampled = gpt, cache, never_sampled
        self._settings: RowSettings | None = None  # of `rows`; None where they have changed

    @property
    def free(self) -> int:
        """Slots no row is in."""
        return len(self._cache.lengths) - len(self.rows)

    def step(self, admitted: list[Row], prefill_chunk: int | None) -> None:
        """Give every row its next id, new ones their first; let go of those that have their last."""
        with torch.autocast(
            self._never_sampled.device.type, enabled=False
        ):  # a caller's would change the dtype
            hidden = self._read(admitted, prefill_chunk)
            self._admit(admitted)
            drawn = self._sample(hidden)
        for row, sampled in zip(self.rows, drawn, strict=True):
            row.add(sampled)
        self._release()

    def _read(self, admitted: list[Row], prefill_chunk: int | None) -> Tensor:
        """Read the last id of every row and the prompts of new ones; return the last hidden states (B, C)."""
        hidden = []
        if self.rows:
            hidden.append(self._extend(0, [row.ids[-1:] for row in self.rows]))
        if admitted:
            hidden.append(self._prefill([row.prompt for row in admitted], prefill_chunk))
        return torch.cat(hidden)

    def _admit(self, rows: list[Row]) -> None:
        if rows:
            self.rows += rows
            self._settings = None

    def _sample(self, hidden: Tensor) -> list[int]:
        """Draw an id for each row from the last hidden states (B, C)."""
        if self._settings is None:
            self._settings = RowSettings([row.settings for row in self.rows], hidden.device)
        logits = self._gpt.logits(hidden).masked_fill_(self._never_sampled, -torch.inf)  # (B, V)
        uniforms = [row.uniform() for row in self.rows]
        sampled = sample_rows(logits, self._settings, uniforms).tolist()  # the step's one wait for the device
        if min(sampled) < 0:
            raise Failure("the model's logits are not numbers: its weights are damaged or training diverged")
        return sampled

    def _prefill(self, prompts: list[list[int]], chunk: int | None) -> Tensor:
        """Read prompts, the longest first, into the free slots; return the last hidden states (B, C).

        Equal prompts are read once.
        """
        first = len(self.rows)
        unique = list(dict.fromkeys(map(tuple, prompts)))
        last: list[Tensor] = []
        for group in alike([len(prompt) for prompt in unique]):
            last += self._prefill_group(first + len(last), [unique[number] for number in group], chunk)
        sources = [unique.index(tuple(prompt)) for prompt in prompts]
        for place in reversed(range(len(sources))):  # a source is never behind its copy
            self._cache.copy(first + sources[place], first + place)
        return torch.stack([last[source] for source in sources])

    def _prefill_group(self, first: int, prompts: list[tuple[int, ...]], chunk: int | None) -> list[Tensor]:
        """Read prompts, the longest first, together; return the last hidden state (C,) of each."""
        last: list[Tensor] = [torch.empty(0)] * len(prompts)
        longest = len(prompts[0])
        size = chunk or longest
        for begin in range(0, longest, size):
            parts = [prompt[begin : begin + size] for prompt in prompts if len(prompt) > begin]
            last[: len(parts)] = self._extend(first, parts)
        return last

    def _extend(self, first: int, parts: Sequence[Sequence[int]]) -> Tensor:
        """Continue slots `first` on by some ids each; return the hidden states of the last ones, (B, C)."""
        ids, counts = padded(parts, self._never_sampled.device)  # (B, T)
        hidden = self._gpt.hidden(ids, self._cache.extension(first, len(parts), ids.size(1)))  # (B, T, C)
        self._cache.advance(first, counts)
        return hidden[range(len(counts)), [count - 1 for count in counts]]

    def _release(self) -> None:
        """Free the slots of finished rows; the last row moves into the gap."""
        for slot in reversed(range(len(self.rows))):
            if self.rows[slot].is_finished:
                last = len(self.rows) - 1
                self._cache.copy(last, slot)
                self._cache.clear(last)
                self.rows[slot] = self.rows[last]
                self.rows.pop()
                self._settings = None
