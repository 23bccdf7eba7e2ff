"""Signals that ask a run to stop are noted, not obeyed at once.

A handler runs between any two instructions: inside the optimizer, inside a save, before torch is even imported. So it
only notes the number, and the training loop looks at the next step boundary, where everything is consistent. The
second Ctrl-C is obeyed at once, except while a checkpoint is written. `listen` is called in the first lines of the
program. A time limit is an alarm, and a file that asks for a stop is noted as if it were a signal: one road for all.
A terminal that closes asks for a stop too, unless `nohup` has told the program not to mind.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED, PREEMPTED = 130, 75
STOP_FILE = 100  # no signal has this number; larger than all, so that a person's wish wins
STOP_SIGNALS = tuple(
    number
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGALRM", "SIGHUP")
    if (number := getattr(signal, name, None)) is not None  # Windows lacks the last three
)
_HANG_UP = getattr(signal, "SIGHUP", None)

_received: list[int] = []
_held: list[bool] = []


def listen() -> None:
    """Note stop signals from now on instead of dying of them."""
    for number in _minded():
        signal.signal(number, _note)


def ends_with_connection() -> bool:
    """Tell whether the drop of an SSH connection would stop this process, which nothing keeps from it."""
    is_kept = _HANG_UP not in _minded() or not {"TMUX", "STY"}.isdisjoint(os.environ)
    return "SSH_CONNECTION" in os.environ and (os.isatty(0) or os.isatty(2)) and not is_kept


def _minded() -> list[int]:
    """Return the stop signals that mean something to this process: `nohup` has one ignored before it starts."""
    return [n for n in STOP_SIGNALS if n != _HANG_UP or signal.getsignal(n) is not signal.SIG_IGN]


def listen_until(seconds: float) -> None:
    """Note a stop by the time limit when so many seconds have passed, at once if none is left."""
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))


def note(number: int) -> None:
    """Note a wish to stop that came in another way than as a signal."""
    _received.append(number)


def _note(number: int, frame: FrameType | None) -> None:
    if number == signal.SIGINT and signal.SIGINT in _received and not _held:
        raise KeyboardInterrupt
    _received.append(number)


@contextmanager
def held() -> Iterator[None]:
    """Only note the second Ctrl-C too, for as long as something is written that must be finished."""
    _held.append(True)
    try:
        yield
    finally:
        _held.pop()


def leave_at_once() -> None:
    """End the process at a scheduler's signal, as preempted: for verbs that keep what is done as they go."""
    for number in _minded():
        if number != signal.SIGINT:
            signal.signal(number, lambda number, frame: os._exit(PREEMPTED))


def ignore_stop_signals() -> None:
    """Ignore stop signals for good: a helper process ends when its parent does, not when the job is told to stop."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def first_received() -> int:
    """Return the number of the first stop signal noted, 0 if there was none."""
    return _received[0] if _received else 0


def forget() -> None:
    """Forget what was noted and give the signals their usual effect again."""
    _received.clear()
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 0)
    for number in STOP_SIGNALS:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def is_asked_by_a_person(number: int) -> bool:
    """Tell whether somebody wants the run to end, rather than a scheduler or a clock to make room."""
    return number in (signal.SIGINT, STOP_FILE)


def exit_code(number: int) -> int:
    """Return the exit code that tells the caller why a run stopped: interrupted by a person, or preempted."""
    return INTERRUPTED if is_asked_by_a_person(number) else PREEMPTED


def name_of(number: int) -> str:
    """Return what a person calls the reason of a stop."""
    if number == STOP_FILE:
        return "the file STOP"
    if number == _HANG_UP:
        return "the end of its terminal (SIGHUP)"
    name = signal.Signals(number).name
    return "the time limit" if name == "SIGALRM" else name
