"""What one check of `doctor` found."""

from __future__ import annotations

from typing import Literal, NamedTuple

State = Literal["ok", "warn", "fail"]


class Finding(NamedTuple):
    """The outcome of a check.

    Attributes:
        state: fail if a run cannot work, warn if it may be slower or end early.
        found: what is here, in a few words.
        remedy: the command that mends it; "" where nothing needs mending.
    """

    state: State
    found: str
    remedy: str = ""


def ok(found: str) -> Finding:
    """Return that all is well."""
    return Finding("ok", found)


def warn(found: str, remedy: str) -> Finding:
    """Return that something may go wrong."""
    return Finding("warn", found, remedy)


def fail(found: str, remedy: str) -> Finding:
    """Return that something is wrong."""
    return Finding("fail", found, remedy)
