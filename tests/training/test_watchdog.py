"""A hang is noticed wherever it is, nothing else is taken for one, and the stacks say where."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from socket import socket

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import Checkpoint
from tiny_stage import TinyStage
from tiny_trainer import RandomRows, tiny_module, train

from nanochat_pl.system.errors import BadInput
from nanochat_pl.system.run_state import read_state
from nanochat_pl.training.callbacks import watchdog
from nanochat_pl.training.callbacks.watchdog import PAUSE, START, STEP, Watch, Watchdog
from nanochat_pl.training.lost_rank import how_it_ended
from nanochat_pl.training.stacks import Stacks, forget_request, stacks_path

TIMEOUT_S, PATIENCE_S = 2.0, 60.0


@pytest.fixture
def hangs(monkeypatch):
    """What the watchdog would have ended the process for, first to last."""
    reasons: list[str | None] = []
    monkeypatch.setattr(watchdog, "GRACE_S", 0.1)
    monkeypatch.setattr(watchdog, "_leave_hanging", lambda trainer, ranks, why: reasons.append(why))
    return reasons


class At(Callback):
    """Do something in one of Lightning's hooks, after every step or after one of them."""

    def __init__(self, hook: str, act, step: int | None = None) -> None:
        def hooked(trainer, *args, **kwargs):
            if step is None or trainer.global_step == step:
                act()

        setattr(self, hook, hooked)


class AtCheckpoint(At, Checkpoint):
    """Lightning calls a checkpoint's hooks behind all others."""


class Rows(RandomRows):
    """A loader that does something at every batch."""

    def __init__(self, act) -> None:
        super().__init__()
        self.act = act

    def train_dataloader(self):
        for batch in super().train_dataloader():
            self.act()
            yield batch


def watched(folder, dog, *callbacks, data=None):
    return train(tiny_module(steps=8), folder, dog, *callbacks, dog.behind, data=data)


@pytest.mark.parametrize(
    ("hook", "kind", "phase"),
    [
        ("on_train_start", At, START),
        ("on_before_backward", At, STEP),
        ("on_before_optimizer_step", At, STEP),
        ("on_train_batch_end", At, PAUSE),
        ("on_train_batch_end", AtCheckpoint, PAUSE),
        ("on_fit_end", At, PAUSE),
    ],
)
def test_steps_are_told_from_what_happens_between_them(tmp_path, hook, kind, phase):
    seen, dog = [], Watchdog(timeout_s=300, pause_timeout_s=1000)
    note = lambda: seen.append((dog._watch._phase, dog._watch.limit_s))  # noqa: E731
    callback = kind(hook, note)
    train(tiny_module(steps=4), tmp_path, dog, callback, dog.behind)
    assert seen[-1] == (phase, 300 if phase is STEP else 1000)
    assert not (tmp_path / "stacks").exists()


def test_waiting_for_a_batch_is_part_of_a_step(tmp_path):
    seen, dog = [], Watchdog()
    watched(tmp_path, dog, data=Rows(lambda: seen.append(dog._watch._phase)))
    assert seen[0] is START
    assert seen[-1] is STEP


def until(reasons):
    """Return a function that hangs until the watchdog has noticed."""

    def hang_here():
        deadline = time.monotonic() + PATIENCE_S
        while not reasons and time.monotonic() < deadline:
            time.sleep(0.05)

    return hang_here


@pytest.mark.parametrize("hook", ["on_before_backward", "on_train_batch_end"])
def test_hang_is_noticed_and_its_place_written_down(tmp_path, hangs, hook):
    dog = Watchdog(timeout_s=TIMEOUT_S, pause_timeout_s=2 * TIMEOUT_S)
    watched(tmp_path, dog, At(hook, until(hangs), step=4))
    assert hangs[0].startswith("no progress for ")
    assert "hang_here" in stacks_path(tmp_path, 0).read_text()


def test_switched_off_it_only_looks_after_the_ranks(tmp_path, hangs):
    dog = Watchdog(timeout_s=0, pause_timeout_s=0.1)
    watched(tmp_path, dog, At("on_train_batch_end", lambda: time.sleep(1), step=4))
    assert hangs == []


def test_limit_follows_the_median_of_the_steps(tmp_path):
    watch = Watch(
        Stacks(tmp_path, 0),
        None,
        step=int,
        on_hang=print,
        on_loss=print,
        timeout_s=300,
        pause_timeout_s=9,
        others=[],
    )
    assert watch.limit_s == 9
    watch.enter(STEP)
    assert watch.limit_s == 300
    watch.seconds.extend([50.0, 60.0, 1000.0])
    assert watch.limit_s == 600
    watch._stacks.close()


class Clock:
    """Monotonic time that leaps once by a suspension, and an event that ends the thread after some ticks."""

    def __init__(self, tick_s: float, leap_s: float) -> None:
        self.ticks, self.tick_s, self.leap_s = 0, tick_s, leap_s

    def monotonic(self) -> float:
        return self.ticks * self.tick_s + (self.leap_s if self.ticks > 3 else 0)

    def wait(self, seconds: float) -> bool:
        self.ticks += 1
        return self.ticks > 8


