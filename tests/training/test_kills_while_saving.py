"""Killed with -9 at any moment of a save, a run continues from the last save that was completed, and not from less.

The training of each trial is a fork of this process, so that a trial costs a second and not the imports' ten.
"""

from __future__ import annotations

import os
import random
import select
import signal
import time
import traceback
import warnings
from pathlib import Path

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import Checkpoint
from tiny_trainer import tiny_module, train

from nanochat_pl.system.files import remove_leftovers
from nanochat_pl.system.receipts import newest_valid
from nanochat_pl.training.callbacks.exact_resume import ExactResume
from nanochat_pl.training.callbacks.step_checkpoint import StepCheckpoint

MANY_STEPS = 900
MEMORY_FILES = Path("/dev/shm")


class Reporter(Checkpoint):
    """Tell the parent, behind the save, that a step's checkpoint is complete."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe

    def on_train_start(self, trainer, pl_module):
        os.write(self.pipe, b"started %d\n" % trainer.global_step)

    def on_train_batch_end(self, trainer, *args):
        os.write(self.pipe, b"saved %d\n" % trainer.global_step)


class Resumed(Callback):
    """Keep what was resumed from, so that a child can be told from one that began anew."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_start(self, trainer, pl_module):
        assert trainer.global_step == self.step, (trainer.global_step, self.step)


def train_in_a_fork(folder: Path, ckpt_path: Path | None, step: int) -> tuple[int, int]:
    """Start training in a child; return its number and the pipe it reports through."""
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        return child, reading
    code = 1
    try:
        warnings.simplefilter("ignore")  # this data has no position: the rows are the first again
        os.close(reading)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        model = tiny_module(steps=MANY_STEPS, aspect_ratio=96)
        callbacks = (StepCheckpoint(every_n_steps=1), ExactResume(), Resumed(step), Reporter(writing))
        train(model, folder, *callbacks, ckpt_path=ckpt_path)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def last_reported(pipe: int, kind: bytes, default: int, *, until_s: float) -> int:
    """Return the last number reported of a kind within a time; at once, the first of it, if there is none yet."""
    deadline, buffer, last = time.monotonic() + until_s, b"", default
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([pipe], [], [], left)[0]:
            break
        if not (data := os.read(pipe, 4096)):
            break
        buffer += data
        numbers = [int(line.split()[1]) for line in buffer.split(b"\n")[:-1] if line.startswith(kind)]
        last = numbers[-1] if numbers else last
    return last


def is_writing(folder: Path) -> bool:
    return any(folder.glob(".step_*.tmp"))


def kill_again_and_again(folder: Path, kills: int, draw: random.Random) -> dict[str, int]:
    """Kill and continue; return how often a save was cut short, and the last step."""
    saves_cut, newest = 0, 0
    checkpoints = folder / "checkpoints"
    for _ in range(kills):
        found = newest_valid(checkpoints) if checkpoints.exists() else None
        receipt = found.receipt if found else None
        child, pipe = train_in_a_fork(folder, receipt and receipt.path, receipt.step if receipt else 0)
        completed = last_reported(pipe, b"saved", newest, until_s=0.0)
        while completed == newest:  # at least one step further
            alive, _ = os.waitpid(child, os.WNOHANG)
            assert alive == 0, f"the resume at step {newest} failed"
            completed = last_reported(pipe, b"saved", newest, until_s=0.05)
        wait_for_a_save(checkpoints, draw)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL
        completed = last_reported(pipe, b"saved", completed, until_s=0.2)
        os.close(pipe)
        saves_cut += is_writing(checkpoints)
        receipt = newest_valid(checkpoints).receipt
        assert receipt is not None, "no checkpoint is left"
        assert receipt.step >= completed, (
            f"step {receipt.step} is older than the completed save at {completed}"
        )
        remove_leftovers(checkpoints)
        assert not is_writing(checkpoints)
        newest = receipt.step
    return {"saves_cut": saves_cut, "steps": newest}


def wait_for_a_save(folder: Path, draw: random.Random) -> None:
    """Return at a random moment of a save; every fourth time at a random moment of anything."""
    if draw.random() < 0.75:
        deadline = time.monotonic() + 10
        while not is_writing(folder) and time.monotonic() < deadline:
            time.sleep(0.0002)
        time.sleep(draw.random() * 0.02)
    else:
        time.sleep(draw.random() * 0.3)


@pytest.fixture(params=["disk", "memory"])
def file_systems(request, tmp_path, tmp_path_factory, monkeypatch):
    """A folder for the run on one file system, with TMPDIR on another."""
    if not MEMORY_FILES.is_dir():
        pytest.skip("/dev/shm is not here: no second file system")
    in_memory = MEMORY_FILES / f"nanochat_pl_{os.getpid()}_{request.param}"
    in_memory.mkdir()
    run, temporary = (tmp_path, in_memory) if request.param == "disk" else (in_memory, tmp_path)
    monkeypatch.setenv("TMPDIR", str(temporary))
    assert os.stat(run).st_dev != os.stat(temporary).st_dev
    yield run
    for path in sorted(in_memory.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    in_memory.rmdir()


def test_three_kills_while_saving_lose_nothing(file_systems):
    kill_again_and_again(file_systems, 3, random.Random(0))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_hundred_kills_while_saving_lose_nothing(file_systems):
    result = kill_again_and_again(file_systems, 100, random.Random(1))
    print(result)
    assert result["saves_cut"] > 30
