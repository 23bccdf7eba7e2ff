"""A step whose loss or gradient is not finite never reaches the weights."""

from __future__ import annotations

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from nanochat_pl.system.errors import Failure


class FiniteGuard(Callback):
    """Skip non-finite steps: weights and moments stay bit-equal, the schedule moves on; too many in a row end the run.

    Args:
        patience: skipped steps in a row after which the run stops and names the last good checkpoint.
    """

    def __init__(self, patience: int = 10) -> None:
        self.patience = patience
        self.skipped = 0
        self.skipped_in_a_row = 0
        self._loss_is_finite: Tensor | None = None

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Note, without waiting for the device, whether this micro-batch's loss is finite."""
        finite = torch.isfinite(loss.detach())
        self._loss_is_finite = finite if self._loss_is_finite is None else self._loss_is_finite & finite

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Drop all gradients of a bad step: the optimizer leaves parameters without one untouched."""
        if self._every_rank_is_finite(trainer, optimizer):
            self.skipped_in_a_row = 0
            return
        optimizer.zero_grad(set_to_none=True)
        self.skipped += 1
        self.skipped_in_a_row += 1
        rank_zero_warn(
            f"step {trainer.global_step}: loss or gradient is not finite; skipped ({self.skipped} so far)"
        )
        if self.skipped_in_a_row == self.patience:
            raise Failure(_diverged(trainer, self.patience))

    def _every_rank_is_finite(self, trainer: Trainer, optimizer: Optimizer) -> bool:
        params = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        gradients = [p.grad.to_local() if isinstance(p.grad, DTensor) else p.grad for p in params]
        norms = torch.stack(torch._foreach_norm(gradients))
        finite = torch.isfinite(norms).all()
        if self._loss_is_finite is not None:
            finite &= self._loss_is_finite
        self._loss_is_finite = None
        if trainer.world_size > 1:
            finite = trainer.strategy.reduce(finite.float(), reduce_op="min")
        return bool(finite)

    def state_dict(self) -> dict[str, int]:
        """Return the counts, so that a resumed run goes on counting."""
        return {"skipped": self.skipped, "skipped_in_a_row": self.skipped_in_a_row}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Take the counts of the run that is resumed."""
        self.skipped, self.skipped_in_a_row = state_dict["skipped"], state_dict["skipped_in_a_row"]


def _diverged(trainer: Trainer, patience: int) -> str:
    """Return the last words of a run that cannot go on."""
    last = f"{trainer.default_root_dir}/checkpoints/last.ckpt"
    return (
        f"loss or gradient was not finite {patience} steps in a row, up to step {trainer.global_step}\n"
        f"The last good checkpoint is {last}; the same command continues from it.\n"
        "Lower model.init_args.matrix_lr or embedding_lr, or look at the data around this step."
    )
