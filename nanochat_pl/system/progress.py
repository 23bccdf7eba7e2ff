"""How far a long piece of work with files is: a bar on a terminal, else plain lines, at most one every ten seconds."""

from __future__ import annotations

import sys
import time
from threading import Lock
from typing import TextIO

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10.0


class FileProgress:
    """Files and bytes done of a known total; threads may report at the same time.

    Args:
        what: the work, in a word.
        files: how many there are.
        total_bytes: of all of them.
        done_bytes: of them that were done before.
        stream: where to write; stderr if None.
    """

    def __init__(
        self, what: str, files: int, total_bytes: int, *, done_bytes: int = 0, stream: TextIO | None = None
    ) -> None:
        self.what, self.files, self.total_bytes = what, files, total_bytes
        self.stream = stream or sys.stderr
        self._done_files, self._done_bytes, self._initial_bytes = 0, done_bytes, done_bytes
        self._lock = Lock()
        self._started = self._last_line = time.monotonic()
        self._bar = self._new_bar() if self.stream.isatty() else None

    def add_bytes(self, count: int) -> None:
        """Say that so many bytes more are done; fewer if negative."""
        with self._lock:
            self._done_bytes += count
            self._show(count)

    def add_file(self) -> None:
        """Say that one file more is done."""
        with self._lock:
            self._done_files += 1
            self._show(0)

    def say(self, line: str) -> None:
        """Write a line of its own."""
        with self._lock:
            if self._bar is not None:
                self._bar.write(line, file=self.stream)
            else:
                print(line, file=self.stream, flush=True)

    def close(self) -> None:
        """Leave the terminal with the cursor on a new line."""
        if self._bar is not None:
            self._bar.close()

    def _new_bar(self) -> tqdm:
        return tqdm(
            total=self.total_bytes,
            initial=self._initial_bytes,
            desc=self.what,
            file=self.stream,
            unit="B",
            unit_scale=True,
            leave=False,
        )

    def _show(self, count: int) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(f"{self._done_files}/{self.files} files", refresh=False)
            self._bar.update(count)
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            print(self._line(), file=self.stream, flush=True)

    def _line(self) -> str:
        seconds = time.monotonic() - self._started
        rate = max(0, self._done_bytes - self._initial_bytes) / seconds
        left = (self.total_bytes - self._done_bytes) / rate if rate else float("inf")
        to_go = f", {left / 60:,.1f} min to go" if left < float("inf") else ""
        return (
            f"{self.what}: {self._done_files} of {self.files} files, {self._done_bytes / 1e9:,.2f} of "
            f"{self.total_bytes / 1e9:,.2f} GB, {rate / 1e6:,.1f} MB/s{to_go}"
        )
