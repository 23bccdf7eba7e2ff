"""The verb `test`: every item once on one process and on two, killed and continued, and what is missing said."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest
import yaml
from core_files import make_items, write_bundle
from tiny_stage import TinyStage

import cli
from nanochat_pl.artifacts import load_artifact
from nanochat_pl.evaluation.core_bundle import read_bundle
from nanochat_pl.evaluation.core_metric import core_exams
from nanochat_pl.evaluation.exam import Score
from nanochat_pl.evaluation.likelihood import GPTScorer
from nanochat_pl.evaluation.results import chat_metrics, score_table
from nanochat_pl.training import testing
from nanochat_pl.training.examination import Examination

WORLD = ["--tasks", "world,world-sums", "--chat_metric.rows", "2", "--chat_metric.max_new_tokens", "8"]
TWO_RANKS = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]


@pytest.fixture(scope="module")
def chat(world_base) -> TinyStage:
    """A chat stage, finished after two steps; its answers are noise, which is as hard to repeat as sense."""
    from training.test_chat_stage import TinyChatStage

    stage = TinyChatStage(world_base, steps=2)
    stage.fit(run="tested")
    return stage


def items(stage: TinyStage, run: str, task: str) -> list[dict]:
    """Return the records of a task."""
    path = stage.folder(run) / "metrics" / "items" / f"{task}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def tested(chat) -> dict[str, list[dict]]:
    """The records of a test that nobody stopped, on one process."""
    done = chat.finish("test", *WORLD, "--max_problems", "30", run="tested")
    assert done.returncode == 0, done.stderr
    assert "ChatCORE needs all of its tasks" in done.stdout
    line = json.loads((chat.folder("tested") / "metrics" / "chat.jsonl").read_text().splitlines()[-1])
    assert (line["step"], line["chat/world_n"], line["chat/world-sums_n"]) == (2, 30, 30)
    assert "chat/metric" not in line
    return {task: items(chat, "tested", task) for task in ("world", "world-sums")}


def test_every_item_has_one_record_in_order(tested):
    for records in tested.values():
        assert [record["index"] for record in records] == list(range(30))
        assert len({record["prompt"] for record in records}) > 20


def test_two_processes_make_the_same_records(chat, tested):
    done = chat.finish("test", *WORLD, "--max_problems", "30", "--fresh", *TWO_RANKS, run="tested")
    assert done.returncode == 0, done.stderr
    assert len(list((chat.folder("tested") / "metrics/items/.progress").glob("world.*.jsonl"))) == 2
    assert {task: items(chat, "tested", task) for task in tested} == tested


def test_a_killed_test_continues_with_what_is_left_and_ends_the_same(chat, tested):
    table = chat.finish("test", *WORLD, "--max_problems", "30", run="tested").stdout
    process = chat.start("test", *WORLD, "--max_problems", "30", "--fresh", run="tested")
    progress = chat.folder("tested") / "metrics" / "items" / ".progress"
    deadline = time.monotonic() + 120
    while not lines_in(progress, "world.*") or lines_in(progress, "world-sums.*") >= 30:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before = lines_in(progress, "*")
    assert 0 < before < 60
    done = chat.finish("test", *WORLD, "--max_problems", "30", run="tested")
    assert done.returncode == 0, done.stderr
    assert "items have been examined" in done.stderr
    assert done.stdout == table
    assert {task: items(chat, "tested", task) for task in tested} == tested


def lines_in(folder, pattern: str) -> int:
    """Return how many records are there."""
    return sum(path.read_text().count("\n") for path in folder.glob(f"{pattern}.jsonl"))


@pytest.mark.slow
def test_a_missing_task_is_named_and_the_others_are_asked(chat, tested):
    done = chat.finish("test", "--tasks", "GSM8K,world", *WORLD[2:], "--max_problems", "8", run="tested")
    assert done.returncode == 1
    assert "missing: GSM8K" in done.stderr
    assert "data fetch" in done.stderr
    assert "world" in done.stdout


@pytest.fixture(scope="module")
def with_file(chat) -> str:
    """The file of a stage like that one, which reads what can be fetched."""
    settings = yaml.safe_load(chat.config.read_text())
    task = {"class_path": "nanochat_pl.tasks.GSM8K", "init_args": {"split": "train"}}
    settings["data"]["init_args"]["train"] = [task]
    config = chat.base / "fetching_sft.yaml"
    config.write_text(yaml.safe_dump(settings))
    return str(config)


@pytest.mark.parametrize("task", ["MMLU", "HumanEval", "GSM8K"])
def test_missing_task_is_told_with_the_command_that_brings_it(chat, with_file, monkeypatch, capsys, task):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(chat.base))
    assert cli.main(["test", "--config", with_file, "--run", "tested", "--tasks", task]) == 1
    said = [line for line in capsys.readouterr().err.splitlines() if "missing" in line]
    assert [line.partition("bring it here: ")[2] for line in said] == [
        f"python cli.py data fetch --for {with_file}"
    ]
    assert said[0].startswith(f"missing: {task}: ")


@pytest.mark.parametrize(
    ("corpus", "named"), [("fineweb_edu", "{config}"), ("world", "configs/d20_base.yaml --shards 1")]
)
@pytest.mark.parametrize("tasks", ["words", "all"])
def test_missing_bundle_is_told_with_the_command_that_brings_it(
    stage, monkeypatch, capsys, corpus, named, tasks
):
    """Where the stage's own file fetches nothing, another is named, with as few shards as there may be."""
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(stage.base))
    monkeypatch.setitem(testing.__dict__, "_samples", lambda stage, loaded: [])
    monkeypatch.setitem(testing.__dict__, "_bits_per_byte", lambda stage, loaded: [])
    settings = ["--data.init_args.corpus", corpus, "--data.init_args.tokenizer", "world"]
    options = ["--tasks", tasks] if tasks != "all" else []
    command = ["test", "--config", str(stage.config), "--run", "unbroken", *settings, *options]
    assert cli.main(command) == 1
    err = capsys.readouterr().err
    said = err[err.index("missing: CORE" if tasks == "all" else "error: ") :]
    command = f"python cli.py data fetch --for {named.format(config=stage.config)}"
    assert said.endswith(f"bring the bundle anew: {command}\n")
    assert said.count("\n") <= 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tasks", "MMLUU"], "MMLU"),
        (["--tasks", ","], "names no task"),
        (["--tasks", "world", "--max_problems", "0"], "max_problems=0"),
        (["--tasks", "world", "--num_samples", "2"], "temperature 0"),
        (["--tasks", "world", "--num_samples", "0"], "num_samples=0"),
        (["--maxproblems", "3"], "--max_problems"),
        (["--tasks", "World-Sums"], "did you mean world-sums?"),
        (["--tasks", "world", "--reference_shots"], "--reference_shots does not apply"),
    ],
)
def test_bad_input_is_refused_in_three_lines(chat, monkeypatch, capsys, options, message):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(chat.base))
    assert cli.main(["test", "--config", str(chat.config), "--run", "tested", *options]) == 2
    err = capsys.readouterr().err
    complaint = err[err.index("error:") :]
    assert message in complaint
    assert len(complaint.splitlines()) <= 3


