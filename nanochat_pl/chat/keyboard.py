"""The person's side of a terminal: messages with a history, and keys pressed while the model speaks.

While it speaks nothing that is typed is shown, or it would stand in the middle of an answer; it waits for the next
prompt. Ctrl-C is a signal then, and stops the answer. At the prompt it is a key like others, and a signal sent from
elsewhere is ignored: raised in the middle of the prompt's own work it would break that.
"""

from __future__ import annotations

import signal
import sys
import termios
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from prompt_toolkit import PromptSession
from prompt_toolkit.history import FileHistory
from prompt_toolkit.input import Input
from prompt_toolkit.input.typeahead import get_typeahead, store_typeahead
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys

from nanochat_pl.system.paths import base_dir

HISTORY = "chat_history"
BRACKETED_PASTE = "\x1b[?2004h"  # asks a terminal to say where a paste begins and ends


class History(FileHistory):
    """What was typed, in a file readable by its owner alone; where none can be written, in memory only.

    Args:
        path: the file; its folder is created.

    Attributes:
        complaint: why nothing is kept; None where it is.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.complaint: str | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            path.open("ab").close()
        except OSError as error:
            self.complaint = f"{path}: {error.strerror}"

    def load_history_strings(self) -> Iterable[str]:
        """Return what was typed in former chats, the newest first."""
        try:
            return super().load_history_strings()
        except OSError:
            return []

    def store_string(self, string: str) -> None:
        """Add a message; a disk that is full must not end a conversation."""
        with suppress(OSError):
            super().store_string(string)


def message_reader() -> Callable[[], str]:
    """Return what asks for a message on this terminal.

    It raises EOFError for Ctrl-D, and KeyboardInterrupt for Ctrl-C, also where that follows Enter at once.
    """
    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    history = History(base_dir() / HISTORY)
    if history.complaint:
        print(f"note: what you type is not kept for the next chat: {history.complaint}", file=sys.stderr)
    session: PromptSession[str] = PromptSession(
        "> ", history=history, key_bindings=keys, prompt_continuation="  "
    )

    def read() -> str:
        text = session.prompt(handle_sigint=False)
        if ctrl_c_follows(session.input):
            raise KeyboardInterrupt
        return text

    return read


def ctrl_c_follows(keyboard: Input) -> bool:
    """Tell whether Ctrl-C is among the keys that were pressed since the prompt ended; those behind it are left."""
    pressed = [*get_typeahead(keyboard), *keyboard.read_keys()]
    stops = [place for place, press in enumerate(pressed) if press.key == Keys.ControlC]
    store_typeahead(keyboard, pressed[stops[-1] + 1 :] if stops else pressed)
    return bool(stops)


@contextmanager
def quiet_keyboard() -> Iterator[None]:
    """Show nothing that is typed outside of a prompt, keep it for the next one, and ignore interrupts."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with _without_echo():
            yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _without_echo() -> Iterator[None]:
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    quiet = termios.tcgetattr(sys.stdin)
    quiet[3] &= ~(termios.ECHO | termios.ICANON)  # a line being composed holds 4,095 bytes and loses the rest
    termios.tcsetattr(sys.stdin, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSANOW, before)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let an interrupt raise KeyboardInterrupt, once: the next ones come while the first is being dealt with."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    if sys.stdin.isatty():
        print(BRACKETED_PASTE, end="", flush=True)  # the prompt has just asked for the contrary
    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
