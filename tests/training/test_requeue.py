"""Asked to stop, a run ends its step, saves, and only then has the scheduler run it again."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from lightning.pytorch import Callback
from tiny_stage import TinyStage
from tiny_trainer import tiny_module, train

from nanochat_pl.system import signals, slurm
from nanochat_pl.system.errors import BadInput
from nanochat_pl.system.receipts import checkpoint_path, receipts
from nanochat_pl.training.callbacks.cadence import Periodic, agreed_stop
from nanochat_pl.training.callbacks.requeue import Requeue
from nanochat_pl.training.callbacks.step_checkpoint import StepCheckpoint
from nanochat_pl.training.lightning_cli import seconds_of

pytestmark = pytest.mark.filterwarnings("ignore:.*your dataloader is not resumable")


@pytest.fixture(autouse=True)
def _signals_as_before():
    yield
    signals.forget()


class Noted(Callback):
    """Pretend that a stop was asked for in the backward pass after some step."""

    def __init__(self, step: int, number: int = signal.SIGTERM) -> None:
        self.step, self.number = step, number

    def on_before_backward(self, trainer, pl_module, loss):
        if trainer.global_step == self.step:
            signals.note(self.number)


def saved_steps(folder: Path) -> list[int]:
    return sorted(receipt.step for receipt in receipts(folder / "checkpoints"))


def test_run_stops_at_the_end_of_the_step_the_signal_came_in(tmp_path):
    requeue = Requeue()
    trainer = train(
        tiny_module(steps=20, accumulation=2), tmp_path, Noted(4), requeue, StepCheckpoint(every_n_steps=100)
    )
    assert trainer.global_step == 5
    assert saved_steps(tmp_path) == [5]
    assert requeue.stopped_by == signal.SIGTERM


def test_stop_asked_for_before_the_first_step_takes_none(tmp_path):
    signals.note(signal.SIGUSR1)
    requeue = Requeue()
    trainer = train(tiny_module(steps=20), tmp_path, requeue, StepCheckpoint())
    assert (trainer.global_step, requeue.stopped_by) == (0, signal.SIGUSR1)
    assert saved_steps(tmp_path) == []


class WritesStopFile(Callback):
    """Somebody types `touch STOP` while a step is computed."""

    def on_before_backward(self, trainer, pl_module, loss):
        if trainer.global_step == 2:
            (Path(trainer.default_root_dir) / "STOP").touch()


def test_file_stop_is_obeyed_and_the_next_start_removes_it(tmp_path, monkeypatch):
    monkeypatch.setattr("nanochat_pl.training.callbacks.requeue.SECONDS_BETWEEN_LOOKS", 0.0)
    requeue = Requeue()
    assert train(tiny_module(6), tmp_path, WritesStopFile(), requeue, StepCheckpoint()).global_step == 3
    assert signals.exit_code(requeue.stopped_by) == signals.INTERRUPTED
    assert (tmp_path / "STOP").exists()
    signals.forget()
    resumed = train(
        tiny_module(6),
        tmp_path,
        Requeue(),
        StepCheckpoint(),
        ckpt_path=tmp_path / "checkpoints" / "last.ckpt",
    )
    assert resumed.global_step == 6
    assert not (tmp_path / "STOP").exists()


def test_time_limit_stops_the_run(tmp_path):
    signals.listen()
    requeue = Requeue()
    requeue.max_time_s = 0.3
    trainer = train(tiny_module(steps=100_000), tmp_path, requeue, StepCheckpoint())
    assert saved_steps(tmp_path) == ([trainer.global_step] if trainer.global_step else [])
    assert requeue.stopped_by == signal.SIGALRM


def test_margin_counts_back_from_the_end_of_the_job(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_END_TIME", "1000")
    assert Requeue(margin_s=120)._seconds_left(now=500.0) == 380.0
    assert Requeue(margin_s=0)._seconds_left(now=500.0) is None
    monkeypatch.delenv("SLURM_JOB_END_TIME")
    assert Requeue()._seconds_left(now=500.0) is None


def test_lightnings_limit_is_read_and_nonsense_refused():
    assert seconds_of("00:11:30:00") == 11.5 * 3600
    assert seconds_of({"minutes": 2}) == 120
    assert seconds_of(None) is None
    with pytest.raises(BadInput, match=r"max_time=12h: give DD:HH:MM:SS"):
        seconds_of("12h")
    with pytest.raises(BadInput, match=r"requeue\.max_restarts=-1"):
        Requeue(max_restarts=-1)


# Looking at the model gives way to a stop, and is made up for.


class Look(Periodic):
    """Count the looks; in one of them, a stop is asked for."""

    at_first = True

    def __init__(self, every_n_steps: int, signal_at: int | None = None) -> None:
        super().__init__(every_n_steps)
        self.signal_at, self.seen = signal_at, []

    def act(self, trainer, module):
        if trainer.global_step == self.signal_at:
            signals.note(signal.SIGUSR1)
        if agreed_stop(trainer):
            return False
        self.seen.append(trainer.global_step)
        return True


@pytest.mark.parametrize("asked", ["before", "meanwhile"])
@pytest.mark.parametrize("step", [0, 3, 7])
def test_look_that_gave_way_is_made_up_for_when_the_run_continues(tmp_path, step, asked):
    first = Look(3, signal_at=step if asked == "meanwhile" else None)
    stop = [Noted(step - 1, signal.SIGUSR1)] if asked == "before" and step else []
    if asked == "before" and step == 0:
        signals.note(signal.SIGUSR1)
    stopped = train(tiny_module(7), tmp_path, *stop, first, Requeue(), StepCheckpoint())
    assert stopped.global_step == step
    signals.forget()
    resume = checkpoint_path(tmp_path / "checkpoints", step) if step else None
    second = Look(3)
    trainer = train(tiny_module(7), tmp_path, second, Requeue(), StepCheckpoint(), ckpt_path=resume)
    assert trainer.global_step == 7
    assert first.seen + second.seen == [0, 3, 6, 7]


def test_resumed_run_does_not_look_twice(tmp_path):
    train(tiny_module(7), tmp_path, Look(3), Requeue(), StepCheckpoint(every_n_steps=3, keep=5))
    again = Look(3)
    train(
        tiny_module(7),
        tmp_path,
        again,
        Requeue(),
        StepCheckpoint(),
        ckpt_path=checkpoint_path(tmp_path / "checkpoints", 6),
    )
    assert again.seen == [7]


# Under SLURM.


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """A job, and a `scontrol` that notes how it was called and which checkpoints lay there at that time."""
    program = tmp_path / "bin" / "scontrol"
    program.parent.mkdir()
    program.write_text(
        f"""#!/bin/bash
