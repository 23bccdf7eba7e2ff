"""A disk that fills up while a run is at work: the last good checkpoint is never lost.

A real file system of the memory, made as small as needed; only root may mount one, so others skip this.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import subprocess
from pathlib import Path

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import Checkpoint
from tiny_trainer import tiny_module, train

from nanochat_pl.system.errors import Failure
from nanochat_pl.system.receipts import newest_valid
from nanochat_pl.training.callbacks.step_checkpoint import StepCheckpoint
from nanochat_pl.training.checkpoint_io import MARGIN_BYTES, require_free_space
from nanochat_pl.training.loggers import MetricsFiles, RunTensorBoard

SIZES = 20
STEPS = 8
WIDTH = 96


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", disk], check=False)
    if mounted.returncode:
        pytest.skip("only root may mount a small file system")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


class Filler(Callback):
    """Before a step, leave `room` bytes free; others fill disks at any time."""

    def __init__(self, disk: Path, room: int, at_step: int = 1) -> None:
        self.disk, self.room, self.at_step = disk, room, at_step

    def on_train_batch_start(self, trainer, *args):
        if trainer.global_step == self.at_step:
            facts = os.statvfs(self.disk)
            with (self.disk / "ballast").open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, max(1, facts.f_bavail * facts.f_frsize - self.room))


class Witness(Checkpoint):
    """Behind every save: the newest valid checkpoint never gets older, and once there is one, there is one."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_train_batch_end(self, trainer, *args):
        receipt = newest_valid(Path(trainer.default_root_dir) / "checkpoints").receipt
        self.steps.append(receipt.step if receipt else 0)
        assert self.steps == sorted(self.steps)


class ThreeFailed(Exception):
    """The one failure that a full disk may end in."""


class Saving(StepCheckpoint):
    """Tells the end after three failed saves from any other."""

    def save(self, trainer):
        try:
            return super().save(trainer)
        except Failure as failure:
            said = str(failure)
            if "3 times in a row" in said and len(said.splitlines()) <= 3:
                raise ThreeFailed from failure
            raise


def train_on(disk: Path, *callbacks: Callback, **settings) -> Witness:
    """Save every step on a disk; return what was there after each, whether or not the run came to its end."""
    witness = Witness()
    model = tiny_module(steps=STEPS, width_per_layer=WIDTH)
    with contextlib.suppress(ThreeFailed):
        train(model, disk / "run", Saving(every_n_steps=1), *callbacks, witness, **settings)
    return witness


@pytest.fixture(scope="module")
def checkpoint_bytes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("size")
    train(tiny_module(steps=1, width_per_layer=WIDTH), folder, StepCheckpoint())
    return newest_valid(folder / "checkpoints").receipt.bytes


@pytest.mark.parametrize("size", range(SIZES))
def test_disk_of_any_size_keeps_the_last_good_checkpoint(small_disk, checkpoint_bytes, size):
    """From no room to that of two checkpoints, left after the first was saved."""
    room = 2 * checkpoint_bytes * size // (SIZES - 1)
    witness = train_on(small_disk, Filler(small_disk, room))
    assert witness.steps[0] == 1
    receipt = newest_valid(small_disk / "run" / "checkpoints").receipt
    assert receipt.step >= witness.steps[-1] >= 1
    if room > checkpoint_bytes + 2 * MARGIN_BYTES:
        assert receipt.step == STEPS, "there was room for another; the older ones had to make it"


def test_run_goes_on_when_there_is_room_again(small_disk, checkpoint_bytes):
    class Cleaner(Callback):
        def on_train_batch_start(self, trainer, *args):
            if trainer.global_step == 3:
                (small_disk / "ballast").unlink(missing_ok=True)

    witness = train_on(small_disk, Filler(small_disk, 0), Cleaner())
    assert witness.steps == [1, 1, 1, 4, 5, 6, 7, 8]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_metrics_that_find_no_room_end_no_run(small_disk, checkpoint_bytes, capsys):
    class Logs(Callback):
        def on_train_batch_end(self, trainer, *args):
            for logger in trainer.loggers:
                logger.log_metrics({"train/loss": 1.0, "note": "x" * 5000}, step=trainer.global_step)
                logger.save()

    run = small_disk / "run"
    loggers = [MetricsFiles(run), RunTensorBoard(run)]
    model = tiny_module(steps=6, width_per_layer=WIDTH)
    trainer = train(model, run, Filler(small_disk, 0), Logs(), logger=loggers)
    assert trainer.global_step == 6
    said = capsys.readouterr().err
    assert re.search(r"train.jsonl: step \d not written \(No space left on device\); training goes on", said)
    assert said.count("not written") <= 2  # of each logger the first; the others are counted


def test_room_for_what_is_still_to_come_is_enough(tmp_path, checkpoint_bytes, monkeypatch):
    """Two checkpoints must fit; where some lie already, a run may be continued with less."""
    folder = tmp_path / "checkpoints"
    train(tiny_module(steps=2, width_per_layer=WIDTH), tmp_path, StepCheckpoint(every_n_steps=1))
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("nanochat_pl.training.checkpoint_io.shutil.disk_usage", lambda path: usage)
    require_free_space(folder, checkpoint_bytes)
    with pytest.raises(Failure, match="two checkpoints need"):
        require_free_space(tmp_path / "elsewhere", checkpoint_bytes)


def test_a_curve_that_finds_no_room_is_said_to_be_lost(tmp_path, monkeypatch, capsys):
    """Lightning calls any error of the writer a value that cannot be drawn."""

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    logger = RunTensorBoard(tmp_path)
    monkeypatch.setattr(logger.experiment, "add_scalar", full)
    for step in range(3, 40):
        logger.log_metrics({"train/loss": 1.0}, step=step)
    (said,) = capsys.readouterr().err.splitlines()
    assert "TensorBoard: step 3 not written (No space left on device)" in said
    assert logger._refusals._unsaid == 36
