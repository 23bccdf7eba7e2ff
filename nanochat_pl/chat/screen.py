"""The chat on a terminal: a prompt with history, streamed answers, and a few commands.

Enter sends · Alt+Enter begins a new line · Ctrl-C stops the answer, or clears the line · Ctrl-D leaves
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from rich.console import Console
from rich.text import Text

from nanochat_pl.chat.keyboard import interruptible, message_reader, quiet_keyboard
from nanochat_pl.chat.session import Session
from nanochat_pl.chat.terminal import framed
from nanochat_pl.system.errors import BadInput, Failure
from nanochat_pl.system.paths import user_path

HELP = """\
/help              this list
/clear             forget the conversation
/temperature X     0 always says the likeliest, 1 is as trained
/top_k K           choose among the K likeliest tokens, 0 among all
/save FILE         write the conversation as a line of JSON
/quit              leave, as Ctrl-D does
Alt+Enter begins a new line. Ctrl-C stops an answer."""
LEAVE = ("/quit", "/exit")


class Screen:
    """A person at a terminal and a session.

    Args:
        session: the conversation.
        title: what is talked to.
        console: where to print.
        read: asks for a message; raises EOFError to leave, KeyboardInterrupt to be asked again.
    """

    def __init__(
        self,
        session: Session,
        title: str,
        console: Console | None = None,
        read: Callable[[], str] | None = None,
    ) -> None:
        self.session, self.title = session, title
        self.console = console or Console(highlight=False)
        self.read = read or message_reader()
        self._commands: dict[str, Callable[[str], None]] = {
            "/help": self._help,
            "/clear": self._clear,
            "/temperature": self._temperature,
            "/top_k": self._top_k,
            "/save": self._save,
        }

    def run(self) -> None:
        """Talk until the person leaves."""
        with quiet_keyboard():
            self._talk()

    def _talk(self) -> None:
        self._say(f"{self.title} · /help lists the commands, Ctrl-D leaves")
        while True:
            try:
                text = self.read().strip()
            except KeyboardInterrupt:
                continue
            except EOFError:
                return
            if text.partition(" ")[0].lower() in LEAVE:
                return
            if text:
                self._obey(text)

    def _obey(self, text: str) -> None:
        """Run a command or answer a message; what cannot be done is said, and the chat goes on."""
        name, _, argument = text.partition(" ")
        try:
            if not name.startswith("/"):
                self._answer(text)
            elif name.lower() in self._commands:
                self._commands[name.lower()](argument.strip())
            else:
                self._say(f"no command {name}; /help lists them", "red")
        except (BadInput, Failure) as error:
            self._say(str(error), "red")

    def _answer(self, text: str) -> None:
        answer = self.session.ask(text)
        try:
            with interruptible():
                for shown in framed(answer):
                    style = "dim" if shown.is_tool else ""
                    self.console.print(Text(shown.text, style=style), end="", soft_wrap=True)
                self.console.print()
        except KeyboardInterrupt:
            answer.close()
            self._say("\n(stopped)")

    def _say(self, text: str, style: str = "dim") -> None:
        self.console.print(Text(text, style=style), soft_wrap=True)

    def _help(self, argument: str) -> None:
        self._say(HELP)

    def _clear(self, argument: str) -> None:
        self.session.clear()
        self._say("forgotten")

    def _temperature(self, argument: str) -> None:
        value = _number(argument, float, "/temperature")
        if value is not None:
            self.session.settings = replace(self.session.settings, temperature=value)
        self._say(f"temperature {self.session.settings.temperature:g}")

    def _top_k(self, argument: str) -> None:
        value = _number(argument, int, "/top_k")
        if value is not None:
            self.session.settings = replace(self.session.settings, top_k=value or None)
        self._say(f"top_k {self.session.settings.top_k or 'all'}")

    def _save(self, argument: str) -> None:
        if not argument:
            raise BadInput("/save needs a file's name")
        path = user_path(argument)
        self.session.save(path)
        self._say(f"saved to {path}")


def _number(text: str, kind: type[int] | type[float], name: str) -> int | float | None:
    """Return the number a command was given, None if it was given nothing."""
    if not text:
        return None
    try:
        return kind(text)
    except ValueError:
        raise BadInput(f"{name} {text}: is no {'whole ' * (kind is int)}number") from None
