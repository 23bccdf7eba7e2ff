"""What the jobs have in common, `slurm/job.sh`, with programs that stand for SLURM's; no SLURM is needed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from slurm.site import Site
from tiny_stage import ROOT

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
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # shells ignore it in the background
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


def test_killed_job_names_the_lack_of_memory_and_what_lowers_it(site):
    stand_in(site, "scontrol", SHOWS)
    done = shell(site, "conclude 137", **JOB)
    assert "ended with 137, most likely for lack of memory (more: mem in site.yaml" in done.stderr
    assert "--data.init_args.device_batch_rows), crash 1 of 20; back into the queue" in done.stderr
    assert "memory" not in shell(site, "conclude 1", **JOB).stderr


def test_job_that_crashes_again_and_again_is_left_with_the_command_that_says_why(site):
    site.render(max_crashes=1)
    stand_in(site, "scontrol", SHOWS)
    assert "crash 1 of 1; back into the queue" in shell(site, "PYTHON=python; conclude 1", **JOB).stderr
    done = shell(site, "PYTHON=python; conclude 1", **JOB)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "ended with 1, 2 times in a row; not put back into the queue",
        "See why: python cli.py status",
    ]
    assert calls(site).count("scontrol requeue 17") == 1


def test_job_whose_folder_of_logs_was_removed_still_goes_back(site):
    stand_in(site, "scontrol", SHOWS)
    shutil.rmtree(site.base / "slurm_logs")
    done = shell(site, "conclude 1", **JOB)
    assert (done.returncode, calls(site)[-1]) == (1, "scontrol requeue 17")
    shutil.rmtree(site.base / "slurm_logs")
    assert shell(site, "enter").returncode == 0
    assert (site.base / "slurm_logs").is_dir()


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


# The pipeline, sweeps and single stages.


def started(site: Site, name: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Start a rendered script as `bash` would on the login node, or as a job where the variables say so."""
    return shell(site, f'exec bash "{site.rendered}/{name}" {" ".join(arguments)}', **variables)


@pytest.fixture
def pipeline(site) -> Site:
    """A site whose program always succeeds; the queue is empty, and every submitted job is 116 of a cluster."""
    site.render(venv=str(site.folder))
    for name, body in {"python": "", "squeue": "", "sbatch": 'echo "116;big"', "srun": RUNS_TASKS}.items():
        stand_in(site, name, body)
    stand_in(site, "scontrol", SHOWS)
    return site


def submissions(site: Site) -> list[str]:
    return [call for call in calls(site) if call.startswith("sbatch")]


def test_jobs_of_several_clusters_are_waited_for_by_number(pipeline):
    done = started(pipeline, "pipeline.sbatch", "submit", "sft")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "report is job 116, afterok:116,afterany:116"
    assert len(submissions(pipeline)) == 3


def test_submission_that_is_refused_ends_the_pipeline(pipeline):
    stand_in(pipeline, "sbatch", "exit 3")
    assert started(pipeline, "pipeline.sbatch").returncode == 3
    assert len(submissions(pipeline)) == 1


@pytest.mark.parametrize("ours", [True, False])
def test_only_jobs_of_this_site_count_as_in_the_queue(pipeline, ours):
    stand_in(pipeline, "squeue", f'echo "9 {pipeline.base if ours else "/elsewhere/nanochat_pl"}"')
    done = started(pipeline, "pipeline.sbatch")
    assert ("base is job 9 already" in done.stdout) is ours, done.stdout + done.stderr
    assert len(submissions(pipeline)) == (0 if ours else 7)
    assert all(f"--comment {pipeline.base} " in call for call in submissions(pipeline))


@pytest.mark.parametrize(("code", "finished"), [(0, True), (1, False)])
def test_only_a_test_that_ended_well_is_finished(pipeline, code, finished):
    stand_in(pipeline, "python", f"[[ $2 != test ]] || exit {code}")
    artifact = pipeline.base / "runs" / "tiny_base" / "artifact"
    artifact.mkdir(parents=True)
    (artifact / "config.json").touch()
    os.utime(artifact / "config.json", (1, 1))
    assert started(pipeline, "pipeline.sbatch", "test_base", **JOB).returncode == code
    assert "scontrol requeue 17" not in calls(pipeline)
    assert ("test_base is finished" in started(pipeline, "pipeline.sbatch").stdout) is finished


