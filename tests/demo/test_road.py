"""The demo's road: other worlds make room, results are kept, and the whole of it passes with its controls."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from tiny_stage import ROOT

import cli
from nanochat_pl.commands import data
from nanochat_pl.demo import road
from nanochat_pl.system.errors import Failure
from nanochat_pl.system.paths import corpus_dir, run_dir


def test_every_stage_is_a_verb_a_user_could_type(base_dir):
    for command in road.stages(seed=1).values():
        verb, _ = cli.split_verb(command.split())
        assert verb in cli.VERBS


def test_runs_and_documents_of_another_world_are_moved_aside_and_none_are_lost(base_dir):
    data.generate(what="world", documents=50, val_documents=10, seed=1)
    run = run_dir(road.MID)
    run.mkdir(parents=True)
    (run / "plan.json").write_text("{}")
    road.make_room_for(1)
    assert run.exists()
    road.make_room_for(2)
    assert not run.exists()
    assert not corpus_dir("world").exists()
    assert run.with_name("demo_mid.old-1").joinpath("plan.json").exists()
    assert corpus_dir("world").with_name("world.old-1").is_dir()


def test_a_world_of_a_control_makes_room_too(base_dir):
    data.generate(what="world", documents=50, val_documents=10, seed=1, held_out_described=False)
    road.make_room_for(1)
    assert not corpus_dir("world").exists()


def test_a_stage_that_fails_ends_the_demo_with_its_name(base_dir):
    with pytest.raises(Failure, match="ended with exit code 2"):
        road.run_verb("data generate world --documents 0")


def test_bits_per_byte_are_the_first_and_the_last(tmp_path):
    lines = [{"step": step, "val/bpb": value} for step, value in ((0, 2.5), (10, 1.0), (20, 0.5))]
    (tmp_path / "val.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert road.bits_per_byte(tmp_path / "val.jsonl") == (2.5, 0.5)


def test_table_shows_every_score():
    row = {"score": 0.95, "n": 360, "base_score": 0.02, "untrained_score": 0.0, "chance": 0.111}
    table = road.table({"facts": row, "spelling": row, "arithmetic": row})
    for shown in ("95.0%", "2.0%", "0.0%", "11.1%", "360"):
        assert table.count(shown) == 3


@pytest.mark.slow
def test_the_chatbot_answers_and_the_controls_do_not(tmp_path):
    environment = os.environ | {"NANOCHAT_BASE_DIR": str(tmp_path)}
    command = [sys.executable, "cli.py", "demo", "--seed", "1", "--controls", "true"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    report = json.loads((tmp_path / "demo.json").read_text())
    assert all(report[name]["score"] >= 0.9 for name in ("facts", "spelling", "arithmetic"))
    assert report["facts"]["n"] >= 300
    controls = json.loads((tmp_path / "demo_controls.json").read_text())
    for name in ("undescribed", "untrained"):
        assert controls[name]["score"] <= controls["chance"] + 0.1
        assert controls[name]["training_towns_score"] >= 0.9
    assert controls["cloze"]["score"] >= 0.95
