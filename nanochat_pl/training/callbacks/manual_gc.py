"""Python's garbage collector kept out of the training step."""

from __future__ import annotations

import gc
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class ManualGC(Callback):
    """Freeze what lives after the first batch and collect the rest rarely; a collection in a step costs half a second.

    Args:
        every_n_batches: micro-batches between collections.
    """

    def __init__(self, every_n_batches: int = 5000) -> None:
        self.every_n_batches = every_n_batches
        self._batches = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Freeze after the first batch, collect at the interval."""
        self._batches += 1
        if self._batches == 1:
            gc.collect()
            gc.freeze()
            gc.disable()
        elif self._batches % self.every_n_batches == 0:
            gc.collect()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the collector back."""
        gc.unfreeze()
        gc.enable()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the collector back where Lightning calls no `teardown`; Python complains of leaks at its end else."""
        self.teardown(trainer, pl_module, "fit")
