"""Which evaluation counts, and how scores stand beside those of others."""

from __future__ import annotations

import math

import pytest
from run_files import (
    CORE,
    chat_line,
    core_line,
    partial_core_line,
    write_chain,
    write_lines,
    write_published,
    write_run,
)

from nanochat_pl.report.card import EMPTY
from nanochat_pl.report.published import published_scores
from nanochat_pl.report.runs import read_runs
from nanochat_pl.report.scores import (
    chat_core_cell,
    chat_section,
    columns_of,
    core_cell,
    core_section,
    task_scores,
)


def run_with(base, **files):
    folder = write_run(base, "d4_sft", "sft")
    for name, lines in files.items():
        write_lines(folder / "metrics" / f"{name}.jsonl", lines)
    return read_runs(base)["d4_sft"]


def test_of_several_evaluations_the_last_step_counts(tmp_path):
    run = run_with(tmp_path, chat=[chat_line(100), chat_line(50, 0.3)])
    assert task_scores(run, "chat")["MMLU"].value == pytest.approx(0.33)
    assert task_scores(run, "chat")["MMLU"].source.line == 1


def test_a_look_at_few_problems_does_not_replace_a_whole_evaluation(tmp_path):
    few = {
        "step": 100,
        "time": 0,
        "chat/MMLU": 0.9,
        "chat/MMLU_n": 10,
        "chat/MMLU_se": 0.1,
        "chat/world": 0.5,
    }
    run = run_with(tmp_path, chat=[chat_line(100), few])
    scores = task_scores(run, "chat")
    assert (scores["MMLU"].value, scores["MMLU"].n) == (0.33, 14042)
    assert scores["world"].value == 0.5
    assert chat_core_cell(run).text == "0.2442"


def test_of_equal_evaluations_the_later_counts(tmp_path):
    run = run_with(tmp_path, chat=[chat_line(100), chat_line(100, 0.1)])
    assert task_scores(run, "chat")["MMLU"].value == pytest.approx(0.43)


def test_whole_numbers_about_all_tasks_are_no_tasks(tmp_path):
    run = run_with(tmp_path, core=[core_line(10)], chat=[chat_line(10)])
    assert set(task_scores(run, "core")) == set(CORE)
    assert not {"metric", "MMLU_n", "metric_version"} & set(task_scores(run, "chat"))


def test_a_partial_core_is_called_so_and_a_whole_one_is_preferred(tmp_path):
    run = run_with(tmp_path, core=[core_line(10), partial_core_line(10)])
    assert core_cell(run).text == "0.2219"
    run = run_with(tmp_path / "other", core=[partial_core_line(10)])
    assert (core_cell(run).text, core_cell(run).note) == ("0.9000", "partial, ± 0.0100")
    assert set(task_scores(run, "core")) == set(CORE)


def test_core_of_few_problems_does_not_replace_core_of_many(tmp_path):
    few = core_line(10, **{"core/metric": 0.5} | {f"core/{name}_n": 20 for name in CORE})
    assert core_cell(run_with(tmp_path, core=[core_line(10), few])).text == "0.2219"
    again = core_line(10, **{"core/metric": 0.3})
    assert core_cell(run_with(tmp_path / "other", core=[core_line(10), again, few])).text == "0.3000"


def test_without_chatcore_there_is_no_number_in_its_place(tmp_path):
    line = {key: value for key, value in chat_line(10).items() if not key.startswith("chat/metric")}
    assert chat_core_cell(run_with(tmp_path, chat=[line])) == EMPTY


def test_every_stage_has_a_column_and_one_without_a_run_is_empty(tmp_path):
    run = run_with(tmp_path, chat=[chat_line(10)])
    assert [column.head for column in columns_of([run])] == ["BASE", "MID", "SFT", "RL"]
    table = chat_section([run])[0]
    (mmlu,) = (row for row in table.rows if row.label == "MMLU")
    assert [cell.text for cell in mmlu.cells] == ["—", "—", "0.3300", "—"]
    assert "± 0.0101, n 14,042" in mmlu.cells[2].note


def test_two_runs_of_one_stage_have_a_column_each(tmp_path):
    write_run(tmp_path, "a_sft", "sft")
    write_run(tmp_path, "b_sft", "sft")
    heads = [column.head for column in columns_of(list(read_runs(tmp_path).values()))]
    assert heads == ["BASE", "MID", "SFT · a_sft", "SFT · b_sft", "RL"]


def test_core_stands_beside_the_published_scores_of_gpt2(tmp_path):
    write_chain(tmp_path)
    (table,) = core_section(list(read_runs(tmp_path).values()), tmp_path)
    assert table.columns[-3:] == ("GPT-2", "GPT-2 large", "GPT-2 xl")
    first, whole = table.rows[0], table.rows[-1]
    assert [cell.text for cell in first.cells] == [
        "1000",
        "0.4400",
        "0.0123",
        "0.2500",
        "0.1140",
        "0.1990",
        "0.2570",
    ]
    assert first.dots == (0.25, 0.114, 0.199, 0.257)
    assert [cell.text for cell in whole.cells[-4:]] == ["0.2219", "0.1140", "0.1990", "0.2570"]
    assert first.cells[-1].sources[0].file == "tasks/core/reference/openai-community-gpt2-xl.csv"


def test_damaged_published_scores_are_left_out(tmp_path):
    write_published(tmp_path)
    folder = tmp_path / "tasks" / "core" / "reference"
    (folder / "openai-community-gpt2.csv").write_bytes(b"\xff\xfe")
    (folder / "openai-community-gpt2-xl.csv").write_text(
        "Task,Accuracy,Centered\nboolq,0.5,oops\ncopa,0.5,0.25\n\nx\n"
    )
    assert [(model.name, len(model.centred)) for model in published_scores(tmp_path)] == [
        ("GPT-2 xl", 1),
        ("GPT-2 large", 5),
    ]


def test_the_real_published_scores_are_read(shared_data, tmp_path):
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "core").symlink_to(shared_data / "core")
    models = published_scores(tmp_path)
    assert [model.name for model in models] == ["GPT-2", "GPT-2 medium", "GPT-2 large", "GPT-2 xl"]
    assert all(len(model.centred) == 23 for model in models)
    assert models[0].centred["CORE"] == pytest.approx(0.113891)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_dot_is_drawn_for_finite_scores_only(tmp_path, value):
    write_chain(tmp_path)
    line = core_line(21400, **{"core/hellaswag_zeroshot_centred": value})
    write_lines(tmp_path / "runs" / "d20_base" / "metrics" / "core.jsonl", [line])
    (tmp_path / "tasks" / "core" / "reference" / "openai-community-gpt2.csv").write_text(
        f"Task, Accuracy, Centered\narc_easy, 0.4, {value}\n"
    )
    (table,) = core_section(list(read_runs(tmp_path).values()), tmp_path)
    dots = {row.label: row.dots for row in table.rows}
    assert dots["hellaswag_zeroshot"] == ()
    assert dots["arc_easy"][0] == 0.48
    assert all(math.isfinite(dot) for row in dots.values() for dot in row)
