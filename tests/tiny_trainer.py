"""A tiny module in a real Trainer in this process, fed with random rows, for tests of callbacks."""

from __future__ import annotations

from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import Logger
from torch.utils.data import DataLoader

from nanochat_pl.data.batch import Batch
from nanochat_pl.training.callbacks.token_budget import TokenBudget
from nanochat_pl.training.checkpoint_io import AtomicCheckpointIO
from nanochat_pl.training.language_model import LanguageModel
from nanochat_pl.training.plan import make_plan

VOCAB_SIZE, ROWS, SEQUENCE_LEN = 64, 2, 16


class RandomRows(LightningDataModule):
    """Random ids, the same in every run; ranks take them in turns, as one rank takes them one after another."""

    sequence_len = SEQUENCE_LEN

    def val_dataloader(self) -> list:
        """Return nothing to validate on."""
        return []

    def train_dataloader(self) -> DataLoader:
        """Return 1,000 batches."""
        draw = torch.Generator().manual_seed(0)
        rows = [torch.randint(VOCAB_SIZE, (ROWS, SEQUENCE_LEN + 1), generator=draw) for _ in range(1000)]
        mine = rows[self.trainer.global_rank :: self.trainer.world_size] if self.trainer else rows
        return DataLoader([Batch(ids[:, :-1], ids[:, 1:]) for ids in mine], batch_size=None)


class Kept(Logger):
    """A logger that keeps what it is told."""

    name, version = "kept", ""

    def __init__(self):
        self.lines: dict[int, dict[str, float]] = {}

    def log_metrics(self, metrics, step=None):
        self.lines[step] = dict(metrics)

    def log_hyperparams(self, *args, **kwargs):
        """Nothing to keep."""


def tiny_module(
    steps: int, accumulation: int = 1, ranks: int = 1, width_per_layer: int = 16, **settings
) -> LanguageModel:
    """Return a module of two layers with its plan, `accumulation` micro-batches a step on each rank."""
    torch.manual_seed(42)
    shape = {"depth": 2, "vocab_size": VOCAB_SIZE, "aspect_ratio": width_per_layer, "head_dim": 16}
    model = LanguageModel(**shape | {"compile": False} | settings)
    plan = make_plan(
        model.gpt_config(SEQUENCE_LEN),
        sequence_len=SEQUENCE_LEN,
        device_batch_rows=ROWS,
        batch_tokens=ROWS * SEQUENCE_LEN * accumulation * ranks,
        world_size=ranks,
        max_steps=steps,
        **model.rates,
    )
    model.follow(plan)
    return model


def train(
    model: LanguageModel,
    folder: Path,
    *callbacks: Callback,
    logger=False,
    data: RandomRows | None = None,
    ckpt_path: Path | None = None,
    **settings,
) -> Trainer:
    """Train to the planned end and return the Trainer; `settings` are further ones of its."""
    settings = {"accelerator": "cpu", "devices": 1, "precision": "32-true"} | settings
    trainer = Trainer(
        **settings,
        max_epochs=-1,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        default_root_dir=folder,
        logger=logger,
        log_every_n_steps=1,
        plugins=[AtomicCheckpointIO()],
        callbacks=[TokenBudget(), *callbacks],
    )
    trainer.strategy.checkpoint_io.facts = {
        "model": model.gpt_config(SEQUENCE_LEN).to_dict(),
        "world_size": trainer.world_size,
    }
    trainer.fit(model, datamodule=data or RandomRows(), ckpt_path=ckpt_path)
    return trainer
