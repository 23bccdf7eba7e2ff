"""When a callback acts: at the end of an optimizer step, every so many of them, after the last, and not while the
run is asked to stop.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from nanochat_pl.system import signals


def ends_step(trainer: Trainer) -> bool:
    """Tell, in `on_train_batch_end`, whether this micro-batch completed an optimizer step."""
    return not trainer.fit_loop._should_accumulate()


def is_due(every_n_steps: int, step: int, steps: int) -> bool:
    """Tell whether something done every `every_n_steps` steps is due after step `step` of `steps`.

    0 and -1 mean never, not even at the end.
    """
    return every_n_steps > 0 and (step % every_n_steps == 0 or step == steps)


def agreed_stop(trainer: Trainer) -> int:
    """Return the largest stop signal any rank has noted, the same on every rank; all ranks must ask."""
    noted = signals.first_received()
    if trainer.world_size == 1:
        return noted
    agreed = torch.tensor(noted, device=trainer.strategy.root_device)
    return int(trainer.strategy.reduce(agreed, reduce_op="max"))


class Periodic(Callback):
    """Something looked at every so many steps and after the last, once each, however often the run is interrupted.

    A run that is asked to stop does not wait for it: it is made up for when the run continues, before the next step.

    Args:
        every_n_steps: optimizer steps between; 0 or -1 is off.
    """

    at_first = False  # whether the untrained model is looked at too

    def __init__(self, every_n_steps: int) -> None:
        self.every_n_steps = every_n_steps
        self._done_at = -1

    def act(self, trainer: Trainer, module: LightningModule) -> bool:
        """Look, on all ranks; return False, on all ranks, if it was broken off because the run is to stop."""
        raise NotImplementedError

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make up for what was due when the run was stopped."""
        self._act_if_due(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look, if this micro-batch ended a step and one is due."""
        if ends_step(trainer):
            self._act_if_due(trainer, pl_module)

    def _act_if_due(self, trainer: Trainer, module: LightningModule) -> None:
        step = trainer.global_step
        due = is_due(self.every_n_steps, step, module.plan.steps) and (step > 0 or self.at_first)
        if due and self._done_at != step and not agreed_stop(trainer) and self.act(trainer, module):
            self._done_at = step

    def state_dict(self) -> dict[str, int]:
        """Return the step of the last look."""
        return {"done_at": self._done_at}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Know what need not be done again."""
        self._done_at = state_dict["done_at"]
