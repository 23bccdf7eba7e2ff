"""Saves happen at step boundaries, old ones are pruned, a full disk does not end a run at once."""

from __future__ import annotations

import errno
import os

import pytest
from lightning.pytorch import Callback
from tiny_trainer import tiny_module, train

from nanochat_pl.system.errors import BadInput, Failure
from nanochat_pl.system.receipts import receipts
from nanochat_pl.training import checkpoint_io
from nanochat_pl.training.callbacks.cadence import is_due
from nanochat_pl.training.callbacks.step_checkpoint import StepCheckpoint


def saved_steps(folder) -> list[int]:
    return sorted(receipt.step for receipt in receipts(folder / "checkpoints"))


@pytest.mark.parametrize("accumulation", [1, 3])
def test_newest_are_kept_and_the_last_step_is_saved(tmp_path, accumulation):
    train(tiny_module(steps=11, accumulation=accumulation), tmp_path, StepCheckpoint(every_n_steps=2, keep=3))
    assert saved_steps(tmp_path) == [8, 10, 11]
    assert (tmp_path / "checkpoints" / "last.ckpt").resolve().name == "step_00000011.ckpt"


@pytest.mark.parametrize("never", [0, -1])
def test_switched_off_it_still_saves_the_end(tmp_path, never):
    train(tiny_module(steps=3), tmp_path, StepCheckpoint(every_n_steps=never))
    assert saved_steps(tmp_path) == [3]


def test_fewer_than_two_are_refused():
    with pytest.raises(BadInput, match="at least 2"):
        StepCheckpoint(keep=1)


class FullDisk(Callback):
    """Let the saves after some steps fail."""

    def __init__(self, steps: set[int], monkeypatch, number: int = errno.ENOSPC) -> None:
        real = checkpoint_io._write

        def write(checkpoint, path):
            if checkpoint["global_step"] in steps:
                raise OSError(number, os.strerror(number))
            return real(checkpoint, path)

        monkeypatch.setattr(checkpoint_io, "_write", write)


def test_failed_saves_leave_the_older_ones_and_training_goes_on(tmp_path, monkeypatch, capsys):
    train(
        tiny_module(steps=8), tmp_path, StepCheckpoint(every_n_steps=1), FullDisk({3, 4, 6, 7}, monkeypatch)
    )
    assert saved_steps(tmp_path) == [5, 8]
    assert capsys.readouterr().err.count("checkpoint not saved") == 4  # each is said


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_third_failed_save_in_a_row_ends_the_run_and_loses_nothing(tmp_path, monkeypatch, number):
    full = FullDisk({4, 5, 6}, monkeypatch, number)
    with pytest.raises(Failure, match=rf"3 times in a row: .*{os.strerror(number)}") as refused:
        train(tiny_module(steps=9), tmp_path, StepCheckpoint(every_n_steps=1), full)
    _first, remedy, *rest = str(refused.value).splitlines()
    assert "df -h" in remedy
    assert "quota -s" in remedy
    assert len(rest) <= 1
    assert saved_steps(tmp_path) == [2, 3]


@pytest.mark.parametrize(
    ("every", "due"), [(4, [4, 8, 10]), (1, list(range(1, 11))), (100, [10]), (0, []), (-1, [])]
)
def test_due_at_the_interval_and_at_the_end_and_never_when_off(every, due):
    assert [step for step in range(1, 11) if is_due(every, step, 10)] == due
