"""Midtraining and SFT through the command line: from an artifact, killed and continued, on one rank and on two."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
import yaml
from tiny_stage import TinyStage

import cli
from nanochat_pl.artifacts import find_artifact, load_artifact, save_huggingface
from nanochat_pl.commands import tokenizer


@dataclass
class TinyChatStage(TinyStage):
    """A stage on conversations about the embedded world, of two micro-batches a step."""

    init_from: str | None = None

    @property
    def name(self) -> str:
        return f"tiny_chat_after_{self.init_from}" + ("_by_two" if "2" in self.options else "")

    def _configuration(self) -> dict:
        settings = super()._configuration()
        tasks = [
            {"class_path": f"nanochat_pl.tasks.{name}", "init_args": {"size": 200}}
            for name in ("TownFacts", "ToolSums", "WorldTexts")
        ]
        settings["model"]["init_args"] |= {"init_from": self.init_from}
        settings["data"] = {
            "class_path": "nanochat_pl.data.ChatData",
            "init_args": {
                "train": tasks,
                "val": tasks[:1],
                "tokenizer": "world" if self.init_from is None else None,
                "sequence_len": 96,
                "device_batch_rows": 2,
                "batch_tokens": 384 * (2 if "2" in self.options else 1),
                "buffer_conversations": 10,
            },
        }
        settings["samples"]["prompts"] = ["Who founded the town?"]
        return settings


@pytest.fixture(scope="module")
def start(world_base) -> TinyChatStage:
    """A first chat stage, finished; others start from its artifact."""
    stage = TinyChatStage(world_base)
    stage.fit(run="chat_start")
    return stage


@pytest.fixture(scope="module")
def later(start) -> TinyChatStage:
    """A stage that starts from the first one's artifact, and its run `chat_unbroken`."""
    stage = TinyChatStage(start.base, init_from="chat_start")
    stage.fit(run="chat_unbroken")
    return stage


def test_stage_starts_from_the_artifacts_weights_shape_and_tokenizer(later, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(later.base))
    before, after = (load_artifact(find_artifact(run)) for run in ("chat_start", "chat_unbroken"))
    assert after.gpt.config == before.gpt.config
    assert after.tokenizer.fingerprint == before.tokenizer.fingerprint
    assert after.provenance["init_from"] == "chat_start"
    assert after.provenance["is_chat"]
    untrained = [float.fromhex(later.losses(run)[1]) for run in ("chat_start", "chat_unbroken")]
    assert untrained[1] < untrained[0] - 0.5


@pytest.mark.slow
def test_stage_that_starts_from_a_hugging_face_folder_trains_as_from_the_artifact(
    later, monkeypatch, tmp_path
):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(later.base))
    start = load_artifact(find_artifact("chat_start"))
    save_huggingface(tmp_path / "hf", start.gpt, start.tokenizer, start.provenance)
    (tmp_path / "hf" / "provenance.json").unlink()  # as another program leaves it
    later.fit("--model.init_args.init_from", str(tmp_path / "hf"), run="chat_from_hf")
    assert later.losses("chat_from_hf") == later.losses("chat_unbroken")
    assert later.weights("chat_from_hf") == later.weights("chat_unbroken")


def test_chat_run_killed_twice_equals_the_unbroken_one(later):
    assert later.kill_when(lambda _: later.logged_steps("chat_killed") >= 5, run="chat_killed")
    assert later.kill_when(lambda _: later.logged_steps("chat_killed") >= 9, run="chat_killed")
    later.fit(run="chat_killed")
    assert later.losses("chat_killed") == later.losses("chat_unbroken")
    assert later.weights("chat_killed") == later.weights("chat_unbroken")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "zero", "fsdp2"])
def test_chat_run_with_two_ranks_killed_equals_its_unbroken_one(start, strategy):
    options = ["--trainer.devices", "2", "--trainer.strategy", strategy]
    stage = TinyChatStage(start.base, options, init_from="chat_start")
    run, killed = f"chat_{strategy}", f"chat_{strategy}_killed"
    stage.fit(run=run)
    assert stage.kill_when(lambda _: stage.logged_steps(killed) >= 6, run=killed)
    stage.fit(run=killed)
    assert stage.losses(killed) == stage.losses(run)
    assert stage.weights(killed) == stage.weights(run)


