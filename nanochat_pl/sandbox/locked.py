"""A locked process as its parent sees it: started, fed, read, and never left behind.

    parent ─ job ─► interpreter without site-packages, environment, files   (inside.py)
           ◄─ layers in force, then what the role reports; stdout, stderr

Everything is read and written as it comes, under one deadline, so that no process can make its parent wait. What the
interpreter does with its job stands in `inside.py`, what a caller wants from it in `process.py` and `judge.py`.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from nanochat_pl.sandbox.confine import Limits
from nanochat_pl.sandbox.literals import MAX_JOB_BYTES, PREFIX_BYTES, frame, unpack
from nanochat_pl.system.printable import printable

KEPT_OUTPUT_BYTES = 64 * 2**10  # of one stream

_PIPE_READ_BYTES = 2**16
_ROOT = str(Path(__file__).resolve().parents[2])
_BOOT = (
    "import sys; sys.path.append(sys.argv[1]); import nanochat_pl.sandbox.inside as inside; "
    "sys.path.pop(); inside.main()"
)


class Stream:
    """Bytes read from a descriptor: the first `kept` of them, and how many there were."""

    def __init__(self, descriptor: int, kept: int = KEPT_OUTPUT_BYTES) -> None:
        self.descriptor, self.kept = descriptor, kept
        self.content = bytearray()
        self.total = 0
        self.is_over = False

    def read(self) -> None:
        """Take what is there; the descriptor must be ready."""
        part = os.read(self.descriptor, _PIPE_READ_BYTES)
        self.is_over = not part
        self.total += len(part)
        self.content += part[: self.kept - len(self.content)]

    def text(self) -> str:
        """Return it fit for a terminal."""
        return printable(self.content.decode("utf-8", errors="replace"))

    def messages(self) -> list[Any]:
        """Return the values of the complete messages in it.

        Raises:
            ValueError: what was written is no message.
        """
        found, place = [], 0
        while (begin := place + PREFIX_BYTES) <= len(self.content):
            place = begin + int.from_bytes(self.content[place:begin], "big")
            if place > len(self.content):
                break
            found.append(unpack(bytes(self.content[begin:place])))
        return found


class LockedProcess:
    """An interpreter that locks itself before it does a job; killed at the latest when the `with` block ends.

    Args:
        role: `program`, `candidate` or `checker`.
        sources: programs it will run or read, whose imports are made before the lock.
        cpu_s: seconds of processor time.
        memory_bytes: address space.
        needs_lock: whether it must end instead of running anything where seccomp is refused.
        inherits: descriptors of the parent it may use.
        is_heard: whether what it prints is read here; else it goes nowhere.
        stdin: what it finds on its standard input after the job.
        details: further items of the job.
    """

    def __init__(
        self,
        role: str,
        sources: Sequence[str],
        *,
        cpu_s: int,
        memory_bytes: int,
        needs_lock: bool,
        inherits: Sequence[int] = (),
        is_heard: bool = False,
        stdin: bytes = b"",
        **details: Any,
    ) -> None:
        self._read_report, write_report = os.pipe()
        job = {
            "role": role,
            "sources": list(sources),
            "parent": os.getpid(),
            "limits": list(Limits(cpu_s, memory_bytes)),
            "needs_lock": needs_lock,
            "report": write_report,
            **details,
        }
        self._unsent = memoryview(frame(job, MAX_JOB_BYTES) + stdin)
        output = subprocess.PIPE if is_heard else subprocess.DEVNULL
        try:
            self._popen = subprocess.Popen(
                [sys.executable, "-I", "-S", "-X", "utf8", "-c", _BOOT, _ROOT],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                pass_fds=(write_report, *inherits),
                env={},
                cwd="/",
                start_new_session=True,
                bufsize=0,
            )
        except BaseException:
            os.close(self._read_report)
            raise
        finally:
            os.close(write_report)
        self.report = Stream(self._read_report)
        self.outputs = [Stream(pipe.fileno()) for pipe in (self._popen.stdout, self._popen.stderr) if pipe]
        os.set_blocking(self._stdin, False)

    def __enter__(self) -> LockedProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave no process and no descriptor behind."""
        self.kill()
        for pipe in (self._popen.stdout, self._popen.stderr):
            if pipe:
                pipe.close()
        self._close_stdin()
        os.close(self._read_report)

    @property
    def _stdin(self) -> int:
        return self._popen.stdin.fileno()  # type: ignore[union-attr]

    @property
    def streams(self) -> list[Stream]:
        """What can still be read from it."""
        return [stream for stream in (self.report, *self.outputs) if not stream.is_over]

    @property
    def layers(self) -> list[str] | None:
        """Layers it reported to be locked by; None before it did."""
        return next(iter(self.report.messages()), None)

    def kill(self) -> None:
        """End it and what it started in its session; a locked one can have started nothing."""
        if self._popen.poll() is None or "seccomp" not in (self.layers or ()):
            with suppress(ProcessLookupError):
                os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()

    def wait(self, deadline: float) -> int | None:
        """Return its exit status once it ends, None if it does not in time."""
        try:
            return self._popen.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return None

    def feed(self) -> None:
        """Write more of the job, as far as there is room, and close its input after the last byte."""
        try:
            self._unsent = self._unsent[os.write(self._stdin, self._unsent) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._unsent = memoryview(b"")
        if not self._unsent:
            self._close_stdin()

    @property
    def feeds(self) -> list[int]:
        """Its standard input while something is to be written to it."""
        return [self._stdin] if self._unsent else []

    def _close_stdin(self) -> None:
        if self._popen.stdin and not self._popen.stdin.closed:
            self._popen.stdin.close()


def attend(processes: Sequence[LockedProcess], deadline: float, is_done: Callable[[], bool]) -> None:
    """Feed and read processes until something is done, all of them have fallen silent, or the time is up.

    Args:
        processes: any number.
        deadline: by `time.monotonic()`.
        is_done: asked after every event.
    """
    while not is_done() and (left := deadline - time.monotonic()) > 0:
        with selectors.DefaultSelector() as selector:
            for process in processes:
                for descriptor in process.feeds:
                    selector.register(descriptor, selectors.EVENT_WRITE, process.feed)
                for stream in process.streams:
                    selector.register(stream.descriptor, selectors.EVENT_READ, stream.read)
            if not selector.get_map():
                return
            for key, _ in selector.select(left):
                key.data()
