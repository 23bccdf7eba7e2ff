"""Run an untrusted Python program by itself, and say what protects the machine it runs on.

The program may compute and print. It may open no file, start no process, reach no network, signal nobody
(`seccomp.py` and `confine.py` say how), and it does not outlive the call. It is no substitute for a virtual machine:
a bug of the kernel in one of the calls that are left, or what can be learned from timing, is not contained.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from nanochat_pl.sandbox.locked import LockedProcess, attend
from nanochat_pl.sandbox.seccomp import this_machine
from nanochat_pl.system.errors import Failure

START_TIMEOUT_S = 30.0  # for a machine under load; a start takes about 0.04 s
MAX_SOURCE_BYTES = 2**20
MAX_OUTPUT_BYTES = 2**20  # of one stream; whoever prints more is killed
MEMORY_BYTES = 256 * 2**20


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
