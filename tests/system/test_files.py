"""A file is complete or absent."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys

import pytest

from nanochat_pl.system.files import (
    append_json_line,
    atomic_write,
    remove_leftovers,
    sha256_of,
    temporary_beside,
    write_json,
    write_together,
)


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


def test_line_is_appended_whole_or_not_at_all(tmp_path):
    path = tmp_path / "lines.jsonl"
    append_json_line(path, {"step": 1})
    room = path.stat().st_size + 20
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        with pytest.raises(OSError):
            append_json_line(path, {"step": 2, "text": "x" * 100})
        with pytest.raises(OSError):
            append_json_line(path, {"step": 3, "text": "x" * 100})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    append_json_line(path, {"step": 4})
    assert path.read_text() == '{"step": 1}\n{"step": 4}\n'


def test_files_written_together_are_all_old_or_all_new(tmp_path, monkeypatch):
    write_together(tmp_path, {"a": "1", "b": "1"})

    def full(path):
        if ".b." in path.name:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("nanochat_pl.system.files.force_to_disk", full)
    with pytest.raises(OSError, match="No space"):
        write_together(tmp_path, {"a": "2", "b": "2"})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "1", "b": "1"}
