"""A file is complete or absent."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nanochat_pl.system.errors import Failure
from nanochat_pl.system.files import (
    atomic_write,
    hold_lock,
    remove_leftovers,
    sha256_of,
    temporary_beside,
    write_json,
)

ROOT = Path(__file__).resolve().parents[2]


def test_failed_write_leaves_the_old_file_and_no_temporary(tmp_path):
    target = tmp_path / "a.json"
    write_json(target, {"old": 1})

    def fail_half_way():
        with atomic_write(target) as temporary:
            temporary.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail_half_way()
    assert target.read_text() == '{\n "old": 1\n}\n'
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_temporary_lies_in_the_folder_of_its_target(tmp_path):
    assert temporary_beside(tmp_path / "a").parent == tmp_path


def test_sha256_is_that_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_leftovers_of_dead_processes_go_and_those_of_the_living_stay(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / f".a.{dead.pid}.tmp").touch()
    (tmp_path / f".a.{os.getppid()}.tmp").touch()
    (tmp_path / ".notes.tmp").touch()
    assert [path.name for path in remove_leftovers(tmp_path)] == [f".a.{dead.pid}.tmp"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [f".a.{os.getppid()}.tmp", ".notes.tmp"]
    )


def test_lock_keeps_others_out_until_the_process_is_dead(tmp_path):
    path = tmp_path / "run.lock"
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom nanochat_pl.system.files import hold_lock\n"
        "lock = hold_lock(Path(sys.argv[1]))\nprint('held', flush=True)\ntime.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(Failure, match=f"process {holder.pid} is at work"):
        hold_lock(path)
    holder.kill()
    holder.communicate()
    hold_lock(path).close()


def test_a_place_that_cannot_be_written_to_is_told_with_a_remedy(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        Failure, match=r"file/runs: cannot be written to: Not a directory\n.*NANOCHAT_BASE_DIR"
    ):
        hold_lock(tmp_path / "file" / "runs" / ".x.lock")
