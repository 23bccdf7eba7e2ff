"""Bits per byte on the pinned validation rows, while training."""

from __future__ import annotations

import torch
from lightning.pytorch import LightningModule, Trainer

from nanochat_pl.evaluation.bits_per_byte import BitsPerByte
from nanochat_pl.training.callbacks.cadence import Periodic, agreed_stop


class ValidationBitsPerByte(Periodic):
    """Log `val/bpb` before the first step, every so many steps and after the last.

    Args:
        every_n_steps: optimizer steps between evaluations; 0 or -1 is off.
        tokens: validation tokens read each time, over all ranks.
    """

    at_first = True

    def __init__(self, every_n_steps: int = 250, tokens: int = 20 * 524288) -> None:
        super().__init__(every_n_steps)
        self.tokens = tokens

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Tell the data how much to read; the `validate` verb reads the same rows."""
        if stage in ("fit", "validate"):
            trainer.datamodule.eval_tokens = self.tokens

    @torch.no_grad()
    def act(self, trainer: Trainer, module: LightningModule) -> bool:
        """Evaluate."""
        metric = BitsPerByte(trainer.datamodule.tokenizer_on_disk.token_bytes).to(module.device)
        module.eval()
        stopped = False
        with trainer.precision_plugin.val_step_context():
            for batch in trainer.datamodule.val_dataloader():
                if stopped := bool(agreed_stop(trainer)):  # together: a sharded network needs every rank
                    break
                inputs, targets = batch.inputs.to(module.device), batch.targets.to(module.device)
                metric.update(module.gpt.token_losses(inputs, targets), targets)
        module.train()
        if stopped:
            return False
        value = float(metric.compute())
        for logger in trainer.loggers:
            logger.log_metrics({"val/bpb": value}, step=trainer.global_step)
        return True
