"""The run's plan, put into force: accumulation and horizon of the Trainer, and `plan.json`."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from nanochat_pl.system.files import write_json


class TokenBudget(Callback):
    """Make the Trainer stop after exactly the planned optimizer steps, each of exactly the planned tokens."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Set what the Trainer's constructor could not know yet."""
        if stage != "fit":
            return
        plan = pl_module.plan
        trainer.accumulate_grad_batches = plan.accumulation
        # One more until training starts: a run stopped behind its last step begins too, for what it has still to do.
        trainer.fit_loop.epoch_loop.max_steps = plan.steps + 1
        if trainer.is_global_zero:
            write_json(Path(trainer.default_root_dir) / "plan.json", plan.to_dict())

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let a resumed run begin at a step's first micro-batch, though their number a step may have changed since."""
        loop = trainer.fit_loop.epoch_loop
        loop.max_steps = pl_module.plan.steps
        if trainer.global_step == 0:
            return
        current = loop.batch_progress.current
        current.ready = current.started = current.processed = (
            trainer.global_step * pl_module.plan.accumulation
        )
        # A checkpoint saved while the batch's end was being announced: Lightning completes that batch itself.
        current.completed = current.ready - loop.restarted_on_train_batch_end
