"""Inside a locked process: run a test whose candidate lives in another one, and say whether it passed.

`candidate`, and the name of the judged function itself, are proxies: they send arguments as literals and get a
literal back. Names the test uses without defining them (HumanEval/32 calls `poly` of its prompt) go to a second
process that ran only what stands before the judged function, so that a solution cannot redefine them.
"""

from __future__ import annotations

import builtins
from typing import Any

from nanochat_pl.sandbox.literals import receive, send

MAX_REASON = 300  # characters


class Gone(BaseException):
    """The other process ended or gave something else than an answer; no test may take this for its own error."""


class Link:
    """A process that answers calls, seen from here.

    Args:
        requests: descriptor to write calls to.
        answers: descriptor to read answers from.
    """

    def __init__(self, requests: int, answers: int) -> None:
        self._requests, self._answers = requests, answers
        self.broken = ""  # why it is over, once it is
        self._is_ready = False

    def call(self, name: str, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """Return what a function over there returns, or raise what it raises."""
        self.wait_until_ready()
        try:
            send(self._requests, [name, list(arguments), keywords])
        except BrokenPipeError:
            self._end("the solution ended its process")
        kind, *content = self._receive()
        if kind == "value" and len(content) == 1:
            return content[0]
        if kind == "raised" and len(content) == 2:
            raise _exception(*content)
        self._end("the solution wrote to a pipe that is not its to write to")

    def wait_until_ready(self) -> None:
        """Return once its program is loaded."""
        if self._is_ready:
            return
        kind, *content = self._receive()
        if kind != "ready":
            self._end(": ".join(map(str, content)))
        self._is_ready = True

    def _receive(self) -> list[Any]:
        if self.broken:
            raise Gone(self.broken)
        try:
            answer = receive(self._answers)
        except EOFError:
            self._end("the solution ended its process")
        except ValueError as error:
            self._end(f"the solution answered with something that is {error}")
        return answer if isinstance(answer, list) and answer else ["?"]

    def _end(self, reason: str) -> Any:
        self.broken = reason
        raise Gone(reason)


class Proxy:
    """A function of another process."""

    def __init__(self, link: Link, name: str) -> None:
        self._link, self.__name__ = link, name

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._link.call(self.__name__, arguments, keywords)


class Namespace(dict[str, Any]):
    """The globals of a test; a name that is nowhere else is a function of the second process."""

    def __init__(self, helpers: Link | None, names: dict[str, Any]) -> None:
        super().__init__(names)
        self._helpers = helpers

    def __missing__(self, name: str) -> Any:
        if self._helpers is None or hasattr(builtins, name) or name.startswith("__"):
            raise KeyError(name)
        return Proxy(self._helpers, name)


def check(job: dict[str, Any]) -> None:
    """Run the job's test and report `[passed, reason]`."""
    (test,) = job["sources"]
    links = [Link(requests, answers) for requests, answers in job["links"]]
    solution, helpers = links[0], links[1] if len(links) > 1 else None
    proxy = Proxy(solution, job["entry_point"])
    names = Namespace(helpers, {"__name__": "test", "candidate": proxy, job["entry_point"]: proxy})
    reason = _failure(test, names, solution)
    reason = next((link.broken for link in links if link.broken), reason)
    send(job["report"], [not reason, reason[:MAX_REASON]])


def _failure(test: str, names: Namespace, solution: Link) -> str:
    """Return why a test fails, or nothing if it passes."""
    try:
        solution.wait_until_ready()
        exec(compile(test, "<test>", "exec"), names)
        names["check"](names["candidate"])
    except BaseException as error:
        return f"{type(error).__name__}: {error}".removesuffix(": ")
    return ""


def _exception(name: str, text: str) -> Exception:
    """Return an exception like the one raised over there; what is not built in becomes a RuntimeError."""
    kind = getattr(builtins, str(name), None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            return kind(text)
        except TypeError:  # takes more than a text
            pass
    return RuntimeError(f"{name}: {text}")
