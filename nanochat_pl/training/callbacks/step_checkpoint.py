"""Save at optimizer-step boundaries: every so many steps, when the run is about to stop, and at the end."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from nanochat_pl.system import signals
from nanochat_pl.system.errors import BadInput, Failure
from nanochat_pl.system.files import remove_leftovers
from nanochat_pl.system.receipts import checkpoint_path, receipts
from nanochat_pl.training.callbacks.cadence import ends_step, is_due
from nanochat_pl.training.checkpoint_io import (
    AtomicCheckpointIO,
    make_room,
    point_last_at,
)

FAILED_SAVES_ALLOWED = 3


class StepCheckpoint(Checkpoint):
    """Keep the newest checkpoints of a run.

    It comes after all other callbacks, so that their state is the step's.

    Args:
        every_n_steps: optimizer steps between saves; 0 or -1 saves only when stopped and at the end.
        keep: complete checkpoints kept on disk, at least 2.
    """

    def __init__(self, every_n_steps: int = 500, keep: int = 2) -> None:
        if keep < 2:
            raise BadInput(f"checkpoint.keep={keep}: at least 2 are kept, one to fall back to")
        self.every_n_steps, self.keep = every_n_steps, keep
        self._last_saved = -1
        self._failed_saves = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Sweep away what dead processes left."""
        if stage == "fit" and trainer.is_global_zero:
            remove_leftovers(self.folder(trainer))

    def folder(self, trainer: Trainer) -> Path:
        """Return the run's folder of checkpoints."""
        return Path(trainer.default_root_dir) / "checkpoints"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Know that a resumed run stands on a checkpoint of this very step."""
        self._last_saved = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save, if this micro-batch ended an optimizer step; a run that cannot save does not stop yet."""
        if not ends_step(trainer):
            return
        step, steps = trainer.global_step, pl_module.plan.steps
        if trainer.should_stop or step == steps or is_due(self.every_n_steps, step, steps):
            trainer.should_stop &= self.save(trainer)

    def save(self, trainer: Trainer) -> bool:
        """Write the checkpoint of the current step unless it is there, then prune; return whether it is there."""
        step = trainer.global_step
        if step == self._last_saved:
            return True
        path = checkpoint_path(self.folder(trainer), step)
        if trainer.is_global_zero:
            make_room(path.parent)
        with signals.held():
            trainer.save_checkpoint(path)
        if self._every_rank_knows_it_failed(trainer):
            return False
        self._last_saved, self._failed_saves = step, 0
        if trainer.is_global_zero:
            point_last_at(path)
            for receipt in receipts(path.parent)[self.keep :]:
                trainer.strategy.remove_checkpoint(receipt.path)
        return True

    def _every_rank_knows_it_failed(self, trainer: Trainer) -> bool:
        """Count a failed save on all ranks alike; give up after the third in a row."""
        io = trainer.strategy.checkpoint_io
        assert isinstance(io, AtomicCheckpointIO)
        error = trainer.strategy.broadcast(str(io.error) if io.error else None)
        if error is None:
            return False
        self._failed_saves += 1
        if self._failed_saves == FAILED_SAVES_ALLOWED:
            raise Failure(
                f"checkpoints could not be saved {FAILED_SAVES_ALLOWED} times in a row: {error}\n"
                f"Make room: df -h {self.folder(trainer)}; quota -s\n"
                f"The older ones are intact; the same command continues from step {max(self._last_saved, 0)}."
            )
        if trainer.is_global_zero:  # printed, for of equal warnings Python shows only the first
            text = f"warning: checkpoint not saved ({error}); training goes on, the older ones are intact"
            print(text, file=sys.stderr, flush=True)
        return True
