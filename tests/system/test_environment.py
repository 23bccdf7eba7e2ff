"""What a run notes of code and machine when it starts: facts where there are some, never an error, nothing private."""

from __future__ import annotations

import getpass
import json
import shutil
import socket
import subprocess

import pytest

from nanochat_pl.system.environment import (
    ROOT,
    code_facts,
    dollars_per_gpu_hour,
    environment,
    git_facts,
    record_start,
)

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A small checkout with one commit."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    folder = tmp_path / "checkout"
    (folder / "inner").mkdir(parents=True)
    (folder / "a.py").write_text("x = 1\ny = 2\n")
    (folder / "data.bin").write_bytes(b"\0" * 100)
    name = ("-c", "user.name=A", "-c", "user.email=a@b.c")
    for words in (
        ("init", "-q", "-b", "trunk"),
        ("add", "."),
        (*name, "commit", "-qm", "First line\n\nMore"),
    ):
        subprocess.run(["git", "-C", folder, *words], check=True)
    return folder


@needs_git
def test_a_checkout_is_named_by_commit_branch_message_and_changes(checkout):
    facts = git_facts(checkout)
    assert (facts["branch"], facts["message"], facts["dirty"]) == ("trunk", "First line", False)
    assert len(facts["commit"]) >= 7
    (checkout / "a.py").write_text("x = 2\n")
    assert git_facts(checkout)["dirty"] is True


@needs_git
def test_tracked_source_is_counted_and_a_deleted_file_is_no_error(checkout):
    assert code_facts(checkout) == {"files": 1, "lines": 2, "characters": 12}
    (checkout / "a.py").unlink()
    assert code_facts(checkout) == {"files": 0, "lines": 0, "characters": 0}


@needs_git
def test_a_folder_within_somebody_elses_checkout_has_no_commit(checkout, tmp_path):
    assert git_facts(checkout / "inner") is None
    assert git_facts(tmp_path / "nowhere") is None


def test_without_git_nothing_is_known_and_nothing_fails(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    facts = environment("cpu", 1)
    assert facts["git"] is None
    assert facts["code"] is None
    assert facts["versions"]["torch"]


def test_a_git_that_hangs_is_given_up(monkeypatch, tmp_path):
    slow = tmp_path / "git"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr("nanochat_pl.system.environment.GIT_TIMEOUT_S", 0.2)
    assert git_facts(tmp_path) is None


def test_facts_are_json_and_name_neither_host_nor_user_nor_path():
    facts = environment("cpu", 2)
    text = json.dumps(facts | {"git": None})
    assert (facts["device"], facts["devices"], facts["dollars_per_gpu_hour"]) == ("cpu", 2, None)
    assert facts["cpus"] > 0
    assert facts["memory_bytes"] > 2**28
    assert set(facts["versions"]) == {"python", "torch", "lightning", "nanochat_pl"}
    assert not {"host", "hostname", "user"} & set(facts)
    assert str(ROOT) not in text
    words = set(text.replace(chr(34), " ").replace(",", " ").split())
    assert socket.gethostname() not in words
    assert getpass.getuser() not in words


@pytest.mark.parametrize(
    ("name", "price"),
    [
        ("NVIDIA H100 80GB HBM3", 3.00),
        ("NVIDIA A100-SXM4-40GB", 1.79),
        ("Tesla V100-SXM2-16GB", 0.55),
        ("NVIDIA L4", 2.00),
    ],
)
def test_prices_are_those_of_nanochats_report(name, price):
    assert dollars_per_gpu_hour(name) == price


@pytest.mark.parametrize("before", [None, "", "{", "[]", '{"starts": 3}', '{"other": 1}'])
def test_every_start_is_added_and_a_damaged_file_begins_anew(tmp_path, before):
    path = tmp_path / "runs" / "a" / "environment.json"
    if before is not None:
        path.parent.mkdir(parents=True)
        path.write_text(before)
    record_start(path, {"time": 1})
    record_start(path, {"time": 2})
    assert json.loads(path.read_text()) == {"starts": [{"time": 1}, {"time": 2}]}
