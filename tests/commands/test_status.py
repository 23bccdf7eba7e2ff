"""Where a run stands is told from its files: while it runs, after its end, and after whatever ended it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import cli
from nanochat_pl.commands import status
from nanochat_pl.system import run_state, signals
from nanochat_pl.system.errors import Failure, RunAgain
from nanochat_pl.system.files import append_json_line, write_json
from nanochat_pl.system.run_lock import WRITTEN_BYTES, lock_path, this_process
from nanochat_pl.system.run_state import read_state, recorded

CONFIG = "configs/d20_base.yaml"


@pytest.fixture
def run(base_dir) -> Path:
    """The folder of a run that stands at step 120 of 400, with a checkpoint of step 100."""
    folder = base_dir / "runs" / "d20_base"
    write_json(folder / "plan.json", {"steps": 400, "batch_tokens": 1000})
    for step in (110, 120):
        facts = {"step": step, "time": time.time(), "train/loss": 3.25, "train/tokens_per_s": 2000.0}
        append_json_line(folder / "metrics" / "train.jsonl", facts)
    checkpoint = folder / "checkpoints" / "step_00000100.ckpt"
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(b"0" * 64)
    facts = {"step": 100, "bytes": 64, "sha256": "", "model": {}, "world_size": 1, "time": time.time() - 90}
    write_json(checkpoint.with_suffix(".json"), facts)
    return folder


def hold(run: Path, pid: int, **facts) -> None:
    """Write the sign of life of a process of this machine."""
    holder = this_process()._replace(pid=pid, beat=3, time=time.time(), **facts)
    if pid != os.getpid():
        holder = holder._replace(
            started=int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
        )
    lock_path(run).write_text(json.dumps(holder._asdict()).ljust(WRITTEN_BYTES))


def facts(capsys, run="d20_base") -> dict:
    assert cli.main(["status", run, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def started_and_killed(run: Path, **facts) -> None:
    """Leave behind what a run leaves that was killed with -9."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    run_state.begin(run, CONFIG)
    hold(run, process.pid, **facts)
    process.kill()
    process.communicate()


def test_running_run(run, capsys):
    run_state.begin(run, CONFIG)
    hold(run, os.getpid())
    found = facts(capsys)
    assert (found["state"], found["step"], found["steps"]) == ("running", 120, 400)
    assert (found["loss"], found["tokens_per_s"], found["eta_s"]) == (3.25, 2000.0, 140.0)
    assert found["checkpoint"]["step"] == 100
    assert found["checkpoint"]["problem"] is None
    assert found["process"]["alive"]
    cli.main(["status", "d20_base"])
    text = capsys.readouterr().out
    assert "120 of 400 (30.0%)" in text
    assert "0:02:20" in text
    assert "step 100, 0:01:30 old" in text or "step 100, 0:01:31 old" in text


def test_all_runs_in_a_table(run, capsys):
    cli.main(["status"])
    header, line = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["run", "state", "step"]
    assert line.split()[0] == "d20_base"


def test_no_run_at_all(base_dir, capsys):
    assert cli.main(["status"]) == 0
    assert "no run yet" in capsys.readouterr().out
    assert not base_dir.exists()


@pytest.mark.parametrize("name", ["", ".", "..", "../runs", "d20_base/metrics"])
def test_what_is_no_name_of_a_run_is_refused(run, capsys, name):
    assert cli.main(["status", name]) == 2
    assert "there is no such run" in capsys.readouterr().err


def test_unknown_run_is_answered_with_a_suggestion(run, capsys):
    assert cli.main(["status", "d20_bsae"]) == 2
    err = capsys.readouterr().err
    assert "Did you mean d20_base?" in err
    assert err.count("\n") <= 3


