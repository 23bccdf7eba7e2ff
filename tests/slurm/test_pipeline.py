"""The whole road as dependent jobs: killed at random points it still arrives, each finished stage trained once."""

from __future__ import annotations

import json
import os
import random
import signal
from pathlib import Path

import pytest
import yaml
from slurm.cluster import ask, ended, facts, release, state, wait_for
from slurm.site import Site, job_named, processes_of
from tiny_stage import ROOT, VOCAB_SIZE

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(14400)]
PARTS = ("tokenizer", "base", "test_base", "mid", "sft", "test_sft", "report")
REAL = bool(os.environ.get("REAL_DEMO"))
STEPS = {"base": 60, "mid": 60, "sft": 40}
KILLS = 5
PATIENCE_S = 3600 if REAL else 900


@pytest.fixture(scope="module")
def road(cluster, tmp_path_factory) -> Site:
    """The demo's configurations, made small unless REAL_DEMO is set, and its documents."""
    site = Site(tmp_path_factory.mktemp("road"), ranks=1, size="demo", configs=ROOT / "configs")
    documents = "24000"
    if not REAL:
        site.configs = site.folder / "configs"
        site.configs.mkdir()
        documents = "800"
        for stage, steps in STEPS.items():
            (site.configs / f"demo_{stage}.yaml").write_text(yaml.safe_dump(made_small(stage, steps)))
    site.render(vocab_size=1024 if REAL else VOCAB_SIZE)
    site.cli("data", "generate", "world", "--documents", documents)
    return site


def made_small(stage: str, steps: int) -> dict:
    """Return the demo's own configuration with fewer steps, a narrower network and short evaluations."""
    settings = yaml.safe_load((ROOT / "configs" / f"demo_{stage}.yaml").read_text())
    settings["trainer"] |= {"max_steps": steps, "log_every_n_steps": 1}
    settings["checkpoint"]["every_n_steps"] = 10
    settings["bits_per_byte"] |= {"every_n_steps": 20, "tokens": 2048}
    settings["data"]["init_args"] |= {"device_batch_rows": 4, "batch_tokens": 512}
    if stage == "base":
        settings["model"]["init_args"]["vocab_size"] = VOCAB_SIZE
        settings["model"]["init_args"]["aspect_ratio"] = 16
        settings["model"]["init_args"]["head_dim"] = 16
    for task in settings["data"]["init_args"].get("train", []):
        task["init_args"]["size"] = 300
    if "chat_metric" in settings:
        settings["chat_metric"] |= {"tasks": ["world"], "max_new_tokens": 8}
        settings["chat_metric"].pop("every_n_steps", None)
    return settings


def submit(road: Site) -> dict[str, str]:
    """Submit the pipeline; return the job of each part."""
    job = road.submit("pipeline.sbatch")
    wait_for(lambda: ended(job), PATIENCE_S, "the jobs to be submitted")
    assert state(job) == "COMPLETED", road.log(job)
    return {part: job_named(f"demo-{part}") for part in PARTS}


def logged(road: Site, run: str) -> int:
    path = road.base / "runs" / run / "metrics" / "train.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def disturb(road: Site, jobs: dict[str, str], draw: random.Random, count: int) -> str:
    """Wait for a random point of the stage that trains now, and stop it in some way."""
    goal = {}

    def is_there():
        for part in PARTS:
            release(jobs[part])
            assert state(jobs[part]) not in ("FAILED", "CANCELLED"), part + road.log(jobs[part])
        for part in ("base", "mid", "sft"):
            run = f"demo_{part}"
            if state(jobs[part]) == "RUNNING" and processes_of(str(road.configs / f"{run}.yaml")):
                goal.setdefault(part, logged(road, run) + draw.randint(1, 12))
                if logged(road, run) >= goal[part]:
                    goal["now"] = part
                    return True
        return state(jobs["report"]) == "COMPLETED"

    wait_for(is_there, PATIENCE_S, "a stage to train")
    assert "now" in goal, "the road was over before it was disturbed often enough"
    part, job = goal["now"], jobs[goal["now"]]
    before = int(facts(job)["Restarts"])
    if count % 3 == 0:
        os.kill(processes_of(str(road.configs / f"demo_{part}.yaml"))[0], signal.SIGKILL)
    elif count % 3 == 1:
        ask("scancel", "--signal=USR1", job)
    else:
        ask("scontrol", "requeue", job)
    wait_for(lambda: int(facts(job)["Restarts"]) > before, PATIENCE_S, f"the requeue of {part}")
    return part


def test_road_arrives_though_it_is_killed_five_times(road):
    draw = random.Random(7)
    jobs = submit(road)
    again = submit(road)  # while it is under way: nothing is submitted twice
    assert again == jobs
    for count in range(KILLS):
        disturb(road, jobs, draw, count)
    for part in PARTS:
        wait_for(lambda part=part: ended(jobs[part]), PATIENCE_S, part)
    states = {part: state(job) for part, job in jobs.items()}
    for part in ("tokenizer", "base", "mid", "sft", "report"):
        assert states[part] == "COMPLETED", f"{states}\n{road.log(jobs[part])}"
    assert sum(int(facts(job)["Restarts"]) for job in jobs.values()) == KILLS
    assert (road.base / "report" / "report.html").exists()
    for part in ("base", "mid", "sft"):
        run = road.base / "runs" / f"demo_{part}"
        assert road.log(jobs[part]).count("is finished:") == 1
        assert json.loads((run / "artifact" / "provenance.json").read_text())["run"] == f"demo_{part}"


def test_submitted_again_it_leaves_out_what_is_finished(road):
    made = {
        part: (road.base / "runs" / f"demo_{part}" / "artifact" / "config.json").stat().st_mtime_ns
        for part in STEPS
    }
    job = road.submit("pipeline.sbatch")
    wait_for(lambda: ended(job), PATIENCE_S, "the submission")
    log = road.log(job)
    for part in ("tokenizer", "base", "mid", "sft"):
        assert f"{part} is finished" in log
    report = job_named("demo-report")
    wait_for(lambda: ended(report), PATIENCE_S, "the report")
    assert state(report) == "COMPLETED"
    assert made == {
        part: (road.base / "runs" / f"demo_{part}" / "artifact" / "config.json").stat().st_mtime_ns
        for part in STEPS
    }


@pytest.mark.parametrize("name", ["train.sbatch", "pipeline.sbatch", "sweep.sbatch"])
def test_sbatch_accepts_template_and_rendered_file(road, name):
    for path in (ROOT / "slurm" / name, road.rendered / name):
        done = ask_with_error("sbatch", "--test-only", path)
        assert "to start at" in done, done


def ask_with_error(*command: str | Path) -> str:
    import subprocess

    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr
