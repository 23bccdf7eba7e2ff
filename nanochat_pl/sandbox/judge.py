"""Judge untrusted Python: the solution in one locked process, the test in another, only literals between them.

    parent ─ solution ─► candidate ◄── calls, answers ──► checker ◄─ test ─ parent
                                                             └─ verdict ──► parent

Nothing a solution does to its own interpreter (ending it, patching it, tracing it, printing that it passed,
returning objects equal to everything) reaches the place where the verdict is made, nor the pipe it leaves by.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from nanochat_pl.sandbox.locked import LockedProcess, attend
from nanochat_pl.sandbox.process import MEMORY_BYTES, cpu_limit, refusal, require_sandbox, start
from nanochat_pl.system.printable import printable


class Verdict(NamedTuple):
    """What came of a test.

    Attributes:
        passed: the test ran to its end and found nothing wrong.
        reason: why not, one line; empty if it passed.
    """

    passed: bool
    reason: str


class Ends(NamedTuple):
    """The descriptors of two pipes between a checker and a process that answers it."""

    requests: int
    answers: int


def judge(
    solution: str,
    test: str,
    entry_point: str,
    *,
    timeout_s: float = 5.0,
    memory_bytes: int = MEMORY_BYTES,
    unsafe_code: bool = False,
) -> Verdict:
    """Tell whether a solution passes a test. Safe from any thread, whatever the solution does.

    Args:
        solution: a whole program that defines `entry_point`, such as a prompt and its completion. Functions the test
            borrows from it must stand before `entry_point`; a completion cannot change those.
        test: a program that defines `check(candidate)`, as in HumanEval, and raises where the candidate is wrong.
        entry_point: name of the function to judge.
        timeout_s: wall clock for solution and test together, from the moment both are locked.
        memory_bytes: address space of each process, the interpreter's 30 MB included.
        unsafe_code: judge also where processes cannot be locked.

    Raises:
        Failure: this machine cannot lock processes; see `process.start`.
    """
    if reason := refusal(solution) or refusal(test):
        return Verdict(False, reason)
    require_sandbox(unsafe_code)
    limits = {"cpu_s": cpu_limit(timeout_s), "memory_bytes": memory_bytes, "needs_lock": not unsafe_code}
    with _court(solution, test, entry_point, limits) as processes:
        start(processes, unsafe_code=unsafe_code)
        return _verdict(processes, timeout_s)


@contextmanager
def _court(
    solution: str, test: str, entry_point: str, limits: dict[str, Any]
) -> Iterator[list[LockedProcess]]:
    """Start the checker and those that answer it; yield it first, them after it."""
    answering: list[LockedProcess] = []
    with ExitStack() as running, ExitStack() as pipes:
        links = []
        for stop_before in ["", entry_point] if borrows(solution, test, entry_point) else [""]:
            theirs, checkers = _linked(pipes)
            details = {**theirs._asdict(), "stop_before": stop_before}
            candidate = LockedProcess("candidate", [solution], inherits=theirs, **limits, **details)
            answering.append(running.enter_context(candidate))
            links.append(checkers)
        inherits = [descriptor for link in links for descriptor in link]
        checker = LockedProcess(
            "checker", [test], inherits=inherits, links=links, entry_point=entry_point, **limits
        )
        running.enter_context(checker)
        pipes.close()  # each end is now where it belongs, so that the end of a process is seen by the other
        yield [checker, *answering]


def _linked(pipes: ExitStack) -> tuple[Ends, Ends]:
    """Open two pipes; return the ends of who answers and of who asks, ours until `pipes` closes."""
    asked, asks = os.pipe()
    hears, answers = os.pipe()
    for descriptor in (asked, asks, hears, answers):
        pipes.callback(os.close, descriptor)
    return Ends(asked, answers), Ends(asks, hears)


def borrows(solution: str, test: str, entry_point: str) -> bool:
    """Tell whether a test mentions what a solution defines before its entry point."""
    before = re.split(rf"^def {re.escape(entry_point)}\b", solution, maxsplit=1, flags=re.MULTILINE)[0]
    defined = set(re.findall(r"^(?:async def|def|class) +(\w+)", before, re.MULTILINE))
    return bool(defined & set(re.findall(r"\w+", test)))


def _verdict(processes: list[LockedProcess], timeout_s: float) -> Verdict:
    """Wait for what the checker says, and for nothing else."""
    report = processes[0].report
    deadline = time.monotonic() + timeout_s

    def is_decided() -> bool:
        return report.is_over or len(report.messages()) > 1

    attend(processes, deadline, is_decided)
    if not is_decided():
        return Verdict(False, f"no verdict after {timeout_s:g} s")
    _, *said = report.messages()
    if not said:
        return Verdict(False, "the checker ended without a verdict")
    passed, reason = said[0]
    return Verdict(passed, printable(reason))
