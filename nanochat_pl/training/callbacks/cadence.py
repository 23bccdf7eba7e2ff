"""When a callback acts: at the end of an optimizer step, every so many of them, and after the last."""

from __future__ import annotations

from lightning.pytorch import Trainer


def ends_step(trainer: Trainer) -> bool:
    """Tell, in `on_train_batch_end`, whether this micro-batch completed an optimizer step."""
    return not trainer.fit_loop._should_accumulate()


def is_due(every_n_steps: int, step: int, steps: int) -> bool:
    """Tell whether something done every `every_n_steps` steps is due after step `step` of `steps`.

    0 and -1 mean never, not even at the end.
    """
    return every_n_steps > 0 and (step % every_n_steps == 0 or step == steps)
