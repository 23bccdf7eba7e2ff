"""One process at a time in a run's folder: within a machine by the kernel, between machines by signs of life."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nanochat_pl.system import run_lock
from nanochat_pl.system.errors import Failure
from nanochat_pl.system.run_lock import Holder, hold_lock, holder_of, is_at_work, lock_path, this_process

ROOT = Path(__file__).resolve().parents[2]
QUICK = {"stale_s": 0.5, "beat_s": 0.1}
PROGRAM = (
    "import sys, time\nfrom pathlib import Path\nfrom nanochat_pl.system.run_lock import hold_lock\n"
    "lock = hold_lock(Path(sys.argv[1]), beat_s=0.1)\nprint('held', flush=True)\ntime.sleep(60)"
)


@pytest.fixture
def path(tmp_path):
    return lock_path(tmp_path / "d20")


@pytest.fixture
def holder(path):
    """A process that holds the lock, as job 77 of SLURM."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(path)],
        cwd=ROOT,
        env=os.environ | {"SLURM_JOB_ID": "77"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def elsewhere(**facts) -> Holder:
    """Return a holder on another machine."""
    return this_process()._replace(host="node07", boot="another", pid=4242, job="123", **facts)


def write(path: Path, holder: Holder) -> None:
    """Write a holder into the lock's file as its process would."""
    path.write_text(json.dumps(holder._asdict()).ljust(run_lock.WRITTEN_BYTES))


def test_second_is_refused_with_job_process_and_machine_and_what_to_do(path, holder):
    with pytest.raises(Failure) as refused:
        hold_lock(path)
    said = str(refused.value)
    assert f"d20: job 77, process {holder.pid} on {this_process().host} is at work there" in said
    assert "scancel 77" in said
    assert len(said.splitlines()) <= 3


def test_a_dead_process_of_this_machine_is_followed_at_once(path, holder):
    holder.kill()
    holder.wait()
    began = time.monotonic()
    with hold_lock(path):
        assert holder_of(path) is None or holder_of(path).pid == os.getpid()
    assert time.monotonic() - began < 5


def test_a_regular_end_leaves_no_name(path):
    hold_lock(path).close()
    assert holder_of(path) is None
    assert path.exists()


def test_a_holder_elsewhere_that_gives_signs_of_life_is_not_disturbed(path):
    write(path, elsewhere())
    program = (
        "import json, sys, time\n"
        "for beat in range(100):\n"
        "    facts = json.load(open(sys.argv[1])) | {'beat': beat}\n"
        "    open(sys.argv[1], 'r+').write(json.dumps(facts).ljust(1024))\n"
        "    time.sleep(0.1)"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(path)])
    try:
        with pytest.raises(Failure, match="job 123, process 4242 on node07") as refused:
            hold_lock(path, stale_s=5)
    finally:
        process.kill()
        process.wait()
    assert f"rm {path}" in str(refused.value)
    assert len(str(refused.value).splitlines()) <= 3


def test_a_silent_holder_elsewhere_is_taken_over_after_a_while_and_named(path, capsys):
    write(path, elsewhere())
    began = time.monotonic()
    hold_lock(path, **QUICK).close()
    assert time.monotonic() - began > QUICK["stale_s"]
    said = capsys.readouterr().err
    assert "job 123, process 4242 on node07 was at work here; waiting" in said
    assert "taken over" in said


def test_the_same_job_started_again_by_slurm_does_not_wait_for_itself(path, monkeypatch, capsys):
    write(path, elsewhere(restarts=1))
    monkeypatch.setenv("SLURM_JOB_ID", "123")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    hold_lock(path).close()
    assert "waiting" not in capsys.readouterr().err


@pytest.mark.parametrize("how", ["another name", "removed"])
def test_whoever_finds_another_in_its_place_ends_at_once(path, holder, how):
    if how == "removed":
        path.unlink()
    else:
        write(path, elsewhere())
    _, err = holder.communicate(timeout=30)
    assert holder.returncode == 1
    assert "taken over by" in err
    assert len(err.splitlines()) <= 3


def test_without_locks_of_the_file_system_the_process_itself_is_asked_for(path, holder, monkeypatch):
    def unsupported(*args):
        raise OSError(run_lock.errno.ENOLCK, "no locks")

    monkeypatch.setattr(run_lock.fcntl, "lockf", unsupported)
    with pytest.raises(Failure, match="job 77"):
        hold_lock(path, stale_s=10)
    holder.kill()
    holder.wait()
    hold_lock(path).close()


def test_signs_of_life_tell_whether_a_holder_is_at_work(path, holder):
    assert is_at_work(holder_of(path))
    holder.kill()
    holder.wait()
    assert not is_at_work(holder_of(path))
    assert is_at_work(elsewhere(time=time.time() - 5))
    assert not is_at_work(elsewhere(time=time.time() - 500))


def test_damaged_file_holds_nobody_back(path):
    path.write_text("{half of a")
    hold_lock(path).close()


def test_a_place_that_cannot_be_written_to_is_told_with_a_remedy(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        Failure, match=r"file/runs: cannot be written to: Not a directory\n.*NANOCHAT_BASE_DIR"
    ):
        hold_lock(tmp_path / "file" / "runs" / ".x.lock")
