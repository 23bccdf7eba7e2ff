"""Checkpoints are complete or absent, verified before use, and a bad one is passed over for an older one."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys

import pytest
import torch

from nanochat_pl.system import files
from nanochat_pl.system.errors import Failure
from nanochat_pl.system.receipts import checkpoint_path, newest_valid, receipt_path, receipts
from nanochat_pl.training import checkpoint_io
from nanochat_pl.training.checkpoint_io import (
    AtomicCheckpointIO,
    point_last_at,
    refuse_other_model,
    require_free_space,
)

MODEL = {"n_layer": 2, "n_embd": 32}


@pytest.fixture
def io():
    io = AtomicCheckpointIO()
    io.facts = {"model": MODEL, "world_size": 1}
    return io


@pytest.fixture
def folder(tmp_path, io):
    """A run with checkpoints at steps 10, 20 and 30."""
    for step in (10, 20, 30):
        save(io, tmp_path, step)
    return tmp_path


def save(io, folder, step):
    path = checkpoint_path(folder, step)
    io.save_checkpoint({"global_step": step, "weights": torch.full((50_000,), float(step))}, path)
    return path


def test_checkpoint_comes_back_equal_and_without_running_code(io, tmp_path):
    path = save(io, tmp_path, 7)
    loaded = io.load_checkpoint(path)
    assert loaded["global_step"] == 7
    assert torch.equal(loaded["weights"], torch.full((50_000,), 7.0))
    torch.save({"global_step": 1, "code": os.system}, path)
    with pytest.raises(Exception, match=r"[Ww]eights.?only"):
        io.load_checkpoint(path)


def test_receipt_tells_step_size_digest_and_model(folder):
    newest = receipts(folder)[0]
    assert (newest.step, newest.model, newest.world_size) == (30, MODEL, 1)
    assert newest.bytes == newest.path.stat().st_size
    assert newest.sha256 == files.sha256_of(newest.path)


@pytest.mark.parametrize("place", [0, 1000, 100_000, -1], ids=["first", "early", "middle", "last"])
def test_one_flipped_byte_makes_the_older_checkpoint_the_newest_valid_one(folder, place):
    path = checkpoint_path(folder, 30)
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    found = newest_valid(folder)
    assert found.receipt.step == 20
    assert found.rejected == ("step_00000030.ckpt does not match its sha256",)


def test_cut_short_or_unreceipted_checkpoints_are_passed_over(folder):
    cut = checkpoint_path(folder, 30)
    cut.write_bytes(cut.read_bytes()[:-1])
    receipt_path(checkpoint_path(folder, 20)).write_text("{")
    found = newest_valid(folder)
    assert found.receipt.step == 10
    assert len(found.rejected) == 2


def test_folder_without_any_valid_checkpoint_has_none(tmp_path):
    assert newest_valid(tmp_path) == (None, ())


def test_full_disk_keeps_the_error_and_leaves_the_older_ones_alone(io, folder, monkeypatch):
    class FullDisk:
        def __init__(self, file):
            self.file, self.room = file, 100_000

        def write(self, data):
            self.room -= len(data)
            if self.room < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.file.write(data)

        def flush(self):
            self.file.flush()

    real = checkpoint_io._HashingFile
    monkeypatch.setattr(checkpoint_io, "_HashingFile", lambda file: real(FullDisk(file)))
    path = save(io, folder, 40)
    assert io.error.errno == errno.ENOSPC
    assert not path.exists()
    assert not list(folder.glob(".*"))
    assert newest_valid(folder).receipt.step == 30
    monkeypatch.undo()
    save(io, folder, 40)
    assert io.error is None
    assert newest_valid(folder).receipt.step == 40


def test_error_that_is_not_the_disks_is_not_swallowed(io, tmp_path):
    with pytest.raises(Exception, match="pickle"):
        io.save_checkpoint({"global_step": 1, "bad": (n for n in ())}, checkpoint_path(tmp_path, 1))
    assert not list(tmp_path.iterdir())


def test_kill_during_a_save_leaves_only_what_the_next_start_sweeps_away(folder):
    program = (
        "import os, signal, sys, torch\n"
        "from pathlib import Path\n"
        "from nanochat_pl.training import checkpoint_io as c\n"
        "from nanochat_pl.system.receipts import checkpoint_path\n"
        "class Dying(c._HashingFile):\n"
        "    def write(self, data):\n"
        "        super().write(data)\n"
        "        if self.bytes > 100_000: os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return len(data)\n"
        "c._HashingFile = Dying\n"
        "folder = Path(sys.argv[1])\n"
        "state = {'global_step': 40, 'w': torch.ones(10**6)}\n"
        "c.AtomicCheckpointIO().save_checkpoint(state, checkpoint_path(folder, 40))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)], cwd=files.__file__.split("nanochat_pl")[0], check=False
    )
    assert done.returncode == -9
    assert len(list(folder.glob(".step_00000040.ckpt.*.tmp"))) == 1
    assert newest_valid(folder).receipt.step == 30
    assert len(files.remove_leftovers(folder)) == 1
    assert not list(folder.glob(".*"))


def test_last_points_at_what_it_was_told_also_when_it_did_before(folder):
    for step in (20, 30):
        point_last_at(checkpoint_path(folder, step))
        assert (folder / "last.ckpt").resolve() == checkpoint_path(folder, step).resolve()


def test_removed_checkpoint_takes_its_receipt_along(io, folder):
    io.remove_checkpoint(checkpoint_path(folder, 10))
    assert [receipt.step for receipt in receipts(folder)] == [30, 20]
    assert not receipt_path(checkpoint_path(folder, 10)).exists()


def test_other_model_is_refused_with_both_values(folder):
    receipt = receipts(folder)[0]
    refuse_other_model(receipt, MODEL)
    with pytest.raises(Failure, match="n_embd=32 -> 64, n_layer=2 -> 3"):
        refuse_other_model(receipt, {"n_layer": 3, "n_embd": 64})


def test_too_little_space_is_refused_before_anything_is_made(tmp_path):
    folder = tmp_path / "runs" / "new" / "checkpoints"
    require_free_space(folder, 1000)
    with pytest.raises(Failure, match="two checkpoints need"):
        require_free_space(folder, 10**18)
    assert not folder.exists()


def test_receipt_is_json_for_people_too(folder):
    facts = json.loads(receipt_path(checkpoint_path(folder, 30)).read_text())
    assert set(facts) == {"step", "bytes", "sha256", "time", "model", "world_size"}
