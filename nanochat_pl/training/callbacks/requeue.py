"""Stop at an optimizer-step boundary when asked to, and have the scheduler run the job again.

signal · time limit · file STOP ─► noted ─► all ranks agree ─► StepCheckpoint saves ─► the loop ends ─► requeue
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from nanochat_pl.system import signals, slurm
from nanochat_pl.system.errors import BadInput
from nanochat_pl.training.callbacks.cadence import agreed_stop, ends_step

SECONDS_BETWEEN_LOOKS = (
    1.0  # at the file STOP: a file system shared by a thousand nodes is not asked at every step
)


class Requeue(Callback):
    """Turn a wish to stop into a clean stop; under SLURM, put the job back into the queue when its state is saved.

    Args:
        enabled: under SLURM, have the job run again when a scheduler or a clock stopped it. Where a person did
            (Ctrl-C, the file `STOP`, `scancel`) it is not.
        max_restarts: restarts of one job after which it is not put back any more.
        margin_s: under SLURM, stop this many seconds before the job's time limit, should no signal come; 0 never does.

    Attributes:
        stopped_by: number of the signal that stopped the run, the same on every rank; 0 for none.
        max_time_s: seconds this start may train; None for no limit. `trainer.max_time` sets it.
    """

    def __init__(self, enabled: bool = True, max_restarts: int = 100, margin_s: int = 120) -> None:
        for key, value in (("max_restarts", max_restarts), ("margin_s", margin_s)):
            if value < 0:
                raise BadInput(f"requeue.{key}={value}: give 0 or more")
        self.enabled, self.max_restarts, self.margin_s = enabled, max_restarts, margin_s
        self.stopped_by = 0
        self.max_time_s: float | None = None
        self._looked_at = 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start the clock; a file `STOP` from before this start has been obeyed."""
        if stage != "fit":
            return
        if trainer.is_global_zero:
            _stop_file(trainer).unlink(missing_ok=True)
        seconds = self._seconds_left(time.time())
        if seconds is not None:
            signals.listen_until(seconds)

    def _seconds_left(self, now: float) -> float | None:
        job = slurm.current_job()
        limits = [] if self.max_time_s is None else [self.max_time_s]
        if job and job.ends_at and self.margin_s:
            limits.append(job.ends_at - self.margin_s - now)
        return min(limits, default=None)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do not begin a step, nor compile for it, if a stop was asked for already; nothing is lost."""
        self._look(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look, if this micro-batch ended an optimizer step."""
        if ends_step(trainer):
            self._look(trainer)

    def _look(self, trainer: Trainer) -> None:
        """Let the Trainer stop if any rank was asked to; `StepCheckpoint` comes after and saves."""
        if trainer.is_global_zero and self._finds_stop_file(trainer):
            signals.note(signals.STOP_FILE)
        self.stopped_by = agreed_stop(trainer)
        if self.stopped_by:
            trainer.should_stop = True

    def _finds_stop_file(self, trainer: Trainer) -> bool:
        now = time.monotonic()
        if now - self._looked_at < SECONDS_BETWEEN_LOOKS:
            return False
        self._looked_at = now
        return _stop_file(trainer).exists()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put the job back into the queue, as the last thing that is done."""
        job = slurm.current_job()
        if stage != "fit" or not (trainer.is_global_zero and trainer.should_stop and self.stopped_by and job):
            return
        refusal = self._refusal(job) or slurm.put_back(job)
        said = (
            f"job {job.name} is not put back into the queue: {refusal}"
            if refusal
            else f"job {job.name} requeued"
        )
        print(f"{said} (restarts so far: {job.restarts})", file=sys.stderr, flush=True)

    def _refusal(self, job: slurm.Job) -> str | None:
        """Return why a job that stopped is not to be run again; None if it is."""
        if signals.is_asked_by_a_person(self.stopped_by):
            return f"{signals.name_of(self.stopped_by)} asked for a stop"
        if not self.enabled:
            return "requeue.enabled=false"
        if job.restarts >= self.max_restarts:
            return f"it was restarted {job.restarts} times, requeue.max_restarts={self.max_restarts}"
        return None


def _stop_file(trainer: Trainer) -> Path:
    return Path(trainer.default_root_dir) / "STOP"
