"""The bundle is read as it is, what is missing is named, and what is wrong is named by file and line."""

from __future__ import annotations

import gzip

import pytest
from core_files import make_items, write_bundle

from nanochat_pl.evaluation.core_bundle import CoreItem, Missing, read_bundle
from nanochat_pl.system.errors import Failure

MC = {"kind": "multiple_choice", "items": make_items("multiple_choice", 12)}
ITEMS = "eval_data/group/t.jsonl"


def refusal(folder):
    """Return the message of the failure to read a bundle, which has at most three lines."""
    with pytest.raises(Failure) as caught:
        read_bundle(folder)
    message = str(caught.value)
    assert len(message.splitlines()) <= 3
    return message


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_tasks_are_read_with_their_settings_in_the_order_of_the_file(tmp_path, suffix):
    tasks = {
        "one": {"kind": "multiple_choice", "items": [{"query": "q", "choices": ["a", "b"], "gold": 1}] * 4}
        | {"shots": 3, "delimiter": "\nAnswer: ", "baseline": 62.5},
        "two": {"kind": "schema"}
        | {"items": [{"context_options": ["x", "y"], "continuation": "z", "gold": 0}]},
        "three": {"kind": "language_modeling", "items": [{"context": "c ", "continuation": "d"}]},
    }
    bundle = read_bundle(write_bundle(tmp_path, tasks, suffix))
    assert [
        (task.label, task.kind, task.num_fewshot, task.delimiter, task.baseline) for task in bundle.tasks
    ] == [
        ("one", "multiple_choice", 3, "\nAnswer: ", 0.625),
        ("two", "schema", 0, " ", 0.0),
        ("three", "language_modeling", 0, " ", 0.0),
    ]
    assert [task.items[0] for task in bundle.tasks] == [
        CoreItem(("q",), ("a", "b"), 1),
        CoreItem(("x", "y"), ("z",), 0),
        CoreItem(("c ",), ("d",), 0),
    ]
    assert bundle.missing == []


def test_a_task_without_its_file_is_missing_and_named(tmp_path):
    tasks = {"t": MC, "gone": {"kind": "schema", "items": None}}
    bundle = read_bundle(write_bundle(tmp_path, tasks))
    assert [task.label for task in bundle.tasks] == ["t"]
    assert bundle.missing == [Missing("gone", f"{tmp_path}/eval_data/group/gone.jsonl is missing")]
    assert bundle.labels == ["t", "gone"]


def test_the_digest_of_items_is_that_of_their_content(tmp_path):
    plain, packed, other = (
        read_bundle(write_bundle(tmp_path / name, {"t": MC | {"items": items}}, suffix)).tasks[0].items.digest
        for name, items, suffix in (
            ("plain", MC["items"], ".jsonl"),
            ("packed", MC["items"], ".jsonl.gz"),
            ("other", MC["items"][::-1], ".jsonl"),
        )
    )
    assert plain == packed != other


def test_no_bundle_and_no_items_at_all_are_failures(tmp_path):
    assert "core.yaml: is missing" in refusal(tmp_path / "nowhere")
    write_bundle(tmp_path, {"gone": {"kind": "schema", "items": None}})
    assert "items of none of the 1 tasks" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{broken", "line 3 is not JSON"),
        ('{"query": "q", "choices": ["a", "b"]}', "line 3: has no 'gold'"),
        ('{"query": "q", "choices": ["a", "b"], "gold": 2}', "line 3: 'gold' is 2, which is none of its 2"),
        ('{"query": "q", "choices": ["a", "b"], "gold": -1}', "line 3: 'gold' is -1"),
        ('{"query": "q", "choices": ["a", "b"], "gold": true}', "line 3: 'gold' is True"),
        ('{"query": "q", "choices": ["a"], "gold": 0}', "line 3: 'choices' has 1 options"),
        ('{"query": "q", "choices": ["a", 2], "gold": 0}', "line 3: 'choices' holds something else"),
        ('{"query": 7, "choices": ["a", "b"], "gold": 0}', "line 3: 'query' is int, not str"),
        ("[1, 2]", "line 3: has no 'choices'"),
    ],
)
def test_a_broken_line_is_named(tmp_path, line, complaint):
    path = write_bundle(tmp_path, {"t": MC}) / ITEMS
    lines = path.read_text().splitlines()
    lines[1] = f"\n{line}"  # after a blank line, which counts
    path.write_text("\n".join(lines))
    assert f"{path}: {complaint}" in refusal(tmp_path)