@pytest.mark.parametrize(
    ("error", "state", "code", "reason"),
    [
        (None, "done", 0, None),
        (RunAgain("rank 1 was killed\nmore"), "stopped", 75, "rank 1 was killed"),
        (Failure("disk full\nmore"), "failed", 1, "disk full"),
        (KeyError("x"), "failed", 1, "KeyError: 'x'"),
        (KeyboardInterrupt(), "stopped", 130, "SIGINT (Ctrl-C)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_how_a_run_ended(run, capsys, error, state, code, reason):
    def work():
        with recorded(run, CONFIG):
            if error:
                raise error

    if error:
        with pytest.raises(type(error)):
            work()
    else:
        work()
    found = facts(capsys)
    assert (found["state"], found["exit_code"], found["reason"]) == (state, code, reason)
    assert found["config"] == CONFIG


def test_starts_are_counted(run, capsys, monkeypatch):
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    for _ in range(3):
        with recorded(run, CONFIG):
            pass
    assert (facts(capsys)["starts"], facts(capsys)["restarts"]) == (3, 2)


def test_killed_run_is_told_from_a_running_one_and_what_to_do(run, capsys):
    started_and_killed(run, memory_share=0.2)
    found = facts(capsys)
    assert (found["state"], found["exit_code"]) == ("killed", 137)
    assert "killed without a word" in found["reason"]
    assert found["eta_s"] is None
    cli.main(["status", "d20_base"])
    text = capsys.readouterr().out
    assert f"python cli.py fit --config {CONFIG} --run d20_base\n" in text
    assert "--mem" not in text  # nothing speaks for a lack of memory


def test_command_of_the_last_start_is_the_one_that_continues(run, capsys):
    run_state.begin(run, CONFIG, "--config a.yaml --run d20_base --trainer.devices 2")
    cli.main(["status", "d20_base"])
    assert "python cli.py fit --config a.yaml --run d20_base --trainer.devices 2\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (signal.SIGTERM, "SIGTERM"),
        (signal.SIGUSR1, "SIGUSR1"),
        (signal.SIGALRM, "the time limit"),
        (signal.SIGINT, "SIGINT (Ctrl-C)"),
        (signals.STOP_FILE, "the file STOP"),
    ],
)
def test_what_stopped_a_run_is_shown(run, capsys, number, reason):
    with recorded(run, CONFIG) as record:
        record.exit_code, record.reason = signals.exit_code(number), run_state.reason_of_stop(number)
    cli.main(["status", "d20_base"])
    assert f"stopped (exit code {record.exit_code}): {reason}\n" in capsys.readouterr().out


@pytest.mark.parametrize("evidence", ["memory", "counter", "kernel log"])
def test_out_of_memory_killer_is_recognised(run, capsys, monkeypatch, evidence):
    monkeypatch.setattr(status, "out_of_memory_kills", lambda: 5)
    monkeypatch.setattr(run_state, "out_of_memory_kills", lambda: 4 if evidence == "counter" else 5)
    monkeypatch.setattr(status, "_kernel_log_names", lambda pid: evidence == "kernel log")
    started_and_killed(run, memory_share=0.97 if evidence == "memory" else 0.3)
    found = facts(capsys)
    assert found["exit_code"] == 137
    assert "out of memory" in found["reason"]
    cli.main(["status", "d20_base"])
    assert "--data.init_args.device_batch_rows" in capsys.readouterr().out


def test_kernels_log_is_read(monkeypatch, tmp_path):
    dmesg = tmp_path / "dmesg"
    dmesg.write_text("#!/bin/sh\necho '[12.3] Out of memory: Killed process 4242 (python) total-vm:1kB'\n")
    dmesg.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert status._kernel_log_names(4242)
    assert not status._kernel_log_names(424)


def test_queue_is_asked_for_a_runs_job(run, capsys, monkeypatch, tmp_path):
    squeue = tmp_path / "squeue"
    squeue.write_text("#!/bin/sh\necho 'PENDING BeginTime'\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    with recorded(run, CONFIG) as record:
        record.exit_code = 75
    assert facts(capsys)["queue"] == "PENDING BeginTime"


def test_damaged_checkpoint_and_half_a_line_of_numbers(run, capsys):
    (run / "checkpoints" / "step_00000100.ckpt").write_bytes(b"0" * 63)
    with (run / "metrics" / "train.jsonl").open("a") as file:
        file.write('{"step": 130, "tr')
    found = facts(capsys)
    assert found["step"] == 120
    assert found["checkpoint"]["problem"] == "has 63 bytes instead of 64"


RECEIPT = "checkpoints/step_00000100.json"


@pytest.mark.parametrize(
    ("file", "content", "cell"),
    [
        ("plan.json", "[]", "120 of ?"),
        ("plan.json", '{"steps": "x"}', "120 of ?"),
        ("plan.json", "{", "120 of ?"),
        (RECEIPT, "[]", "?"),
        (RECEIPT, '{"step": "x", "bytes": 64, "sha256": "", "model": {}, "world_size": 1}', "?"),
        ("metrics/train.jsonl", '{"step": "x", "train/loss": 3.25}\n', "3.2500"),
        ("metrics/train.jsonl", '{"step": 120, "train/loss": "x"}\n', "?"),
        ("metrics/train.jsonl", "[]\n", "?"),
        ("state.json", '{"state": "failed", "exit_code": "x", "config": "c.yaml"}', "failed (?)"),
        ("state.json", '{"state": 3, "starts": "x", "config": []}', "unknown (?)"),
        ("../.d20_base.lock", json.dumps(this_process()._replace(pid="x")._asdict()), "-"),
    ],
)
def test_a_damaged_file_costs_its_own_cell(run, capsys, file, content, cell):
    (run.parent / "sound").mkdir()
    (run / file).write_text(content)
    assert cli.main(["status"]) == 0
    rows = {row.split()[0]: re.split(" {2,}", row) for row in capsys.readouterr().out.splitlines()}
    assert "sound" in rows
    assert cell in rows["d20_base"]
    assert cli.main(["status", "d20_base"]) == 0
    assert ("damaged" in capsys.readouterr().out) == (not file.endswith("lock"))


def test_stacks_of_the_watchdog_are_named(run, capsys):
    (run / "stacks").mkdir()
    (run / "stacks" / "rank_00000.txt").write_text("")
    (run / "stacks" / "rank_00001.txt").write_text("Thread 0x1")
    assert facts(capsys)["stacks"] == [str(run / "stacks" / "rank_00001.txt")]


def test_empty_folder_is_a_run_of_which_nothing_is_known(base_dir, capsys):
    (base_dir / "runs" / "new").mkdir(parents=True)
    found = facts(capsys, "new")
    assert (found["state"], found["step"], found["steps"]) == ("unknown", 0, None)
    cli.main(["status", "new"])


def test_what_cannot_be_written_ends_no_run(tmp_path, monkeypatch):
    def full(path, value):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_state, "write_json", full)
    with recorded(tmp_path, CONFIG):
        pass
    assert read_state(tmp_path) == {}
