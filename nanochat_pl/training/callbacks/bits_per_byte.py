"""Bits per byte on the pinned validation rows, while training."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from nanochat_pl.evaluation.bits_per_byte import BitsPerByte
from nanochat_pl.training.callbacks.cadence import ends_step, is_due


class ValidationBitsPerByte(Callback):
    """Log `val/bpb` before the first step, every so many steps and after the last.

    Args:
        every_n_steps: optimizer steps between evaluations; 0 or -1 is off.
        tokens: validation tokens read each time, over all ranks.
    """

    def __init__(self, every_n_steps: int = 250, tokens: int = 20 * 524288) -> None:
        self.every_n_steps, self.tokens = every_n_steps, tokens

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Tell the data how much to read; the `validate` verb reads the same rows."""
        if stage in ("fit", "validate"):
            trainer.datamodule.eval_tokens = self.tokens

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate the untrained model."""
        if self.every_n_steps > 0 and trainer.global_step == 0:
            self._evaluate(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Evaluate at the interval."""
        if ends_step(trainer) and is_due(self.every_n_steps, trainer.global_step, pl_module.plan.steps):
            self._evaluate(trainer, pl_module)

    @torch.no_grad()
    def _evaluate(self, trainer: Trainer, module: LightningModule) -> None:
        metric = BitsPerByte(trainer.datamodule.tokenizer_on_disk.token_bytes).to(module.device)
        module.eval()
        with trainer.precision_plugin.val_step_context():
            for batch in trainer.datamodule.val_dataloader():
                inputs, targets = batch.inputs.to(module.device), batch.targets.to(module.device)
                metric.update(module.gpt.token_losses(inputs, targets), targets)
        module.train()
        value = float(metric.compute())
        for logger in trainer.loggers:
            logger.log_metrics({"val/bpb": value}, step=trainer.global_step)
