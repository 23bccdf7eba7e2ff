"""Signals that ask a run to stop are noted, not obeyed at once.

A handler runs between any two instructions: inside the optimizer, inside a save, before torch is even imported. So it
only notes the number, and the training loop looks at the next step boundary, where everything is consistent. The
second Ctrl-C is obeyed at once. `listen` is called in the first lines of the program and again by the training loop,
because Lightning puts its own handlers in place when it starts.
"""

from __future__ import annotations

import signal
from types import FrameType

INTERRUPTED, PREEMPTED = 130, 75
STOP_SIGNALS = tuple(
    number
    for name in ("SIGINT", "SIGTERM", "SIGUSR1")
    if (number := getattr(signal, name, None)) is not None  # SIGUSR1 does not exist on Windows
)

_received: list[int] = []


def listen() -> None:
    """Note stop signals from now on instead of dying of them."""
    for number in STOP_SIGNALS:
        signal.signal(number, _note)


def _note(number: int, frame: FrameType | None) -> None:
    if number == signal.SIGINT and signal.SIGINT in _received:
        raise KeyboardInterrupt
    _received.append(number)


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
    for number in STOP_SIGNALS:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def exit_code(number: int) -> int:
    """Return the exit code that tells the caller why a run stopped: interrupted by a person, or preempted."""
    return INTERRUPTED if number == signal.SIGINT else PREEMPTED
