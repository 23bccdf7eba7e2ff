"""A run that was killed and started again is the run that was never interrupted, to the last bit."""

from __future__ import annotations

import json
import os
import random
import signal
import time

import pytest
from tiny_stage import TinyStage, is_saving

from nanochat_pl.system.run_state import read_state
from nanochat_pl.training.verbs import _arguments_to_go_on

TWO_RANKS = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]


def test_run_killed_twice_equals_the_unbroken_one(stage):
    assert stage.kill_when(lambda _: stage.logged_steps("killed") >= 6, run="killed")
    assert stage.kill_when(lambda _: stage.logged_steps("killed") >= 10, run="killed")
    stage.fit(run="killed")
    assert stage.losses("killed") == stage.losses("unbroken")
    assert stage.weights("killed") == stage.weights("unbroken")
    repeated = [losses for losses in stage.all_losses("killed").values() if len(losses) > 1]
    assert all(len(set(losses)) == 1 for losses in repeated)
    assert len(json.loads((stage.folder("killed") / "environment.json").read_text())["starts"]) == 3


@pytest.mark.parametrize(
    "strategy",
    ["zero", "ddp", "fsdp2"],
)
@pytest.mark.slow
def test_run_with_two_ranks_killed_equals_its_unbroken_one(world_base, strategy):
    stage = TinyStage(world_base, ["--trainer.devices", "2", "--trainer.strategy", strategy])
    run, killed = strategy, f"{strategy}_killed"
    stage.fit(run=run)
    assert stage.kill_when(lambda _: stage.logged_steps(killed) >= 6, run=killed)
    stage.fit(run=killed)
    assert stage.losses(killed) == stage.losses(run)
    assert stage.weights(killed) == stage.weights(run)


@pytest.mark.slow
def test_run_goes_on_under_another_strategy(world_base):
    """Killed under each of the three, continued under the next: the run that DDP alone makes."""
    stage = TinyStage(world_base, ["--trainer.devices", "2"])
    stage.fit("--trainer.strategy", "ddp", run="one_strategy")
    for strategy, step in (("ddp", 5), ("zero", 7), ("fsdp2", 10)):
        assert stage.kill_when(
            lambda _, step=step: stage.logged_steps("strategies") >= step,
            *("--trainer.strategy", strategy),
            run="strategies",
        )
    stage.fit(run="strategies")
    for step, loss in stage.losses("one_strategy").items():
        assert float.fromhex(stage.losses("strategies")[step]) == pytest.approx(float.fromhex(loss), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["zero", "fsdp2"])
def test_compiled_run_with_two_ranks_killed_equals_its_unbroken_one(world_base, strategy):
    stage = TinyStage(world_base, ["--trainer.devices", "2", "--trainer.strategy", strategy], compile=True)
    run, killed = f"compiled_{strategy}", f"compiled_{strategy}_killed"
    stage.fit(run=run)
    assert stage.kill_when(lambda _: stage.logged_steps(killed) >= 6, run=killed)
    stage.fit(run=killed)
    assert stage.losses(killed) == stage.losses(run)
    assert stage.weights(killed) == stage.weights(run)


@pytest.mark.parametrize(
    ("number", "code", "reason"),
    [
        pytest.param(signal.SIGINT, 130, "SIGINT (Ctrl-C)", id="ctrl-c"),
        pytest.param(signal.SIGTERM, 75, "SIGTERM", id="preempted", marks=pytest.mark.slow),
        pytest.param(signal.SIGALRM, 75, "the time limit", id="time limit", marks=pytest.mark.slow),
    ],
)
def test_stopped_run_saves_says_so_and_continues(stage, number, code, reason):
    run = f"stopped_{number}"
    process = stage.start("fit", run=run)
    while stage.logged_steps(run) < 3:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    again = f"python cli.py fit --config {stage.config} --run {run}"
    assert f"stopped by {reason.split()[0]}" in err
    assert err.endswith(f", state saved; run again:\n{again}\n")
    state = read_state(stage.folder(run))
    assert state["reason"] == reason
    assert f"--run {run}" in state["arguments"]
    done = stage.fit(run=run)
    assert f"continuing {run} from step" in done.stderr
    assert stage.losses(run) == stage.losses("unbroken")
    assert stage.weights(run) == stage.weights("unbroken")


@pytest.mark.slow
def test_damaged_checkpoint_is_passed_over_with_a_warning(stage):
    stage.kill_when(lambda run: len(list(run.glob("checkpoints/step_*.json"))) == 2, run="damaged")
    newest = sorted((stage.folder("damaged") / "checkpoints").glob("step_*.ckpt"))[-1]
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    done = stage.fit(run="damaged")
    assert f"{newest.name} does not match its sha256" in done.stderr
    assert stage.losses("damaged") == stage.losses("unbroken")
    assert stage.weights("damaged") == stage.weights("unbroken")


