"""Inside a locked process: load a program and answer calls to its functions, in literals.

    in     first nothing; then [name, arguments, keyword arguments]
    out    first ["ready"] or ["failed", name, text]; then ["value", value] or ["raised", name, text]

What a function does to its arguments stays here, so it cannot rewrite what a test compares with. Nothing said here
is believed to be more than an answer: who judges sits in another process (`checker.py`).
"""

from __future__ import annotations

import ast
import os
import sys
import types
from typing import Any

from nanochat_pl.sandbox.literals import receive, send

MODULE = "solution"
MAX_TEXT = 500  # characters of an exception that cross


def serve(job: dict[str, Any]) -> None:
    """Load the job's program, then answer until nobody asks any more."""
    os.close(job["report"])
    requests, answers = job["requests"], job["answers"]
    module = types.ModuleType(MODULE)
    sys.modules[MODULE] = module  # dataclasses and enums look their module up
    try:
        exec(_code(job), module.__dict__)
    except BaseException as error:
        send(answers, ["failed", *_described(error)])
        return
    send(answers, ["ready"])
    while True:
        try:
            name, arguments, keywords = receive(requests)
        except EOFError:
            return
        _answer(answers, module, name, arguments, keywords)


def _code(job: dict[str, Any]) -> types.CodeType:
    """Compile the program, or only what stands before the function that is judged."""
    (source,) = job["sources"]
    tree = ast.parse(source, MODULE)
    if job["stop_before"]:
        tree.body = _before(tree.body, job["stop_before"])
    return compile(tree, f"<{MODULE}>", "exec")


def _before(body: list[ast.stmt], name: str) -> list[ast.stmt]:
    for place, statement in enumerate(body):
        if isinstance(statement, ast.FunctionDef) and statement.name == name:
            return body[:place]
    return body


def _answer(
    answers: int, module: types.ModuleType, name: str, arguments: list[Any], keywords: dict[str, Any]
) -> None:
    try:
        if name not in module.__dict__:
            raise NameError(f"name {name!r} is not defined")
        send(answers, ["value", module.__dict__[name](*arguments, **keywords)])
    except BaseException as error:
        send(answers, ["raised", *_described(error)])


def _described(error: BaseException) -> list[str]:
    try:
        (text,) = (
            error.args if len(error.args) == 1 else (error,)
        )  # what it was made from; KeyError's str is quoted
        text = str(text)[:MAX_TEXT]
    except BaseException:
        text = ""
    return [type(error).__name__, text]