@pytest.mark.parametrize(("tick_s", "alarmed"), [(1.0, False), (2.0, True)])
def test_time_in_which_the_process_was_suspended_does_not_count(tmp_path, monkeypatch, tick_s, alarmed):
    """The second case shows that the first could fail: as many ticks, but more time awake."""
    seen = []

    class Nobody:
        def noticed(self):
            return None

    watch = Watch(
        Stacks(tmp_path, 0),
        Nobody(),
        step=int,
        on_hang=seen.append,
        on_loss=print,
        timeout_s=10,
        pause_timeout_s=10,
        others=[],
    )
    assert watch._phase == START
    clock = Clock(tick_s, leap_s=20.0)
    watch._tick_s, watch._over = tick_s, clock
    monkeypatch.setattr(watchdog.time, "monotonic", clock.monotonic)
    watch.run()
    watchdog.faulthandler.cancel_dump_traceback_later()
    assert bool(seen) == alarmed
    watch._stacks.close()


def test_request_of_one_rank_is_answered_by_another_and_forgotten_at_the_next_start(tmp_path, hangs):
    other = Stacks(tmp_path, 1)
    assert other.ask_all("no progress on rank 1")
    assert not other.ask_all("again")
    watched(tmp_path, Watchdog(), At("on_before_backward", until(hangs)))
    assert hangs[0] is None  # it is rank 1 that tells why
    assert "hang_here" in stacks_path(tmp_path, 0).read_text()
    forget_request(tmp_path)
    assert not other.is_asked_for
    other.close()


def test_signal_writes_the_stacks_at_any_time(tmp_path):
    stacks = Stacks(tmp_path, 0)
    os.kill(os.getpid(), signal.SIGUSR2)
    assert "test_signal_writes_the_stacks_at_any_time" in stacks.path.read_text()
    stacks.close()


@pytest.mark.parametrize("settings", [{"timeout_s": -1}, {"pause_timeout_s": 0}])
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(BadInput, match="watchdog"):
        Watchdog(**settings)


@pytest.mark.parametrize(
    ("code", "words", "exit_code"),
    [
        (-9, "rank 2 was killed by SIGKILL, as the out-of-memory killer does", 75),
        (-11, "rank 2 was killed by SIGSEGV", 75),
        (75, "rank 2 ended with exit code 75", 75),
        (1, "rank 2 ended with exit code 1", 1),
    ],
)
def test_what_needs_mending_is_told_from_what_may_run_again(code, words, exit_code):
    loss = how_it_ended(2, code)
    assert (loss.words, loss.exit_code) == (words, exit_code)


def rank_1_of(process) -> int:
    """Return the process that runs as rank 1."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return next(int(pid) for pid in children if "LOCAL_RANK=1" in Path(f"/proc/{pid}/environ").read_text())


def started(stage: TinyStage, run: str):
    """Start a stage and wait for its third step."""
    process = stage.start("fit", run=run)
    while stage.logged_steps(run) < 3:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    return process


def last_words(err: str) -> list[str]:
    """Return what was said from the error on."""
    return err[err.index("error: ") :].splitlines()


@pytest.mark.slow
def test_second_job_is_refused_and_a_killed_rank_ends_the_others_with_a_clear_word(world_base):
    options = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
    stage = TinyStage(world_base, options, steps=100_000)
    process = started(stage, "killed_rank")
    second = stage.finish("fit", run="killed_rank")
    assert second.returncode == 1
    assert f"process {process.pid} on " in second.stderr
    assert "is at work there already" in second.stderr
    assert len(last_words(second.stderr)) <= 3
    os.kill(rank_1_of(process), signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75
    said = last_words(err)
    assert said[0].startswith("error: rank 1 was killed by SIGKILL")
    assert said[1].startswith("The same command continues from ")
    assert len(said) == 2
    state = read_state(stage.folder("killed_rank"))
    assert (state["state"], state["exit_code"]) == ("stopped", 75)
    assert "rank 1 was killed" in state["reason"]


@pytest.mark.slow
def test_ranks_that_cannot_meet_leave_nobody_waiting(world_base):
    stage = TinyStage(world_base, ["--trainer.devices", "2", "--trainer.strategy", "ddp"])
    with socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        process = stage.start("fit", run="port", env={"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port})
        _, err = process.communicate(timeout=60)  # a rank that still waited would hold the pipe open
    assert process.returncode == 1
    said = last_words(err)
    assert f"127.0.0.1:{port}: the port is in use" in said[0]
    assert said[1].startswith("unset MASTER_PORT for a free one")
    assert len(said) == 2


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_rank_that_sleeps_is_found_by_the_other(world_base, rank):
    options = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--watchdog.timeout_s", "10"]
    stage = TinyStage(world_base, options, steps=100_000)
    run = f"asleep_{rank}"
    process = started(stage, run)
    ranks = [process.pid, rank_1_of(process)]
    os.kill(ranks[rank], signal.SIGSTOP)
    if rank == 0:  # nobody but rank 1 is awake to end; rank 0 finds it gone when it wakes up
        deadline = time.monotonic() + 60
        while not stacks_path(stage.folder(run), 1).stat().st_size and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(watchdog.GRACE_S + 2)
        os.kill(process.pid, signal.SIGCONT)
    _, err = process.communicate(timeout=90)
    assert process.returncode == 75, err
    assert "no progress for " in err
    assert len(last_words(err)) <= 6 if rank == 0 else 3


@pytest.mark.slow
def test_whole_run_suspended_for_twice_the_limit_goes_on(world_base):
    stage = TinyStage(world_base, ["--watchdog.timeout_s", "10"], steps=400)
    process = started(stage, "suspended")
    os.killpg(process.pid, signal.SIGSTOP)
    time.sleep(20)
    os.killpg(process.pid, signal.SIGCONT)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