def test_options_about_written_answers_do_not_apply_to_a_base_stage(stage, monkeypatch, capsys):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(stage.base))
    arguments = ["test", "--config", str(stage.config), "--run", "unbroken"]
    assert cli.main([*arguments, "--temperature", "0.5"]) == 2
    assert "--temperature does not apply" in capsys.readouterr().err


def test_another_stages_configuration_is_refused(chat, stage, monkeypatch, capsys):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(chat.base))
    assert cli.main(["test", "--config", str(stage.config), "--run", "tested", "--tasks", "samples"]) == 2
    assert "is a base stage, but tested is a chat model" in capsys.readouterr().err


def test_ctrl_c_while_items_are_examined_is_an_interruption(chat, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(chat.base))
    monkeypatch.setattr(Examination, "examine", interrupted)
    try:
        assert cli.main(["test", "--config", str(chat.config), "--run", "tested", *WORLD, "--fresh"]) == 130
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning has it ignored
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted"


def test_a_run_without_a_model_says_how_to_train_one(chat, monkeypatch, capsys):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(chat.base))
    assert cli.main(["test", "--config", str(chat.config), "--run", "nobody", "--tasks", "world"]) == 1
    assert "Train it first" in capsys.readouterr().err


def test_chatcore_stands_in_the_metrics_with_its_version_and_tasks():
    names = ("ARC-Easy", "ARC-Challenge", "MMLU", "GSM8K", "HumanEval", "SpellingBee")
    metrics = chat_metrics([Score(f"chat/{name}", 0.5, 0.1, 100) for name in names])
    assert metrics["chat/metric"] == 0.5
    assert metrics["chat/metric_version"] == "six-tasks"
    assert metrics["chat/metric_tasks"] == list(names)
    assert metrics["chat/MMLU_se"] == 0.1


