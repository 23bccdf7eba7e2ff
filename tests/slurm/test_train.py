"""A job that is stopped, requeued and killed, again and again, is the job that was never touched."""

from __future__ import annotations

import os
import random
import signal
from itertools import cycle

import pytest
from slurm.cluster import ask, ended, facts, release, state, wait_for
from slurm.site import processes_of

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(7200)]
REQUEUES = int(os.environ.get("REQUEUES", "20"))
OPTIONS = ("--trainer.strategy", "ddp")
PATIENCE_S = 600


@pytest.fixture(scope="module")
def long_stage(site):
    """A stage of many short steps, and its run `unbroken` under srun."""
    stage = site.stage(steps=60 * REQUEUES)
    job = site.submit("train.sbatch", str(stage.config), "--run", "unbroken", *OPTIONS)
    wait_for(lambda: ended(job), PATIENCE_S, "the unbroken job")
    assert state(job) == "COMPLETED", site.log(job)
    return stage


def wait_for_step(stage, run, job, step):
    """Wait until a run is that far; the job must be alive."""

    def is_there():
        release(job)
        assert not ended(job), f"{state(job)} before step {step}"
        return stage.logged_steps(run) >= step and state(job) == "RUNNING" and len(processes_of(run)) == 2

    wait_for(is_there, PATIENCE_S, f"step {step}")


def restarts(job):
    return int(facts(job).get("Restarts", "-1"))


def kill_a_rank(job, run):
    os.kill(random.choice(processes_of(run)), signal.SIGKILL)


def warn(job, run):
    ask("scancel", "--signal=USR1", job)


def requeue(job, run):
    ask("scontrol", "requeue", job)


def test_twenty_requeues_in_a_row_change_nothing(site, long_stage):
    run = "requeued"
    job = site.submit("train.sbatch", str(long_stage.config), "--run", run, *OPTIONS)
    for stop in cycle((warn, requeue, kill_a_rank)):
        before = restarts(job)
        if before >= REQUEUES:
            break
        wait_for_step(long_stage, run, job, long_stage.logged_steps(run) + random.randint(2, 12))
        stop(job, run)
        wait_for(lambda before=before: restarts(job) > before, PATIENCE_S, f"requeue {before + 1}")
    wait_for(lambda: ended(job), PATIENCE_S, "the end")
    assert state(job) == "COMPLETED", site.log(job)
    # Released early, a start can meet the `srun` of the one before, which ends the step of its number: one more.
    assert REQUEUES <= restarts(job) <= REQUEUES + 2
    assert long_stage.losses(run) == long_stage.losses("unbroken")
    assert long_stage.weights(run) == long_stage.weights("unbroken")
    repeated = [losses for losses in long_stage.all_losses(run).values() if len(losses) > 1]
    assert all(len(set(losses)) == 1 for losses in repeated)
    log = site.log(job)
    assert log.count("stopped by SIGUSR1") >= 1
    assert log.count("back into the queue") >= 1
    assert "Traceback" not in log.replace("Connection closed by peer", "")


def test_cancelled_job_saves_and_stays_cancelled(site, long_stage):
    job = site.submit("train.sbatch", str(long_stage.config), "--run", "cancelled", *OPTIONS)
    wait_for_step(long_stage, "cancelled", job, 3)
    ask("scancel", job)
    wait_for(lambda: ended(job), PATIENCE_S, "the end")
    wait_for(lambda: not processes_of("cancelled"), PATIENCE_S, "the processes to leave")
    assert state(job) == "CANCELLED"
    assert list((long_stage.folder("cancelled") / "checkpoints").glob("step_*.json"))


@pytest.mark.parametrize("how", ["ctrl-c", "file"])
def test_person_s_stop_is_not_requeued(site, long_stage, how):
    run = f"stopped_{how}"
    job = site.submit("train.sbatch", str(long_stage.config), "--run", run, *OPTIONS)
    wait_for_step(long_stage, run, job, 3)
    if how == "file":
        (long_stage.folder(run) / "STOP").touch()
    else:
        ask("scancel", "--signal=INT", job)
    wait_for(lambda: ended(job), PATIENCE_S, "the end")
    assert (state(job), facts(job)["Restarts"], facts(job)["ExitCode"]) == ("FAILED", "0", "130:0"), site.log(
        job
    )
    assert "state saved" in site.log(job)


def test_bad_input_is_never_requeued(site, long_stage):
    job = site.submit("train.sbatch", str(long_stage.config), "--data.init_args.sequence_lenn", "3")
    wait_for(lambda: ended(job), PATIENCE_S, "the end")
    assert (state(job), facts(job)["Restarts"], facts(job)["ExitCode"]) == ("FAILED", "0", "2:0")
    assert "sequence_len" in site.log(job)


def test_missing_data_is_found_before_anything_starts(site, long_stage):
    config = long_stage.base / "elsewhere.yaml"
    config.write_text(long_stage.config.read_text().replace("corpus: world", "corpus: fineweb_edu"))
    job = site.submit("train.sbatch", str(config))
    wait_for(lambda: ended(job), PATIENCE_S, "the end")
    assert (state(job), facts(job)["Restarts"], facts(job)["ExitCode"]) == ("FAILED", "0", "1:0")
    assert "fineweb_edu" in site.log(job)


def test_crashes_are_retried_as_often_as_the_site_says(site, long_stage):
    site.render(max_crashes=1)
    job = site.submit("train.sbatch", str(long_stage.config), "--run", "crashing", *OPTIONS)
    for _ in range(2):
        wait_for_step(long_stage, "crashing", job, 1)
        kill_a_rank(job, "crashing")
        wait_for(lambda: not processes_of("crashing"), PATIENCE_S, "the crash")
    wait_for(lambda: ended(job), PATIENCE_S, "the end")
    site.render()
    assert (state(job), facts(job)["Restarts"]) == ("FAILED", "1"), site.log(job)
    assert "not put back into the queue" in site.log(job)


def test_job_that_nobody_warns_stops_before_its_time_limit(site, long_stage):
    options = ("--time=2", "--signal=CONT@1")
    job = site.submit(
        "train.sbatch",
        str(long_stage.config),
        "--run",
        "late",
        *OPTIONS,
        "--requeue.margin_s",
        "85",
        options=options,
    )
    wait_for(lambda: facts(job).get("Restarts") == "1", PATIENCE_S, "the requeue")
    ask("scontrol", "update", f"jobid={job}", "timelimit=60")
    wait_for(lambda: ended(job), PATIENCE_S, "the end")
    assert state(job) == "COMPLETED", site.log(job)
    assert "stopped by the time limit" in site.log(job)
    assert long_stage.weights("late") == long_stage.weights("unbroken")
