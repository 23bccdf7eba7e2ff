"""The training documents of a corpus as one endless numbered sequence, and the part of it that a rank reads.

    epoch 0                       epoch 1
    0 1 2 3 … N-1                 N N+1 … 2N-1          document numbers
    └ block 0 ┘└ block 1 ┘└ …                           block b belongs to rank b % world size

A number says everything: epoch, shard and row follow from it, so a position in the data is a few integers, and any
document can be read again. Blocks of neighbours keep a rank from decoding what others read. Which files there are
is `system/corpus.py`'s business, how documents become rows is `packing.py`'s.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate, count
from typing import NamedTuple

import pyarrow as pa

from nanochat_pl.system.corpus import BadShardPolicy, Shard, as_texts, open_shard, require_text
from nanochat_pl.system.errors import Failure

BLOCK_DOCS = 1024
OPEN_FILES, DECODED_GROUPS = 8, 2


class NumberedText(NamedTuple):
    """A document and its number in the endless sequence."""

    number: int
    text: str


class Skipped(NamedTuple):
    """A shard that is left out from document number `first` on, whoever reads it and when, and the reason."""

    first: int
    reason: str


class Documents:
    """The endless sequence of training documents, and which of them this rank reads.

    Args:
        shards: the shards of the training split.
        rank: this rank.
        world_size: number of ranks; together they read every document once per epoch.
        shuffle_seed: seed of a new order of shards in every epoch; None keeps the order of their names.
        on_bad_shard: "error" ends the run at a damaged shard; "skip" leaves its documents out.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        *,
        rank: int = 0,
        world_size: int = 1,
        shuffle_seed: int | None = None,
        on_bad_shard: BadShardPolicy = "error",
    ) -> None:
        self.shards = tuple(shards)
        self.rank, self.world_size = rank, world_size
        self.shuffle_seed, self.on_bad_shard = shuffle_seed, on_bad_shard
        self.per_epoch = sum(shard.rows for shard in shards)
        self.block_docs = max(1, min(BLOCK_DOCS, self.per_epoch // world_size))
        self.skipped: dict[str, Skipped] = {}  # by file name
        self._order = lru_cache(maxsize=2)(self._order_of_epoch)
        self._file = lru_cache(maxsize=OPEN_FILES)(open_shard)
        self._group = lru_cache(maxsize=DECODED_GROUPS)(self._read_group)

    def numbers_from(self, number: int) -> Iterator[int]:
        """Yield this rank's document numbers from `number` on, without end."""
        for block in count(number // self.block_docs):
            if block % self.world_size == self.rank:
                yield from range(max(number, block * self.block_docs), (block + 1) * self.block_docs)

    def read(self, numbers: Iterable[int]) -> Iterator[NumberedText]:
        """Yield the documents of these numbers; those of skipped shards are left out.

        Raises:
            Failure: a shard is damaged and may not be skipped, or a whole epoch had nothing readable.
        """
        unreadable = 0
        for number in numbers:
            text = self._text(number)
            if text is not None:
                unreadable = 0
                yield NumberedText(number, text)
                continue
            unreadable += 1
            if unreadable > self.per_epoch:
                raise Failure(f"{self.shards[0].path.parent}: no shard could be read; all were skipped")

    def _text(self, number: int) -> str | None:
        """Return one document, None if its shard is skipped."""
        epoch, index = divmod(number, self.per_epoch)
        shards, ends = self._order(epoch)
        place = bisect_right(ends, index)
        shard = shards[place]
        if shard.path.name in self.skipped and number >= self.skipped[shard.path.name].first:
            return None
        try:
            return self._text_of_row(shard, shard.first_row + shard.rows - (ends[place] - index))
        except Failure as failure:
            if self.on_bad_shard == "error":
                raise
            self.skipped[shard.path.name] = Skipped(number, str(failure).splitlines()[0])
            return None

    def _text_of_row(self, shard: Shard, row: int) -> str:
        file = self._file(shard)
        if row >= file.rows:
            raise Failure(f"{shard.path}: row {row} is gone, there are {file.rows}; the file was changed")
        group = bisect_right(file.starts, row) - 1
        (text,) = as_texts(shard.path, self._group(shard, group).slice(row - file.starts[group], 1))
        return require_text(text, shard.path, row)

    def _read_group(self, shard: Shard, group: int) -> pa.Array | pa.ChunkedArray:
        return self._file(shard).group(group)

    def _order_of_epoch(self, epoch: int) -> tuple[list[Shard], list[int]]:
        """Return the shards in the order of an epoch, and where in it each one's documents end."""
        order = list(self.shards)
        if self.shuffle_seed is not None:
            random.Random(f"{self.shuffle_seed}/{epoch}").shuffle(order)
        return order, list(accumulate(shard.rows for shard in order))