def test_the_table_says_how_many_prompts_did_not_fit():
    table = score_table([Score("chat/MMLU", 0.25, 0.01, 1000, 0.25)], {"chat/MMLU": 3})
    assert table.splitlines()[1].split() == [
        *["MMLU", "25.00%", "1.00%", "25.0%", "0.0000", "1,000", "3", "prompts", "cropped"]
    ]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """Two tasks of CORE, and one whose file is not there."""
    tasks = {
        "choices": {"kind": "multiple_choice", "items": make_items("multiple_choice", 12), "baseline": 25},
        "words": {"kind": "language_modeling", "items": make_items("language_modeling", 9), "shots": 1},
        "lost": {"kind": "schema", "items": None},
    }
    return write_bundle(tmp_path_factory.mktemp("core"), tasks)


def test_a_base_stage_is_measured_whole_and_what_is_missing_makes_core_partial(stage, bundle):
    done = stage.finish("test", "--core_metric.path", str(bundle), "--max_problems", "8", run="unbroken")
    assert done.returncode == 1
    assert "missing: lost" in done.stderr
    for shown in ("bits per byte", "The river of the town is|", "choices", "words", "CORE is partial"):
        assert shown in done.stdout
    metrics = stage.folder("unbroken") / "metrics"
    core = json.loads((metrics / "core.jsonl").read_text().splitlines()[-1])
    assert (core["step"], core["core/is_partial"], core["core/missing"]) == (12, True, ["lost"])
    assert (core["core/choices_n"], core["core/words_n"]) == (8, 8)
    val = json.loads((metrics / "val.jsonl").read_text().splitlines()[-1])
    assert val["val/bpb"] != val["train/bpb"]
    assert val["step"] == 12
    assert len(items(stage, "unbroken", "choices")) == 8


def test_a_model_of_hugging_faces_takes_core_too(stage, bundle, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(stage.base))
    folder = tmp_path / "theirs"
    assert cli.main(["export", "--from", "unbroken", "--format", "hf", "--out", str(folder)]) == 0
    command = ["test", "--hf", str(folder), "--bundle", str(bundle), "--max_problems", "8"]
    assert cli.main(command) == 1
    shown = capsys.readouterr()
    assert "missing: lost" in shown.err
    assert "choices" in shown.out
    ours = GPTScorer(*load_artifact(stage.folder("unbroken") / "artifact")[:2])
    for exam in core_exams(ours, read_bundle(bundle), 8):
        records = items(stage, "hf_theirs", exam.name.removeprefix("core/"))
        assert [record["score"] for record in records] == [r.score for r in exam.examine(range(8))]
    assert cli.main(["test", "--hf", str(tmp_path / "nowhere"), "--bundle", str(bundle)]) == 2
    assert cli.main(["test", "--hf", str(folder), "--bundle", str(tmp_path / "nowhere")]) == 1
    assert "data fetch --for configs/d20_base.yaml --shards 1\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (
            {"kind": "language_modeling", "items": make_items("language_modeling", 3), "shots": 5},
            "3 items are too few",
        ),
        ({"kind": "language_modeling", "items": []}, "has no rows"),
    ],
)
def test_a_bundle_that_cannot_be_asked_is_refused_by_name(
    stage, tmp_path, monkeypatch, capsys, task, message
):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(stage.base))
    bundle = write_bundle(tmp_path / "core", {"w": task})
    command = ["test", "--config", str(stage.config), "--run", "unbroken", "--tasks", "w"]
    assert cli.main([*command, "--core_metric.path", str(bundle)]) == 1
    err = capsys.readouterr().err
    complaint = err[err.index("error:") :]
    assert message in complaint
    assert "w.jsonl" in complaint
    assert len(complaint.splitlines()) <= 3


def test_a_damaged_line_is_named_and_a_missing_bundle_costs_only_core(
    stage, bundle, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(stage.base))
    damaged = write_bundle(
        tmp_path / "core", {"w": {"kind": "language_modeling", "items": make_items("language_modeling", 9)}}
    )
    (file,) = damaged.rglob("*.jsonl")
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:4], lines[4][:9], *lines[5:]]))
    command = ["test", "--config", str(stage.config), "--run", "unbroken", "--max_problems", "3"]
    assert cli.main([*command, "--tasks", "w", "--core_metric.path", str(damaged)]) == 1
    assert "w.jsonl: line 5" in capsys.readouterr().err
    assert cli.main([*command, "--tasks", "samples,words", "--core_metric.path", str(bundle)]) == 0
    assert "CORE is partial" in capsys.readouterr().out
    assert cli.main([*command, "--core_metric.path", str(tmp_path / "nowhere")]) == 1
    shown = capsys.readouterr()
    assert "missing: CORE" in shown.err
    assert "bits per byte" in shown.out