def test_a_blank_continuation_is_refused(tmp_path):
    items = [{"context": "c", "continuation": " "}]
    write_bundle(tmp_path, {"t": {"kind": "language_modeling", "items": items}})
    assert f"{tmp_path / ITEMS}: line 1: 'continuation' is blank" in refusal(tmp_path)


def test_fewer_items_than_shots_and_no_items_are_failures(tmp_path):
    write_bundle(tmp_path, {"t": MC | {"shots": 12}})
    assert f"{tmp_path / ITEMS}: 12 items are too few for t, which shows 12 others" in refusal(tmp_path)
    (tmp_path / ITEMS).write_text("\n\n")
    assert f"{tmp_path / ITEMS}: has no rows" in refusal(tmp_path)


def test_a_damaged_file_is_a_failure_and_not_a_missing_task(tmp_path):
    path = write_bundle(tmp_path, {"t": MC}, ".jsonl.gz") / f"{ITEMS}.gz"
    path.write_bytes(gzip.compress(b"x" * 500)[:-9])
    assert f"{path}: damaged" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("icl_tasks: [", "core.yaml: line 1: damaged"),
        ("tasks: []", "core.yaml: has no list of tasks under 'icl_tasks'"),
        ("icl_tasks: []", "core.yaml: has no list of tasks"),
        ("icl_tasks: [{label: t}]", "core.yaml: task 1: has no 'icl_task_type'"),
        (
            "icl_tasks: [{label: t, icl_task_type: essay, num_fewshot: [0], dataset_uri: x}]",
            "core.yaml: task 1: icl_task_type=essay is none of multiple_choice, schema, language_modeling",
        ),
        (
            "icl_tasks: [{label: t, icl_task_type: schema, num_fewshot: [], dataset_uri: x}]",
            "core.yaml: task 1: num_fewshot=[]",
        ),
        (
            "icl_tasks:\n" + "- {label: t, icl_task_type: schema, num_fewshot: [0], dataset_uri: x}\n" * 2,
            "core.yaml: task t is there twice",
        ),
    ],
)
def test_what_is_wrong_with_the_list_of_tasks_is_said(tmp_path, content, complaint):
    write_bundle(tmp_path, {"t": MC})
    (tmp_path / "core.yaml").write_text(content)
    assert complaint in refusal(tmp_path)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "eval_meta_data.csv: is missing"),
        ("Eval Task,Chance\nt,25\n", "eval_meta_data.csv: line 1 has no column 'Random baseline'"),
        ("Eval Task,Random baseline\nu,25\n", "eval_meta_data.csv: has no line for task t"),
        ("Eval Task,Random baseline\nt,many\n", "'Random baseline' of t is 'many', not 0 to 100"),
        ("Eval Task,Random baseline\nt,100\n", "'Random baseline' of t is '100', not 0 to 100"),
    ],
)
def test_what_is_wrong_with_the_baselines_is_said(tmp_path, content, complaint):
    path = write_bundle(tmp_path, {"t": MC}) / "eval_meta_data.csv"
    path.unlink() if content is None else path.write_text(content)
    assert complaint in refusal(tmp_path)


def test_all_of_the_real_bundle_is_read(shared_data):
    bundle = read_bundle(shared_data / "core")
    assert len(bundle.tasks) == 22
    assert bundle.missing == []
    assert {task.label: len(task.items) for task in bundle.tasks}["boolq"] == 2330
    assert {task.label: task.baseline for task in bundle.tasks}["boolq"] == pytest.approx(0.62)
