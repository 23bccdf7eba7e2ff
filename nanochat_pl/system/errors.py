"""The two errors a user is meant to read.

Each message has at most three lines: what is wrong with its value, a suggestion where one is near, the command to run.
`cli.py` prints it without a traceback and exits with the class's code. Our own mistakes stay assertions and tracebacks.
"""

from __future__ import annotations

import errno
from pathlib import Path


class BadInput(ValueError):
    """What was typed cannot be done: an unknown name, a value out of range, sizes that do not divide."""

    exit_code = 2


class Failure(RuntimeError):
    """What was typed is fine but the world is not: data missing or corrupt, disk full, checkpoint of another model."""

    exit_code = 1


class Unfetched(Failure):
    """Data that `data fetch` brings is missing or damaged; whoever knows the stage names its file (`for_stage`).

    Args:
        complaint: what is wrong, in one line.
        remedy: what fetching does about it.
    """

    def __init__(self, complaint: str, remedy: str = "bring it here") -> None:
        super().__init__(complaint, remedy)
        self.complaint, self.remedy = complaint, remedy

    def __str__(self) -> str:
        return f"{self.for_stage('CONFIG')}, where CONFIG is the file of your stage"

    def for_stage(self, config: str) -> Failure:
        """Return the same with the whole command; options may follow the file's name."""
        return Failure(f"{self.complaint}\n{self.remedy}: python cli.py data fetch --for {config}")


class RunAgain(Failure):
    """Nothing needs mending: the same command continues from the last checkpoint, and a batch script may requeue."""

    exit_code = 75


REMEDIES = {
    errno.ENOSPC: "Make room (df -h), or work on another disk: export NANOCHAT_BASE_DIR=/scratch/$USER/nanochat",
    errno.EDQUOT: "Your quota is used up (quota -s): make room, or export NANOCHAT_BASE_DIR=/scratch/$USER/nanochat",
    errno.EMFILE: "Allow more open files: ulimit -n 65536",
    errno.EROFS: "Work where you may write: export NANOCHAT_BASE_DIR=DIR",
}


ROOM = {
    errno.ENOSPC: "Make room there (df -h)",
    errno.EDQUOT: "Your quota is used up (quota -s): make room",
}


def unwritable(folder: Path, error: OSError, elsewhere: str = "") -> Failure:
    """Return the failure of a folder that could not be written, with its remedy.

    Args:
        folder: where it should have gone.
        error: what the system refused.
        elsewhere: what names another folder, such as `--out DIR`; empty where nothing does.
    """
    return Failure(f"{folder}: could not be written: {error.strerror or error}\n{room(error, elsewhere)}")


def room(error: OSError, elsewhere: str = "") -> str:
    """Return what to do about a place that refuses to be written; `elsewhere` as in `unwritable`."""
    first = ROOM.get(error.errno or 0, "Make sure that you may write there")
    then = f", or name another folder: {elsewhere}" if elsewhere else "; then run the same command again"
    return first + then


def told(error: OSError | MemoryError) -> str:
    """Return what the system refused, and what to do about it where that is known."""
    if isinstance(error, MemoryError):
        return (
            f"out of memory{f': {error}' if str(error) else ''}\nFree some, or ask for more: sbatch --mem 64G"
        )
    remedy = REMEDIES.get(error.errno or 0)
    return f"{type(error).__name__}: {error}" + (f"\n{remedy}" if remedy else "")