def test_another_model_is_refused_with_the_difference(stage):
    refused = stage.finish("fit", "--model.init_args.depth", "3", run="unbroken")
    assert refused.returncode == 1
    assert "n_layer=2 -> 3" in refused.stderr
    assert refused.stderr.count("\n") <= 3


@pytest.mark.slow
def test_horizon_behind_the_run_is_refused(stage):
    stage.kill_when(lambda run: (run / "checkpoints" / "last.ckpt").exists(), run="beyond")
    refused = stage.finish("fit", "--trainer.max_steps", "2", run="beyond")
    assert refused.returncode == 2
    assert "at step 4 already" in refused.stderr


@pytest.mark.slow
def test_finished_run_says_so_and_fresh_moves_it_aside(stage):
    again = stage.fit(run="unbroken")
    assert "is finished" in again.stderr
    stage.fit("--trainer.max_steps", "2", run="twice")
    stage.fit("--trainer.max_steps", "2", "--fresh", run="twice")
    assert stage.folder("twice.old-1").is_dir()
    assert stage.losses("twice") == stage.losses("twice.old-1")


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_ten_kills_at_random_moments_change_nothing(world_base, ranks, monkeypatch):
    """Temporary files go to another file system, where a rename would be a copy; three kills fall into a save."""
    monkeypatch.setenv("TMPDIR", "/dev/shm")
    stage = TinyStage(world_base, TWO_RANKS if ranks == 2 else [], steps=60, width_per_layer=128)
    stage.fit(run=f"long_{ranks}")
    draw = random.Random(ranks)
    run = f"long_killed_{ranks}"
    for kill in range(10):
        moment = is_saving if kill % 3 == 0 else a_random_moment(stage, run, draw)
        assert stage.kill_when(moment, run=run), f"the run finished after {kill} kills"
    stage.fit(run=run)
    assert stage.losses(run) == stage.losses(f"long_{ranks}")
    assert stage.weights(run) == stage.weights(f"long_{ranks}")


def a_random_moment(stage, run, draw):
    """Return a test for a moment some steps from now, and a little later than its end."""
    step, pause_s = stage.logged_steps(run) + draw.randint(1, 5), draw.random() * 0.2

    def has_come(_):
        if stage.logged_steps(run) < step:
            return False
        time.sleep(pause_s)
        return True

    return has_come


@pytest.mark.slow
def test_compiled_run_killed_equals_the_unbroken_one(world_base):
    stage = TinyStage(world_base, compile=True)
    stage.fit(run="compiled")
    assert stage.kill_when(lambda _: stage.logged_steps("compiled_killed") >= 6, run="compiled_killed")
    stage.fit(run="compiled_killed")
    assert stage.losses("compiled_killed") == stage.losses("compiled")
    assert stage.weights("compiled_killed") == stage.weights("compiled")


@pytest.mark.slow
def test_compiled_runs_on_two_threads_are_equal(world_base):
    """Where two threads add to the gradient of one token's row, the order must not depend on who comes first."""
    stage = TinyStage(world_base, ["--data.init_args.sequence_len", "512"], compile=True, width_per_layer=128)
    two_threads = {"OMP_NUM_THREADS": "2"}
    for run in ("threads_a", "threads_b"):
        stage.fit(
            "--data.init_args.batch_tokens",
            "4096",
            "--data.init_args.device_batch_rows",
            "8",
            run=run,
            env=two_threads,
        )
    assert stage.losses("threads_a") == stage.losses("threads_b")
    assert stage.weights("threads_a") == stage.weights("threads_b")


@pytest.mark.slow
def test_run_goes_on_with_another_number_of_ranks_if_asked_to(world_base):
    two, one = TinyStage(world_base, TWO_RANKS, steps=30), TinyStage(world_base, steps=30)
    assert two.kill_when(lambda _: two.logged_steps("elastic") >= 6, run="elastic")
    refused = one.finish("fit", run="elastic")
    assert refused.returncode == 1
    assert "ranks 2 -> 1" in refused.stderr
    assert "--elastic" in refused.stderr
    assert one.kill_when(lambda _: one.logged_steps("elastic") >= 14, "--elastic", run="elastic")
    done = two.fit("--elastic", run="elastic")
    assert "--elastic: 1 -> 2 rank(s)" in done.stderr
    assert sorted(two.losses("elastic")) == list(range(1, 31))


def test_what_is_noted_to_go_on_with_does_not_start_over():
    args = ["--config", "a b.yaml", "--fresh", "--trainer.devices", "2"]
    assert _arguments_to_go_on(args) == "--config 'a b.yaml' --trainer.devices 2"
