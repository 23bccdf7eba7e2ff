"""What a program says must not end what it does.

The terminal closes, the `tee` behind the pipe is killed, the disk that holds the log is full: each would turn the next
`print` into an exception, in the middle of a month's training. With `outlast_reader` such words are lost, no more.
Only results, on stdout, that a full disk does not take are an error: somebody will read them.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Literal, TextIO

GONE = (errno.EIO, errno.EPIPE)  # a terminal or a reader that will not come back


class _Lasting(io.FileIO):
    """A file that loses what it cannot take; of results, what nobody is there to take."""

    def __init__(self, number: int, are_results: bool) -> None:
        super().__init__(number, "wb", closefd=False)
        self._are_results = are_results

    def write(self, data: bytes) -> int | None:  # type: ignore[override]
        try:
            return super().write(data)
        except OSError as error:
            is_gone = error.errno in GONE
            if is_gone or self._are_results:
                self._go_on_into_nothing()
            if self._are_results and not is_gone:
                raise
            return len(data)

    def _go_on_into_nothing(self) -> None:
        """Let this process and those it starts write on without asking again."""
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, self.fileno())
        os.close(nothing)


def outlast_reader(name: Literal["stdout", "stderr"]) -> None:
    """Let a stream lose what nobody can read any more, or never could; one that was replaced stays as it is."""
    stream = getattr(sys, name)
    if stream is None:  # closed before the program began
        setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    elif stream is getattr(sys, f"__{name}__"):
        setattr(sys, name, _lasting(stream, are_results=name == "stdout"))


def _lasting(stream: TextIO, are_results: bool) -> TextIO:
    stream.flush()
    raw = _Lasting(stream.fileno(), are_results)
    return io.TextIOWrapper(
        raw
        if isinstance(stream.buffer, io.RawIOBase)
        else io.BufferedWriter(raw),  # the former with `python -u`
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=getattr(stream, "write_through", False),
    )
