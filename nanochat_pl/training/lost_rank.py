"""A rank that died, noticed by the others, which would wait for it in the next collective for half an hour."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from typing import NamedTuple

from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch import Trainer

from nanochat_pl.system.errors import Failure, RunAgain

GRACE_S = 5.0  # the training thread may meet the broken connection by itself, and knows more


class Loss(NamedTuple):
    """A rank that is gone.

    Attributes:
        words: which, and how it ended.
        may_run_again: whether nothing needs mending first; a rank that ended with an error of its own said what does.
    """

    words: str
    may_run_again: bool

    @property
    def exit_code(self) -> int:
        """What the other ranks end with."""
        return (RunAgain if self.may_run_again else Failure).exit_code


class LostRank:
    """What is known of the processes of this machine's other ranks.

    Lightning starts them as children of rank 0, or SLURM starts them all; then SLURM ends the others.

    Args:
        trainer: whose ranks; it need not have started them yet.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._parent = os.getppid() if is_child_of_rank_0(trainer) else None
        self._since: float | None = None

    @property
    def children(self) -> list[subprocess.Popen]:
        """The processes of the other ranks that this one started, in the order of ranks."""
        return getattr(self._trainer.strategy.launcher, "procs", [])

    def kill_children(self) -> None:
        """End the other ranks, whatever they wait for."""
        for child in self.children:
            child.kill()

    def noticed(self) -> Loss | None:
        """Return a rank that has been gone for a while, None as long as all are well."""
        loss = self.gone()
        if loss is None:
            return None
        self._since = self._since or time.monotonic()
        return loss if time.monotonic() - self._since > GRACE_S else None

    def gone(self, patience_s: float = 0.0) -> Loss | None:
        """Return a rank that ended before its time, None if there is none.

        Args:
            patience_s: how long to wait for one.
        """
        deadline = time.monotonic() + patience_s
        while True:
            for rank, child in enumerate(self.children, start=1):
                if child.poll():
                    return how_it_ended(rank, child.returncode)
            if self._parent is not None and os.getppid() != self._parent:
                return Loss("rank 0 died", True)
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.1)


def is_child_of_rank_0(trainer: Trainer) -> bool:
    """Tell whether this process is a rank that rank 0, and not SLURM, started."""
    environment = getattr(trainer.strategy, "cluster_environment", None)
    return isinstance(environment, LightningEnvironment) and trainer.local_rank > 0


def how_it_ended(rank: int, code: int) -> Loss:
    """Return in words how a rank's process ended."""
    if code < 0:
        hint = ", as the out-of-memory killer does" if -code == signal.SIGKILL else ""
        return Loss(f"rank {rank} was killed by {signal.Signals(-code).name}{hint}", True)
    return Loss(f"rank {rank} ended with exit code {code}", code == RunAgain.exit_code)


def retire_observer() -> None:
    """Let Lightning's own observer rest: it kills all ranks, itself first, without a word."""
    for thread in threading.enumerate():
        if thread.name == "child-process-observer":
            thread._child_processes = []  # it looks once more, finds nobody, and ends
