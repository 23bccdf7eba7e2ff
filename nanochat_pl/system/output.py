"""What a program says must not end what it does.

The terminal closes, the `tee` behind the pipe is killed, the disk that holds the log is full, a stream was closed
before the start: each would turn the next `print` into an exception, in the middle of a month's training. What is said
on stderr is lost then, no more. So is what is said on stdout, where nobody is there to read it; results that a full
disk does not take are an error, for somebody will read them.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import TextIO

from nanochat_pl.system.errors import Failure

GONE = (errno.EIO, errno.EPIPE, errno.ECONNRESET)  # a terminal or a reader that will not come back


class _Log(io.FileIO):
    """A file that loses what it cannot take."""

    def write(self, data: bytes) -> int | None:  # type: ignore[override]
        try:
            return super().write(data)
        except OSError as error:
            if error.errno in GONE:
                _go_on_into_nothing(self.fileno())
            return len(data)


class _Results(io.FileIO):
    """A file that loses what nobody is there to take.

    Args:
        number: its descriptor.
        ends_with_reader: raise `BrokenPipeError` instead of losing anything.
    """

    def __init__(self, number: int, ends_with_reader: bool) -> None:
        super().__init__(number, "wb", closefd=False)
        self._ends_with_reader = ends_with_reader

    def write(self, data: bytes) -> int | None:  # type: ignore[override]
        try:
            return super().write(data)
        except OSError as error:
            _go_on_into_nothing(self.fileno())  # so that this is said once, and not again at the exit
            if error.errno not in GONE:
                raise Failure(
                    f"the results could not be written: {error.strerror}\n"
                    "Make room where stdout goes (df -h; quota -s), or send it elsewhere."
                ) from error
            if self._ends_with_reader:
                raise BrokenPipeError from error
            return len(data)


def open_streams() -> None:
    """Give this process the streams that were closed before it began.

    Otherwise the next file that is opened takes the number of one, and what torch has to say is written into it.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:  # the lowest that is free
        os.set_inheritable(number, True)
    os.close(number)
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115


def outlast_log() -> None:
    """Let stderr lose what cannot be written; if somebody replaced it, it stays as it is."""
    if sys.stderr is sys.__stderr__:
        sys.stderr = _like(sys.stderr, _Log(sys.stderr.fileno(), "wb", closefd=False))


def outlast_reader(*, ends_with_reader: bool = False) -> None:
    """Let stdout lose what nobody reads any more; if somebody replaced it, it stays as it is.

    Args:
        ends_with_reader: raise `BrokenPipeError` instead, for what is done for a reader only.
    """
    if sys.stdout is sys.__stdout__:
        sys.stdout = _like(sys.stdout, _Results(sys.stdout.fileno(), ends_with_reader))


def _like(stream: TextIO, raw: io.FileIO) -> TextIO:
    """Return a stream that writes to `raw` as another did to its own."""
    stream.flush()
    is_unbuffered = isinstance(stream.buffer, io.RawIOBase)  # as with `python -u`
    return io.TextIOWrapper(
        raw if is_unbuffered else io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _go_on_into_nothing(number: int) -> None:
    """Let this process and those it starts write on without asking again."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, number)
    os.close(nothing)
