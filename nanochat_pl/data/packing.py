"""Documents into rows: best fit from a buffer, so that every row begins with BOS and no place is wasted.

A row takes the longest buffered document that still fits, again and again; when none fits, the shortest is
cropped to fill what is left. Among equals the one that came first is taken. The tails of cropped documents are
lost (about 35 % of all tokens at 2,048 a row); in exchange no document is read without its beginning.

The buffer is kept sorted, so that finding a document is a bisection; `tests/reference/packing.py` searches it
from end to end and must agree.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np


class Document(NamedTuple):
    """A tokenized document.

    Attributes:
        number: its number in the endless sequence; later documents have larger ones.
        length: tokens it has.
        ids: its tokens, BOS first; those that no row can hold may be missing.
    """

    number: int
    length: int
    ids: np.ndarray


class BestFit:
    """Rows of equal length from a stream of documents.

    Args:
        documents: the stream, in ascending order of numbers.
        row_tokens: length of a row, one more than the model's context.
        buffer_docs: documents to choose from.
        buffered: documents that were in the buffer when a former run stopped.
    """

    def __init__(
        self,
        documents: Iterator[Document],
        *,
        row_tokens: int,
        buffer_docs: int,
        buffered: Iterable[Document] = (),
    ) -> None:
        self.row_tokens, self.buffer_docs = row_tokens, buffer_docs
        self.last_taken = -1
        self._documents = documents
        self._sorted: list[tuple[int, int]] = []  # (length, number)
        self._ids: dict[int, np.ndarray] = {}
        for document in buffered:
            self._add(document)

    def row(self) -> np.ndarray:
        """Return the next row, (row_tokens,) int64; shorter, or empty, once the stream has run dry."""
        row = np.empty(self.row_tokens, np.int64)
        filled = 0
        while filled < self.row_tokens and self._refill():
            piece = self._take(self.row_tokens - filled)
            row[filled : filled + len(piece)] = piece
            filled += len(piece)
        return row[:filled]

    @property
    def buffered(self) -> np.ndarray:
        """Numbers of the documents in the buffer, ascending, int64."""
        return np.array(sorted(self._ids), np.int64)

    def _refill(self) -> bool:
        """Fill the buffer as far as the stream goes; tell whether there is anything in it."""
        while len(self._sorted) < self.buffer_docs:
            document = next(self._documents, None)
            if document is None:
                break
            self._add(document)
        return bool(self._sorted)

    def _add(self, document: Document) -> None:
        insort(self._sorted, (document.length, document.number))
        self._ids[document.number] = document.ids
        self.last_taken = max(self.last_taken, document.number)

    def _take(self, room: int) -> np.ndarray:
        """Remove a document and return what of it goes into `room` tokens."""
        fitting = bisect_right(self._sorted, (room, np.inf))
        longest = self._sorted[fitting - 1][0] if fitting else 0
        place = bisect_left(self._sorted, (longest, -1))  # the first that came; 0 if none fits
        _, number = self._sorted.pop(place)
        return self._ids.pop(number)[:room]
