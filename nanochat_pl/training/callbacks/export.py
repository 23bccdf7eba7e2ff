"""The artifact, written when a run has finished and never when it was preempted."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from nanochat_pl import __version__
from nanochat_pl.artifacts import save_artifact
from nanochat_pl.training.strategies import gpt_for_first_rank


class Export(Callback):
    """Write the run's artifact once the last planned step is done."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Export on rank 0; also after a restart that found nothing left to train."""
        if trainer.global_step < pl_module.plan.steps or trainer.should_stop:
            return
        gpt = gpt_for_first_rank(pl_module, "cpu")
        if trainer.is_global_zero:
            folder = Path(trainer.default_root_dir) / "artifact"
            save_artifact(folder, gpt, trainer.datamodule.tokenizer_on_disk, _provenance(trainer, pl_module))


def _provenance(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    """Return where a model came from."""
    return {
        "run": Path(trainer.default_root_dir).name,
        "step": trainer.global_step,
        "tokens": trainer.global_step * module.plan.batch_tokens,
        "init_from": module.init_from,
        "is_chat": trainer.datamodule.is_chat,
        "data": trainer.datamodule.fingerprint,
        "tokenizer": trainer.datamodule.tokenizer_on_disk.fingerprint,
        "time": time.time(),
        "versions": {"nanochat_pl": __version__, "torch": torch.__version__},
    }
