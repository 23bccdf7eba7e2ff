"""Carry every rank's random number generators through a checkpoint."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from nanochat_pl.system.ranks import gathered


class ExactResume(Callback):
    """Restore the generators of Python, NumPy, torch and CUDA at the first batch after a resume.

    Nothing in pretraining draws random numbers after the first weights; a user's own callback or dropout may. Ranks
    of another number than before begin with their own.
    """

    def __init__(self) -> None:
        self._restored: list[dict[str, Any]] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the states of all ranks, plain numbers and tensors only."""
        return {"ranks": gathered(_generator_states())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the states until the first batch: building the loaders still draws numbers."""
        self._restored = state_dict["ranks"]

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Put this rank's generators back, once."""
        if self._restored is not None and trainer.world_size == len(self._restored):
            _set_generators(self._restored[trainer.global_rank])
        self._restored = None


def _generator_states() -> dict[str, Any]:
    version, keys, gauss = random.getstate()
    _, numpy_keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": [version, list(keys), gauss],
        "numpy": [torch.from_numpy(numpy_keys.astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
    }


def _set_generators(states: dict[str, Any]) -> None:
    version, keys, gauss = states["python"]
    random.setstate((version, tuple(keys), gauss))
    numpy_keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state(("MT19937", numpy_keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
