"""What the jobs have in common, `slurm/job.sh`, with programs that stand for SLURM's; no SLURM is needed."""

from __future__ import annotations

import os
import subprocess

import pytest
from slurm.site import Site

JOB = {"SLURM_JOB_ID": "17", "SLURM_CONF": "/nowhere"}


@pytest.fixture
def site(tmp_path) -> Site:
    site = Site(tmp_path)
    site.render()
    return site


def stand_in(site: Site, name: str, body: str) -> None:
    """Put a program of that name before all others; its calls are noted in the file `calls`."""
    program = site.folder / "bin" / name
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/bash\necho "{name} $*" >> {site.folder}/calls\n{body}\n')
    program.chmod(0o755)


def calls(site: Site) -> list[str]:
    path = site.folder / "calls"
    return path.read_text().splitlines() if path.exists() else []


def shell(site: Site, script: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a script after the site's values and functions are read; nothing waits in it."""
    known = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "NANOCHAT_"))}
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"source {site.rendered}/site.sh\nsleep() {{ :; }}\n{script}"],
        capture_output=True,
        text=True,
        check=False,
        env=known | {"PATH": f"{site.folder}/bin:{os.environ['PATH']}"} | variables,
    )


SHOWS = 'if [[ $1 == --oneliner ]]; then echo "JobId=17 JobState=RUNNING"; fi'
SILENT_AT_FIRST = """(($(wc -l < "${0%/bin/*}/calls") > 3)) || { echo no contact >&2; exit 1; }"""


def test_job_goes_back_though_the_controller_is_silent_for_a_while(site):
    stand_in(site, "scontrol", f"{SILENT_AT_FIRST}\n{SHOWS}")
    done = shell(site, "conclude 75", **JOB)
    assert done.returncode == 75
    assert calls(site)[-1] == "scontrol requeue 17"
    assert "no contact" in done.stderr
    assert "back into the queue" in done.stderr


def test_job_that_could_not_go_back_says_so(site):
    stand_in(site, "scontrol", "echo no contact >&2; exit 1")
    done = shell(site, "conclude 137", **JOB)
    assert done.returncode == 137
    assert calls(site)[-1] == "scontrol requeue 17"
    assert "not put back into the queue" in done.stderr
    assert "; back into the queue" not in done.stderr


def test_job_that_is_in_the_queue_already_is_left_alone(site):
    stand_in(site, "scontrol", 'echo "JobId=17 JobState=COMPLETING"')
    assert shell(site, "conclude 75", **JOB).returncode == 75
    assert "scontrol requeue 17" not in calls(site)


def test_no_restarts_allowed_is_the_end_with_the_verbs_own_code(site):
    site.render(max_restarts=0)
    stand_in(site, "scontrol", SHOWS)
    done = shell(site, "conclude 75", **JOB)
    assert (done.returncode, calls(site)) == (75, ["scontrol --oneliner show job 17"])
    assert "it was restarted 0 times, which is the limit" in done.stderr


# The ranks.

RUNS_TASKS = """echo "CPUs ${SRUN_CPUS_PER_TASK:-none}" >> "${0%/bin/*}/calls"; shift; exec "$@" """


def on_all_tasks(site: Site, program: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the wrapper of a task around a program instead of the interpreter."""
    stand_in(site, "srun", RUNS_TASKS)
    stand_in(site, "rank", program)
    script = f"TMPDIR={site.folder} PYTHON={site.folder}/bin/rank; nanochat_on_all_tasks fit"
    return shell(site, script, **JOB | variables)


@pytest.mark.parametrize(("given", "cpus"), [({"SLURM_CPUS_PER_TASK": "8"}, "8"), ({}, "1")])
def test_ranks_get_the_cpus_of_the_job(site, given, cpus):
    assert on_all_tasks(site, "", **given).returncode == 0
    assert f"CPUs {cpus}" in calls(site)


@pytest.mark.parametrize("name", ["USR1", "USR2", "TERM", "INT"])
def test_signal_to_a_rank_leaves_its_wrapper_alive(site, name):
    program = f"trap 'exit 75' {name}; kill -{name} $PPID; kill -{name} $$"
    assert on_all_tasks(site, program).returncode == 75


@pytest.mark.parametrize("name", ["TERM", "USR2"])
def test_signal_to_the_batch_script_leaves_it_alive(site, name):
    stand_in(site, "scontrol", "")
    done = shell(site, f"enter; kill -{name} $$; echo alive", **JOB)
    assert (done.returncode, done.stdout) == (0, "alive\n")