def test_data_is_verified_until_it_was_found_right(pipeline):
    stand_in(pipeline, "python", "exit 1")
    restarted = JOB | {"SLURM_RESTART_COUNT": "1"}
    config = str(pipeline.base / "tiny_base.yaml")
    assert started(pipeline, "train.sbatch", config, **restarted).returncode == 1
    stand_in(pipeline, "python", "")
    for _ in range(2):
        assert started(pipeline, "train.sbatch", config, **restarted).returncode == 0
    assert len([call for call in calls(pipeline) if "data check" in call]) == 2


@pytest.mark.parametrize(
    ("name", "arguments", "variables", "message"),
    [
        ("train.sbatch", (), {}, "Submit it: sbatch"),
        ("sweep.sbatch", (), {}, "Submit it: sbatch --array=1-8"),
        ("sweep.sbatch", (), JOB, "this job is no array"),
        ("pipeline.sbatch", ("base",), {}, "Submit it: sbatch"),
        ("pipeline.sbatch", ("bases",), {}, "there is no part bases"),
    ],
)
def test_what_needs_a_job_says_so(pipeline, name, arguments, variables, message):
    done = started(pipeline, name, *arguments, **variables)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") <= 3
    assert not list((pipeline.base / "slurm_logs").glob(".*"))


def test_missing_program_is_named_by_its_own_path(site):
    site.render(venv="/nowhere/venv")
    assert "error: /nowhere/venv/bin/python: there is" in shell(site, "enter", **JOB).stderr


# Scripts of the login node.


def copied(site: Site, folder: str, name: str) -> Path:
    """Return a script in a checkout of its own, in which nothing is rendered."""
    path = site.folder / "checkout" / folder / name
    path.parent.mkdir(parents=True)
    return Path(shutil.copy(ROOT / folder / name, path))


def test_example_says_to_render_first(site):
    done = shell(site, f"bash {copied(site, 'slurm', 'resume_mid_sft.sh')}")
    assert (done.returncode, "Render first" in done.stderr) == (2, True)


def test_data_goes_to_the_folder_that_was_asked_for(pipeline):
    script = copied(pipeline, "scripts", "download_data.sh")
    (script.parents[1] / "slurm").mkdir()
    shutil.copytree(pipeline.rendered, script.parents[1] / "slurm" / "rendered")
    stand_in(pipeline, "python", f"echo $NANOCHAT_BASE_DIR >> {pipeline.folder}/calls")
    done = shell(pipeline, f"NANOCHAT_BASE_DIR=/mine bash {script}")
    assert "data goes to /mine" in done.stdout, done.stderr
    assert "/mine" in calls(pipeline)
    assert str(pipeline.base) not in calls(pipeline)
    assert (
        f"data goes to {pipeline.base}" in shell(pipeline, f"unset NANOCHAT_BASE_DIR; bash {script}").stdout
    )


@pytest.mark.parametrize(("code", "stages"), [(1, 3), (75, 1)])
def test_speedrun_goes_on_after_a_test_that_lacks_data_only(pipeline, code, stages):
    script = copied(pipeline, "scripts", "speedrun.sh")
    stand_in(pipeline, "make", "")
    stand_in(pipeline, "python", f"[[ $2 != test ]] || exit {code}")
    (script.parent / "download_data.sh").symlink_to("/bin/true")
    (script.parents[1] / ".venv").symlink_to(pipeline.folder)
    assert shell(pipeline, f"bash {script}", HOME=str(pipeline.folder)).returncode == code
    assert len([call for call in calls(pipeline) if "cli.py fit" in call]) == stages


def test_interpreter_that_is_not_there_is_not_called_old(site):
    script = copied(site, "scripts", "setup_environment.sh")
    done = shell(site, f"PYTHON=/nope bash {script}")
    assert (done.returncode, "/nope: there is no such program" in done.stderr) == (2, True)
    assert "too old" not in done.stderr


def test_interpreter_that_is_too_old_is_refused_with_a_newer_one_s_name(site):
    script = copied(site, "scripts", "setup_environment.sh")
    stand_in(site, "python3", '[[ $1 != --version ]] || { echo "Python 3.9.18"; exit; }\nexit 1')
    stand_in(site, "make", "")
    done = shell(site, f"bash {script}")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: Python 3.9.18 is too old; 3.10 or newer is needed",
        f"Name another: PYTHON=python3.12 {script}",
    ]
    assert not any(call.startswith("make") for call in calls(site))