echo "$@" $(ls {tmp_path}/checkpoints 2>/dev/null | grep json) >> {tmp_path}/calls
if [[ $1 == --oneliner ]]; then echo "JobId=17 JobState=$(cat {tmp_path}/state) Reason=None"; fi
"""
    )
    program.chmod(0o755)
    (tmp_path / "state").write_text("RUNNING")
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    return SimpleNamespace(
        state=tmp_path / "state",
        requeues=lambda: (
            [line for line in (tmp_path / "calls").read_text().splitlines() if line.startswith("requeue")]
            if (tmp_path / "calls").exists()
            else []
        ),
    )


def stopped_run(folder: Path, number: int = signal.SIGUSR1, **settings) -> None:
    train(tiny_module(9), folder, Noted(3, number), Requeue(**settings), StepCheckpoint())


def test_job_is_put_back_after_its_state_is_saved(tmp_path, scontrol, capsys):
    stopped_run(tmp_path)
    assert scontrol.requeues() == ["requeue 17 step_00000004.json"]
    assert "job 17 requeued (restarts so far: 0)" in capsys.readouterr().err


def test_task_of_an_array_is_called_by_its_array(tmp_path, scontrol, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    stopped_run(tmp_path, signal.SIGTERM)
    assert [line.split()[1] for line in scontrol.requeues()] == ["12_3"]


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("ctrl-c", "SIGINT asked for a stop"),
        ("file", "the file STOP asked for a stop"),
        ("cap", "it was restarted 5 times, requeue.max_restarts=5"),
        ("off", "requeue.enabled=false"),
        ("scancel", "it was cancelled"),
    ],
)
def test_job_is_not_put_back(tmp_path, scontrol, monkeypatch, capsys, case, reason):
    monkeypatch.setenv("SLURM_RESTART_COUNT", "5")
    scontrol.state.write_text("CANCELLED" if case == "scancel" else "RUNNING")
    number = {"ctrl-c": signal.SIGINT, "file": signals.STOP_FILE}.get(case, signal.SIGTERM)
    stopped_run(tmp_path, number, enabled=case != "off", max_restarts=5 if case == "cap" else 100)
    assert scontrol.requeues() == []
    assert f"job 17 is not put back into the queue: {reason}" in capsys.readouterr().err
    assert saved_steps(tmp_path) == [4]


def test_job_that_slurm_requeues_by_itself_is_left_alone(tmp_path, scontrol):
    scontrol.state.write_text("PENDING")
    stopped_run(tmp_path, signal.SIGTERM)
    assert scontrol.requeues() == []


def test_run_that_ends_is_not_put_back(tmp_path, scontrol):
    train(tiny_module(2), tmp_path, Requeue(), StepCheckpoint())
    assert scontrol.requeues() == []


@pytest.mark.parametrize(
    ("silent", "waits", "refused"),
    [(2, 2, False), (5, 4, False), (99, 4, True)],
    ids=["for two tries", "until it is asked to requeue", "for good"],
)
def test_controller_that_does_not_answer_is_asked_again(tmp_path, scontrol, silent, waits, refused):
    program = tmp_path / "bin" / "scontrol"
    answers = program.read_text().replace(
        "#!/bin/bash\n",
        f"#!/bin/bash\necho >> {tmp_path}/asked\n"
        f"(($(wc -l < {tmp_path}/asked) > {silent})) || {{ echo no contact >&2; exit 1; }}\n",
    )
    program.write_text(answers)
    waited: list[float] = []
    refusal = slurm.put_back(slurm.Job("17", 0, None), sleep=waited.append)
    assert refusal == ("scontrol: no contact" if refused else None)
    assert len(scontrol.requeues()) == (0 if refused else 1)
    assert waited == [10.0] * waits


def test_job_that_slurm_has_ended_is_not_called_requeued(tmp_path, scontrol):
    scontrol.state.write_text("TIMEOUT")
    assert slurm.put_back(slurm.Job("17", 0, None)) == "SLURM has ended it: TIMEOUT"


def test_without_scontrol_the_reason_is_told(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert "scontrol" in slurm.put_back(slurm.Job("17", 0, None))


# Whole runs.


def test_two_ranks_agree_on_a_signal_only_one_of_them_got(world_base):
    stage = TinyStage(world_base, ["--trainer.devices", "2", "--trainer.strategy", "ddp"])
    process = stage.start("fit", run="agreed")
    while stage.logged_steps("agreed") < 3:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    os.kill(child_of(process.pid), signal.SIGUSR1)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 75, err
    assert "stopped by SIGUSR1" in err
    step = saved_steps(stage.folder("agreed"))[-1]
    assert f"at step {step}, state saved" in err


def child_of(pid: int) -> int:
    """Return the process id of rank 1."""
    (children,) = Path(f"/proc/{pid}/task").glob(f"{pid}/children")
    for child in map(int, children.read_text().split()):
        if b"cli.py" in Path(f"/proc/{child}/cmdline").read_bytes() and is_rank_1(child):
            return child
    raise AssertionError("rank 1 is not there")


def is_rank_1(pid: int) -> bool:
    return b"LOCAL_RANK=1" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
