"""An array of which tasks are killed is complete after it was submitted again."""

from __future__ import annotations

import pytest
from slurm.cluster import ask, ended, state, wait_for
from slurm.site import Site

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(3600)]
TASKS = range(1, 9)


@pytest.fixture(scope="module")
def sweep(site) -> Site:
    site.render(tasks_per_node=1)
    lines = [f"--model.init_args.matrix_lr {0.01 * task:.2f}" for task in TASKS]
    (site.folder / "rates.txt").write_text("\n".join(lines) + "\n")
    return site


def submit(site, stage, tasks="1-8") -> str:
    return site.submit(
        "sweep.sbatch", str(stage.config), str(site.folder / "rates.txt"), options=(f"--array={tasks}",)
    )


def test_killed_tasks_are_completed_by_a_second_submission(sweep):
    stage = sweep.stage(steps=60)
    job = submit(sweep, stage)
    for task in (3, 6):
        wait_for(lambda task=task: stage.logged_steps(f"rates_{task}") >= 5, 600, f"task {task}")
        ask("scancel", "--signal=KILL", "--full", f"{job}_{task}")
        ask("scancel", f"{job}_{task}")
    wait_for(lambda: all(ended(f"{job}_{task}") for task in TASKS), 1200, "the array")
    assert [state(f"{job}_{task}") for task in TASKS].count("COMPLETED") == 6
    again = submit(sweep, stage)
    wait_for(lambda: all(ended(f"{again}_{task}") for task in TASKS), 1200, "the second submission")
    assert {state(f"{again}_{task}") for task in TASKS} == {"COMPLETED"}
    assert {stage.logged_steps(f"rates_{task}") for task in TASKS} == {60}
    assert len({stage.weights(f"rates_{task}") for task in TASKS}) == 8
    assert "is finished: 60 steps" in sweep.log(f"{again}_1")
    assert "continuing rates_3 from step" in sweep.log(f"{again}_3") or "new" not in sweep.log(f"{again}_3")


def test_task_without_a_line_is_bad_input(sweep):
    job = submit(sweep, sweep.stage(), tasks="9-9")
    wait_for(lambda: ended(f"{job}_9"), 300, "the task")
    assert state(f"{job}_9") == "FAILED"
    assert "has no line 9" in sweep.log(f"{job}_9")
