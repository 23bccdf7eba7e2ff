"""The two errors a user is meant to read.

Each message has at most three lines: what is wrong with its value, a suggestion where one is near, the command to run.
`cli.py` prints it without a traceback and exits with the class's code. Our own mistakes stay assertions and tracebacks.
"""

from __future__ import annotations


class BadInput(ValueError):
    """What was typed cannot be done: an unknown name, a value out of range, sizes that do not divide."""

    exit_code = 2


class Failure(RuntimeError):
    """What was typed is fine but the world is not: data missing or corrupt, disk full, checkpoint of another model."""

    exit_code = 1


class RunAgain(Failure):
    """Nothing needs mending: the same command continues from the last checkpoint, and a batch script may requeue."""

    exit_code = 75
