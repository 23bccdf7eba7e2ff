"""What a finished run leaves on the disk, and that the verbs agree about it."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nanochat_pl.artifacts import load_artifact
from nanochat_pl.report.verb import report


def lines(stage, name):
    return [
        json.loads(line) for line in (stage.folder("unbroken") / "metrics" / name).read_text().splitlines()
    ]


@pytest.fixture(scope="module")
def board(stage):
    accumulator = EventAccumulator(str(stage.folder("unbroken") / "logs"))
    accumulator.Reload()
    return accumulator


def test_tensorboard_and_json_lines_tell_the_same_over_optimizer_steps(stage, board):
    steps = list(range(1, stage.steps + 1))
    assert [line["step"] for line in lines(stage, "train.jsonl")] == steps
    for name in ("train/loss", "train/tokens_per_s", "lr/matrix", "lr/embedding", "lr/unembedding"):
        events = board.Scalars(name)
        assert [event.step for event in events] == steps
        assert [event.value for event in events] == pytest.approx(
            [line[name] for line in lines(stage, "train.jsonl")], rel=1e-6
        )
    validation = lines(stage, "val.jsonl")[:3]
    assert [line["step"] for line in validation] == [0, 6, 12]
    assert [event.step for event in board.Scalars("val/bpb")] == [0, 6, 12]
    assert [event.value for event in board.Scalars("val/bpb")] == pytest.approx(
        [line["val/bpb"] for line in validation], rel=1e-6
    )


def test_curves_fall(stage):
    losses = [line["train/loss"] for line in lines(stage, "train.jsonl")]
    bpb = [line["val/bpb"] for line in lines(stage, "val.jsonl")]
    assert losses[-1] < losses[0]
    assert bpb[-1] < bpb[0]


def test_samples_stand_in_tensorboard_and_in_a_file(stage, board):
    samples = lines(stage, "samples.jsonl")
    assert [sample["step"] for sample in samples] == [6, 12]
    (tag,) = [tag for tag in board.Tags()["tensors"] if tag.startswith("samples/")]
    texts = [event.tensor_proto.string_val[0].decode() for event in board.Tensors(tag)]
    assert texts == [sample["prompt"] + sample["text"] for sample in samples]


def test_validate_reads_the_artifact_and_gives_the_last_value_of_the_run(stage):
    last = lines(stage, "val.jsonl")[-1]["val/bpb"]
    done = stage.finish("validate", run="unbroken")
    assert done.returncode == 0, done.stderr
    assert f"step 12: val/bpb {last:.4f}" in done.stdout
    assert lines(stage, "val.jsonl")[-1]["val/bpb"] == pytest.approx(last, rel=1e-9)


def test_predict_continues_the_prompts_of_a_file(stage, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("The river\n\nOne morning\n")
    done = stage.finish("predict", "--prompts", str(prompts), "--max_new_tokens", "3", run="unbroken")
    assert done.returncode == 0, done.stderr
    assert [line.split("|")[0] for line in done.stdout.splitlines()] == ["The river", "One morning"]
    assert [line["prompt"] for line in lines(stage, "predictions.jsonl")] == ["The river", "One morning"]


def test_run_from_its_own_saved_configuration_gives_the_same_losses(stage):
    config = stage.folder("unbroken") / "config.yaml"
    done = stage.finish("fit", "--config", str(config), "--run", "from_saved", run="from_saved")
    assert done.returncode == 0, done.stderr
    assert stage.losses("from_saved") == stage.losses("unbroken")
    saved, again = (
        yaml.safe_load((stage.folder(run) / "config.yaml").read_text()) for run in ("unbroken", "from_saved")
    )
    assert saved | {"run": "from_saved"} == again


def test_a_finished_run_whose_artifact_is_gone_writes_the_same_again(stage):
    shutil.copytree(stage.folder("unbroken"), stage.folder("regained"), symlinks=True)
    shutil.rmtree(stage.folder("regained") / "artifact")
    done = stage.finish("fit", run="regained")
    assert done.returncode == 0, done.stderr
    whole, again = (
        (stage.folder(run) / "artifact" / "model.safetensors").read_bytes()
        for run in ("unbroken", "regained")
    )
    assert whole == again


def test_a_start_notes_what_it_runs_on_and_the_report_card_shows_it(stage, tmp_path, monkeypatch):
    (start,) = json.loads((stage.folder("unbroken") / "environment.json").read_text())["starts"]
    assert (start["device"], start["devices"]) == ("cpu", 1)
    lines = (stage.folder("unbroken") / "metrics" / "train.jsonl").read_text().splitlines()
    assert start["time"] < json.loads(lines[0])["time"]
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(stage.base))
    report(runs="unbroken", out=str(tmp_path))
    card = (tmp_path / "report.md").read_text()
    assert start["versions"]["torch"] in card
    assert "12 (of 12)" in card
    assert "The river of the town is" in card


def test_plan_and_artifact_tell_where_they_come_from(stage):
    folder = stage.folder("unbroken")
    plan = json.loads((folder / "plan.json").read_text())
    assert (plan["steps"], plan["batch_tokens"], plan["accumulation"]) == (12, 256, 4)
    artifact = load_artifact(folder / "artifact")
    assert artifact.provenance["step"] == 12
    assert artifact.provenance["tokens"] == 12 * 256
    assert artifact.gpt.config.n_layer == 2
    assert (folder / "checkpoints" / "last.ckpt").resolve().name == "step_00000012.ckpt"
    assert len(list((folder / "checkpoints").glob("step_*.ckpt"))) == 2
