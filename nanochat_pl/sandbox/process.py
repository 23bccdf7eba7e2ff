"""Run untrusted Python in a locked process: what the parent does.

    run_python ─ job ─► interpreter without site-packages, environment, files   (inside.py)
               ◄─ layers in force, stdout, stderr, exit code

The process may compute and print. It may open no file, start no process, reach no network, signal nobody
(`seccomp.py`, `confine.py` say how), and it does not outlive the call. It is no substitute for a virtual machine:
a bug of the kernel in one of the calls that are left, or what can be learned from timing, is not contained.
"""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from nanochat_pl.sandbox.confine import Limits
from nanochat_pl.sandbox.literals import MAX_JOB_BYTES, PREFIX_BYTES, frame, unpack
from nanochat_pl.sandbox.seccomp import this_machine
from nanochat_pl.system.errors import Failure

START_TIMEOUT_S = 30.0  # for a machine under load; a start takes about 0.04 s
MAX_SOURCE_BYTES = 2**20
MAX_OUTPUT_BYTES = 2**20  # of one stream; whoever prints more is killed
KEPT_OUTPUT_BYTES = 64 * 2**10
MEMORY_BYTES = 256 * 2**20
_PIPE_READ_BYTES = 2**16

_ROOT = str(Path(__file__).resolve().parents[2])
_BOOT = (
    "import sys; sys.path.append(sys.argv[1]); import nanochat_pl.sandbox.inside as inside; "
    "sys.path.pop(); inside.main()"
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # C0 but tab and newline, DEL, C1


class Completed(NamedTuple):
    """How a program ended.

    Attributes:
        stdout: the first 64 KiB, control characters removed, what is not UTF-8 replaced.
        stderr: likewise.
        exit_code: 0 for success, negative for the signal that ended it, None if it was killed here or refused.
        timed_out: it was killed because its time was up.
        output_exceeded: it was killed because it printed more than 1 MiB.
    """

    stdout: str
    stderr: str
    exit_code: int | None
    timed_out: bool = False
    output_exceeded: bool = False


class Tier(NamedTuple):
    """What protects this machine from the programs it runs.

    Attributes:
        layers: those in force, of `seccomp` and `landlock`; only the first is needed.
        reason: one sentence for a person.
    """

    layers: tuple[str, ...]
    reason: str

    @property
    def is_safe(self) -> bool:
        """Whether untrusted programs may run here."""
        return "seccomp" in self.layers


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


def printable(text: str) -> str:
    """Return text without the characters that command a terminal."""
    return _CONTROL.sub("", text)


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


def start(processes: Sequence[LockedProcess], *, unsafe_code: bool) -> None:
    """Return once all processes are locked and about to do their jobs.

    Raises:
        Failure: this machine cannot lock them and `unsafe_code` does not say to go on; or they do not start.
    """
    deadline = time.monotonic() + START_TIMEOUT_S
    attend(
        processes, deadline, lambda: all(one.layers is not None or one.report.is_over for one in processes)
    )
    for process in processes:
        if process.layers is None:
            raise Failure(
                f"a locked Python did not start: {sys.executable}\n"
                f"Look at the memory it may use, and that it starts within {START_TIMEOUT_S:.0f} s"
            )
        if "seccomp" not in process.layers:
            require_sandbox(unsafe_code, has_seccomp=False)


def require_sandbox(unsafe_code: bool, *, has_seccomp: bool | None = None) -> None:
    """Refuse to run programs where nothing holds them back.

    Args:
        unsafe_code: go on nevertheless.
        has_seccomp: what is known of this machine; None looks at its kind only.

    Raises:
        Failure: with the option that says to go on.
    """
    if has_seccomp is None:
        has_seccomp = this_machine() is not None
    if not has_seccomp and not unsafe_code:
        raise Failure(
            f"programs of a model cannot be locked in on this machine ({sys.platform}: no seccomp filter)\n"
            "Run on Linux, x86_64 or aarch64, or give --unsafe_code to run them with all your rights"
        )


def refusal(source: str) -> str | None:
    """Return why a program is not even given to a process, None if it is."""
    if "\0" in source:
        return "the program contains a NUL character"
    size = len(source.encode("utf-8", errors="surrogatepass"))
    if size > MAX_SOURCE_BYTES:
        return f"the program has {size} bytes; at most {MAX_SOURCE_BYTES} are run"
    return None


def cpu_limit(timeout_s: float) -> int:
    """Return the processor seconds to allow beside a wall clock, start and lock included."""
    return int(timeout_s) + 3


def run_python(
    code: str,
    *,
    stdin: str = "",
    timeout_s: float = 5.0,
    memory_bytes: int = MEMORY_BYTES,
    unsafe_code: bool = False,
) -> Completed:
    """Run a program in a locked process. Safe from any thread.

    Args:
        code: a whole program; modules of the standard library it names can be imported, no others.
        stdin: what it reads from standard input.
        timeout_s: wall clock from the moment it is locked.
        memory_bytes: address space of its process, the interpreter's 30 MB included.
        unsafe_code: run it also where the process cannot be locked.

    Returns:
        How it ended, whatever it did. A program with a NUL or beyond 1 MiB is refused in `stderr`.

    Raises:
        Failure: see `start`.
    """
    if reason := refusal(code) or refusal(stdin):
        return Completed("", reason, None)
    require_sandbox(unsafe_code)
    with LockedProcess(
        "program",
        [code],
        cpu_s=cpu_limit(timeout_s),
        memory_bytes=memory_bytes,
        needs_lock=not unsafe_code,
        is_heard=True,
        stdin=stdin.encode("utf-8", errors="replace"),
    ) as process:
        start([process], unsafe_code=unsafe_code)
        return _outcome(process, time.monotonic() + timeout_s)


def _outcome(process: LockedProcess, deadline: float) -> Completed:
    stdout, stderr = process.outputs

    def has_exceeded() -> bool:
        return max(stdout.total, stderr.total) > MAX_OUTPUT_BYTES

    attend([process], deadline, has_exceeded)
    exceeded = has_exceeded()
    status = None if exceeded else process.wait(deadline)
    return Completed(stdout.text(), stderr.text(), status, status is None and not exceeded, exceeded)


def tier() -> Tier:
    """Find out, by locking an empty program, which protections this machine offers."""
    if this_machine() is None:
        return Tier(
            (),
            f"no filter of system calls for {sys.platform}; programs of a model run only with --unsafe_code",
        )
    with LockedProcess(
        "program", [""], cpu_s=5, memory_bytes=MEMORY_BYTES, needs_lock=False, is_heard=True
    ) as process:
        start([process], unsafe_code=True)
        layers = tuple(sorted(process.layers or (), reverse=True))
    if "seccomp" not in layers:
        return Tier(layers, "the kernel refuses seccomp; programs of a model run only with --unsafe_code")
    return Tier(layers, f"programs of a model run locked by {' and '.join(layers)}")
