"""The line of numbers every few steps: loss, rates, speed, time to go."""

from __future__ import annotations

import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from nanochat_pl.system.hardware import peak_flops_per_s
from nanochat_pl.training.callbacks.cadence import ends_step

WARM_UP_STEPS = 3  # compilation and first allocations; not part of the speed


class TrainLog(Callback):
    """Log the mean loss of the whole batch and the speed since the last line, every `trainer.log_every_n_steps`.

    The loss is the mean over all micro-batches and ranks of one optimizer step. Nothing waits for the device
    between two lines. It stands before the other callbacks and `clock_restart` behind them, so that what they do
    at the end of a step is not part of the speed.

    Attributes:
        clock_restart: the callback to put last.
    """

    def __init__(self) -> None:
        self.clock_restart = ClockRestart(self)
        self.clock = 0.0
        self._loss: Tensor | None = None
        self._seconds = 0.0
        self._steps = 0
        self._first_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember where this start began."""
        self._first_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add up the micro-batch's share of the loss; at the end of a step, perhaps log."""
        self._lap()
        share = outputs["loss"].detach()  # Lightning has divided it by the accumulation
        self._loss = share if self._loss is None else self._loss + share
        if not ends_step(trainer):
            return
        loss, self._loss = self._loss, None
        self._steps += 1
        step = trainer.global_step
        if step % trainer.log_every_n_steps == 0 or step == pl_module.plan.steps:
            mean = float(trainer.strategy.reduce(loss, reduce_op="mean"))  # waits for the device
            metrics = {"train/loss": mean} | self._speed(trainer, pl_module) | _rates(trainer)
            for logger in trainer.loggers:
                logger.log_metrics(metrics, step=step)
        elif step == self._first_step + WARM_UP_STEPS:
            _wait_for_device(pl_module.device)
            self._lap()
            self._seconds, self._steps = 0.0, 0

    def _lap(self) -> None:
        """Add the time since the clock was restarted."""
        now = time.perf_counter()
        self._seconds += now - self.clock
        self.clock = now

    def _speed(self, trainer: Trainer, module: LightningModule) -> dict[str, float]:
        """Return tokens per second, utilization and time to go, and begin anew."""
        self._lap()
        seconds_per_step = self._seconds / self._steps
        self._seconds, self._steps = 0.0, 0
        plan = module.plan
        tokens_per_s = plan.batch_tokens / seconds_per_step
        speed = {
            "train/tokens_per_s": tokens_per_s,
            "train/eta_s": (plan.steps - trainer.global_step) * seconds_per_step,
        }
        peak = peak_flops_per_s(module.device)
        if peak is not None:
            speed["train/mfu"] = tokens_per_s * plan.flops_per_token / (peak * plan.world_size)
        return speed


class ClockRestart(Callback):
    """The end of the time that counts for nobody's speed; see `TrainLog`.

    Args:
        train_log: whose clock.
    """

    def __init__(self, train_log: TrainLog) -> None:
        self._train_log = train_log

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._train_log.clock = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Restart the clock behind what the other callbacks did."""
        self._train_log.clock = time.perf_counter()


def _rates(trainer: Trainer) -> dict[str, float]:
    """Return the learning rate of each group in the step just taken."""
    return {f"lr/{group['name']}": group["lr"] for group in trainer.optimizers[0].param_groups}


def _wait_for_device(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