def refused(stage: TinyChatStage, capsys, *options: str) -> str:
    """Run `fit` in this process, insist that it is refused as bad input, and return what it says."""
    code = cli.main(["fit", "--config", str(stage.config), "--run", "chat_refused", *options])
    said = capsys.readouterr().err
    assert code == 2, said
    assert said.count("\n") <= 3
    assert not stage.folder("chat_refused").exists()
    return said


def test_other_depth_than_the_artifacts_is_refused(later, monkeypatch, capsys):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(later.base))
    said = refused(later, capsys, "--model.init_args.depth", "3")
    assert "depth=3, but chat_start has 2 layers" in said


def test_longer_rows_than_the_artifacts_context_are_refused(later, monkeypatch, capsys):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(later.base))
    said = refused(later, capsys, "--data.init_args.sequence_len", "192")
    assert "more than the 96 tokens of context" in said


def test_start_that_is_not_there_is_refused(later, monkeypatch, capsys):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(later.base))
    assert "no artifact called 'nowhere'" in refused(later, capsys, "--model.init_args.init_from", "nowhere")


@pytest.mark.slow
def test_run_whose_start_has_changed_is_neither_continued_nor_called_finished(later, start):
    provenance = start.folder("chat_start") / "artifact" / "provenance.json"
    before = provenance.read_text()
    provenance.write_text(before.replace('"weights_sha256": "', '"weights_sha256": "0'))
    try:
        done = later.finish("fit", run="chat_unbroken")
    finally:
        provenance.write_text(before)
    assert done.returncode == 1
    assert "init_from has 0" in done.stderr


def test_tokenizer_that_is_not_the_artifacts_is_refused(later, monkeypatch, capsys):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(later.base))
    tokenizer.train(corpus="world", vocab_size=321, name="other")
    said = refused(later, capsys, "--data.init_args.tokenizer", "other")
    assert "is not the tokenizer of chat_start" in said
    assert "Leave data.init_args.tokenizer out: the artifact's own is taken." in said


@pytest.mark.parametrize(
    ("task", "lacking"),
    [
        ({"CustomJSON": {"path": "identity_conversations.jsonl"}}, "conversations are neither in"),
        ({"SmolTalk": {"split": "train"}}, "the data of SmolTalk is not here"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("verb", ["fit", "plan"])
def test_missing_data_is_told_with_the_command_that_brings_it(
    world_base, monkeypatch, capsys, task, lacking, verb
):
    stage = TinyChatStage(world_base)
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(stage.base))
    settings = yaml.safe_load(stage.config.read_text())
    settings["data"]["init_args"]["train"] = [
        {"class_path": f"nanochat_pl.tasks.{name}", "init_args": arguments}
        for name, arguments in task.items()
    ]
    settings["trainer"]["max_steps"] = -1
    config = stage.base / "lacking_sft.yaml"
    config.write_text(yaml.safe_dump(settings))
    assert cli.main([verb, "--config", str(config)]) == 1
    err = capsys.readouterr().err
    assert lacking in err
    assert re.search(rf"bring (it|them) here: python cli\.py data fetch --for {config}\n$", err)
    assert err.count("\n") <= 3
    assert not stage.folder("lacking_sft").exists()


def test_finished_run_is_validated_without_what_it_started_from(later, monkeypatch, capsys):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(later.base))
    away = later.folder("chat_start").with_name("chat_start_away")
    later.folder("chat_start").rename(away)
    try:
        assert cli.main(["validate", "--config", str(later.config), "--run", "chat_unbroken"]) == 0
    finally:
        away.rename(later.folder("chat_start"))
    assert "val/bpb" in capsys.readouterr().out


@pytest.mark.slow
def test_run_continues_with_other_rows_as_the_same_run(later):
    """Half the rows a micro-batch, twice the micro-batches: the same steps, up to rounding."""
    assert later.kill_when(lambda _: later.logged_steps("chat_smaller") >= 5, run="chat_smaller")
    later.fit("--data.init_args.device_batch_rows", "1", run="chat_smaller")
    unbroken, continued = later.losses("chat_unbroken"), later.losses("chat_smaller")
    assert continued.keys() == unbroken.keys()
    for step, loss in continued.items():
        assert float.fromhex(loss) == pytest.approx(float.fromhex(unbroken[step]), rel=1e-4), step


def test_horizon_is_planned_from_the_data(later, monkeypatch, capsys):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(later.base))
    assert cli.main(["plan", "--config", str(later.config), "--trainer.max_steps", "-1"]) == 0
    assert "data.epochs: about" in capsys.readouterr().out
