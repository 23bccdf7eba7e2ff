"""StageData: what all stages' DataModules have in common: a tokenizer, batches that resume, fixed validation rows.

A batch carries the position behind it, because the Trainer fetches one batch ahead and a worker several: what
counts is the last batch trained on. Its position is noted when the batch is handed to the step, gathered from all
ranks into the checkpoint, and the same rows follow after a restart. What a position means is the business of the
subclass, and so are the rows.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.util
import signal
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, IterableDataset

from nanochat_pl.data.batch import Batch
from nanochat_pl.model.loss import IGNORED
from nanochat_pl.system.errors import BadInput, Failure, Unfetched
from nanochat_pl.system.ranks import gathered
from nanochat_pl.system.signals import ignore_stop_signals
from nanochat_pl.system.sockets import socket_folder
from nanochat_pl.tokenizer.encoding import Tokenizer

BATCHES_AHEAD = 4


class StageData(LightningDataModule):
    """Batches of rows of T+1 tokens, made while training runs.

    Args:
        tokenizer: name or folder of a tokenizer.
        sequence_len: tokens of a row.
        device_batch_rows: rows of one micro-batch on one device.
        batch_tokens: tokens of one optimizer step over all devices; accumulation follows from it.
        num_workers: 1 makes the batches in a process beside the training, 0 within it.

    Attributes:
        is_chat: whether prompts are a user's messages rather than beginnings of texts.
        config_path: the stage's file, for messages.
        vocab_size: the model's, for messages.
        eval_tokens: validation tokens read each time, over all ranks.
        elastic: whether a checkpoint of another number of ranks may be continued.
        eval_split: "val", or "train" to measure on rows that were trained on, packed like those of validation.
    """

    is_chat = False

    def __init__(
        self,
        *,
        tokenizer: str | None,
        sequence_len: int,
        device_batch_rows: int,
        batch_tokens: int,
        num_workers: int,
    ) -> None:
        super().__init__()
        if num_workers not in (0, 1):
            raise BadInput(
                f"data.init_args.num_workers={num_workers}: one process packs faster than any GPU reads; give 0 or 1"
            )
        self.tokenizer, self.sequence_len = tokenizer, sequence_len
        self.device_batch_rows, self.batch_tokens = device_batch_rows, batch_tokens
        self.num_workers = num_workers
        self.config_path = "configs/d20_base.yaml"
        self.vocab_size = 65536
        self.eval_tokens = 20 * 524288
        self.elastic = False
        self.eval_split: Literal["train", "val"] = "val"
        self.tokenizer_on_disk: Tokenizer | None = None
        self._position: Any = None
        self._validation: tuple[tuple[int, str], list[Batch]] | None = None

    # What a subclass says.

    @property
    def tokenizer_folder(self) -> Path:
        """The folder the tokenizer is read from."""
        raise NotImplementedError

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of what is read, for an artifact's provenance."""
        raise NotImplementedError

    @property
    def fetched_for(self) -> str:
        """What follows `data fetch --for` to bring what this stage, or a test of it, reads."""
        raise NotImplementedError

    def completed(self, failure: Failure) -> Failure:
        """Return a failure with the whole command that mends it, where this stage's file is what it lacked."""
        return failure.for_stage(self.fetched_for) if isinstance(failure, Unfetched) else failure

    def preflight(self) -> tuple[str, ...]:
        """Open everything, so that what is missing is known before anything else happens.

        Returns:
            What a user should hear about the data.

        Raises:
            BadInput: there is nothing of this name.
            Failure: something is missing or damaged.
        """
        raise NotImplementedError

    def planned_rows(self) -> int | None:
        """Return how many rows the run is to read, None where the plan decides."""
        return None

    def shortage(self, shards: int) -> str:
        """Return what to say where fewer shards are here than the plan counts, that of validation among them."""
        return ""

    def identity(self) -> dict[str, Any]:
        """Return what a position depends on; none of it may differ when a run continues."""
        raise NotImplementedError

    def dealt_anew(self, positions: list[Any], ranks: int) -> list[Any]:
        """Return the positions from which `ranks` ranks read what those of the old positions have not."""
        raise NotImplementedError

    def stream(self, start: Any) -> IterableDataset:
        """Return this rank's endless batches from a position on; None is the beginning."""
        raise NotImplementedError

    def validation_batches(self) -> Iterator[Batch]:
        """Yield the batches validation is measured on, `eval_tokens` in all."""
        raise NotImplementedError

    def prompt_ids(self, prompt: str) -> list[int]:
        """Return the ids of a prompt that a model of this stage continues."""
        raise NotImplementedError

    def tell(self, position: Any) -> None:
        """Say, once, what the user should know of a position: nothing unless a subclass says so."""

    # What Lightning calls.

    def setup(self, stage: str) -> None:
        """Open everything, unless `preflight` did."""
        if self.tokenizer_on_disk is None:
            self.preflight()

    def train_dataloader(self) -> DataLoader:
        """Return the endless batches of this rank, from the restored position on."""
        if self.num_workers:
            multiprocessing.util.Finalize(None, _kill_workers, exitpriority=100)
        return DataLoader(
            self.stream(self._position),
            batch_size=None,
            num_workers=self.num_workers,
            prefetch_factor=BATCHES_AHEAD if self.num_workers else None,
            worker_init_fn=partial(_begin_worker, socket_folder() if self.num_workers else ""),
            pin_memory=self.trainer.strategy.root_device.type == "cuda",
            generator=torch.Generator(),  # its own: a loader draws a number when it starts
        )

    def val_dataloader(self) -> DataLoader:
        """Return this rank's part of the validation rows; each time the same."""
        key = (self.eval_tokens, self.eval_split)
        if self._validation is None or self._validation[0] != key:
            batches = list(self.validation_batches())
            self._validation = (
                key,
                part_of_rank(batches, self.trainer.global_rank, self.trainer.world_size),
            )
        return DataLoader(self._validation[1], batch_size=None, generator=torch.Generator())

    def on_before_batch_transfer(self, batch: Batch | Failure, dataloader_idx: int) -> Batch:
        """Note the position of the batch about to be trained on, and take it off the batch.

        Raises:
            Failure: what the packing met instead of this batch.
        """
        if isinstance(batch, Failure):
            raise batch
        if batch.position is not None:
            self._position = batch.position
            if self.trainer.global_rank == 0:
                self.tell(batch.position)
        return batch._replace(position=None)

    def state_dict(self) -> dict[str, Any]:
        """Return the position of every rank and what they are positions in."""
        return {"data": self._identity(), "positions": gathered(self._position)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue behind the last batch trained on.

        Raises:
            Failure: the checkpoint's positions are not positions in this data; both values are shown.
        """
        saved, now = state_dict["data"], self._identity()
        changes = [key for key in now if saved.get(key) != now[key]]
        shown = ", ".join(f"{key} {saved.get(key)} -> {now[key]}" for key in changes)
        positions = state_dict["positions"]
        if changes == ["ranks"]:
            if not self.elastic:
                refuse_other_ranks(saved["ranks"], now["ranks"])
            positions = self._elastic(positions, now["ranks"])
        elif changes:
            raise Failure(
                f"the checkpoint continues other data than this: {shown}\n"
                "Restore these values to continue, or add --fresh to start over (the old run is moved aside)."
            )
        self._position = positions[self.trainer.global_rank]

    def _elastic(self, positions: list[Any], ranks: int) -> list[Any]:
        """Deal anew, and say so."""
        if any(position is None for position in positions):
            return [None] * ranks  # nothing was read yet
        dealt = self.dealt_anew(positions, ranks)
        if self.trainer.global_rank == 0:
            waiting = sum(len(position["redealt"]["backlog"]) for position in dealt)
            print(
                f"--elastic: {len(positions)} -> {ranks} rank(s); {waiting} waiting documents are dealt anew, "
                "later ones by turns",
                file=sys.stderr,
            )
        return dealt

    def _identity(self) -> dict[str, Any]:
        return {
            "ranks": self.trainer.world_size,
            "tokenizer": self.tokenizer_on_disk.fingerprint[:12],
            **self.identity(),
        }


def refuse_other_ranks(saved: int, now: int) -> None:
    """Raise Failure unless a run goes on with as many ranks as its checkpoint has positions of."""
    if saved != now:
        raise Failure(
            f"the checkpoint is of {saved} rank(s), this start has {now}: ranks {saved} -> {now}\n"
            f"Start it on {saved}, or add --elastic to deal what is left to read to {now};\n"
            "from there on it is another run than one that never changed, and reads every document once still."
        )


def part_of_rank(batches: list[Batch], rank: int, world_size: int) -> list[Batch]:
    """Return a rank's batches of a list dealt in turns; where there are fewer than for others, one without targets."""
    mine = batches[rank::world_size]
    if len(mine) < -(-len(batches) // world_size):
        mine.append(batches[0]._replace(targets=torch.full_like(batches[0].targets, IGNORED)))
    return mine


class FailureInPlace(IterableDataset):
    """Batches, and in the place of one that cannot be made the `Failure` that prevents it.

    (An exception raised in a worker would reach the user as a traceback.)
    """

    def __iter__(self) -> Iterator[Batch | Failure]:
        try:
            yield from self.batches()
        except Failure as failure:
            yield failure

    def batches(self) -> Iterator[Batch]:
        """Yield batches without end."""
        raise NotImplementedError


def _kill_workers() -> None:
    """End the workers of a process that ends by an exception.

    Python would send them SIGTERM, which they ignore, and then wait for them for ever.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # the loader's would raise an error for each
    for worker in multiprocessing.active_children():
        worker.kill()


def _begin_worker(folder: str, worker: int) -> None:
    """Leave stop signals to the run, and meet it where a socket can be named."""
    ignore_stop_signals()
    tempfile.tempdir = folder
