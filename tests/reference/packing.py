"""Best-fit packing by looking at every document in the buffer, as the reference system does it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


def pack(documents: Iterable[list[int]], row_tokens: int, buffer_docs: int) -> Iterator[list[int]]:
    """Yield rows: the longest document that fits, the earliest of equals; else the head of the shortest."""
    stream = iter(documents)
    buffer: list[list[int]] = []
    row: list[int] = []
    while True:
        while len(buffer) < buffer_docs and (document := next(stream, None)) is not None:
            buffer.append(document)
        if not buffer:
            break
        room = row_tokens - len(row)
        best = None
        for place, document in enumerate(buffer):
            if len(document) <= room and (best is None or len(document) > len(buffer[best])):
                best = place
        if best is None:
            best = min(range(len(buffer)), key=lambda place: len(buffer[place]))
        row += buffer.pop(best)[:room]
        if len(row) == row_tokens:
            yield row
            row = []
    if row:
        yield row
