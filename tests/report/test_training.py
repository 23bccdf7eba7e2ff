"""Curves, time and cost from the lines of a run."""

from __future__ import annotations

import json

import pytest
from run_files import BEGAN, HOUR, start, write_chain, write_lines, write_run

from nanochat_pl.report.runs import read_runs
from nanochat_pl.report.training import curves_of, results_table, spent, time_section, total


def only(base):
    (run,) = read_runs(base).values()
    return run


def test_after_a_restart_the_later_value_of_a_step_counts_and_steps_are_in_order(tmp_path):
    folder = write_run(tmp_path, "a_base", "base")
    lines = [
        {"step": step, "time": BEGAN, "train/loss": loss}
        for step, loss in ((1, 5.0), (2, 9.0), (3, 8.0), (2, 4.0))
    ]
    write_lines(folder / "metrics" / "train.jsonl", lines)
    curves = {curve.title: curve for curve in curves_of(only(tmp_path)).curves}
    assert curves["loss, nats per token"].series[0].points == ((1, 5.0), (2, 4.0), (3, 8.0))


def test_numbers_the_card_does_not_know_get_a_curve_too(tmp_path):
    folder = write_run(tmp_path, "a_rl", "rl")
    write_lines(folder / "metrics" / "train.jsonl", [{"step": 1, "time": BEGAN, "train/reward": 0.5}])
    assert "reward" in [curve.title for curve in curves_of(only(tmp_path)).curves]


def test_time_between_a_stop_and_the_next_start_is_wall_clock_and_not_training(tmp_path):
    folder = write_run(tmp_path, "a_base", "base", hours=10)
    starts = [start(BEGAN), start(BEGAN + 8 * HOUR)]
    (folder / "environment.json").write_text(json.dumps({"starts": starts}))
    lines = [
        {"step": step, "time": BEGAN + hour * HOUR, "train/loss": 1.0}
        for step, hour in ((1, 1), (2, 3), (3, 9))
    ]
    write_lines(folder / "metrics" / "train.jsonl", lines)
    time = spent(only(tmp_path))
    assert time.trained_s == pytest.approx((3 + 2) * HOUR)
    assert time.ended - time.began == pytest.approx(10 * HOUR)
    assert (time.starts, time.devices) == (2, 8)
    assert time.dollars == pytest.approx(5 * 8 * 3.00)


def test_a_later_validation_is_not_training_time(tmp_path):
    folder = write_run(tmp_path, "a_base", "base", hours=2)
    for name in ("train", "val"):
        line = {"step": 1000, "time": BEGAN + 99 * HOUR, f"{name}/bpb": 0.8}
        with (folder / "metrics" / f"{name}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
    assert spent(only(tmp_path)).trained_s == pytest.approx(2 * HOUR)


def test_without_noted_starts_time_begins_with_the_first_line_and_there_is_no_price(tmp_path):
    folder = write_run(tmp_path, "a_base", "base", hours=2, steps=100)
    (folder / "environment.json").unlink()
    time = spent(only(tmp_path))
    assert time.trained_s == pytest.approx(2 * HOUR * 99 / 100)
    assert (time.starts, time.dollars) == (None, None)


def test_an_empty_run_has_no_time(tmp_path):
    folder = write_run(tmp_path, "a_base", "base")
    for name in ("environment.json", "artifact/provenance.json", "metrics/train.jsonl"):
        (folder / name).unlink()
    assert spent(only(tmp_path)) is None
    assert total([only(tmp_path)]) is None
    assert "No file tells" in time_section([only(tmp_path)])[0].text


def test_all_runs_together_count_from_the_first_start_to_the_last_end(tmp_path):
    write_chain(tmp_path)
    runs = sorted(read_runs(tmp_path).values(), key=lambda run: run.last_active)
    together = total(runs)
    assert together.trained_s == pytest.approx((3.3 + 0.4 + 0.15 + 1.5) * HOUR)
    assert together.wall_s == pytest.approx((3.3 + 0.4 + 0.15 + 1.5 + 0.3) * HOUR)
    assert together.dollars == pytest.approx(5.35 * 24)
    texts = " ".join(block.text for block in time_section(runs)[1:])
    assert "without RL, as nanochat counts: 4h03m" in texts


def test_where_training_ended_is_told_with_step_and_line(tmp_path):
    write_run(tmp_path, "a_base", "base", steps=100)
    rows = {row.label: row.cells[0] for row in results_table([only(tmp_path)]).rows}
    assert (rows["steps taken"].text, rows["steps taken"].note) == ("100", "of 100")
    assert rows["bits per byte, first"].text == "3.2000"
    assert rows["bits per byte, last"].note == "step 100"
    assert rows["bits per byte, last"].sources[0] == ("runs/a_base/metrics/val.jsonl", 21)
    assert rows["tokens trained on"].text == "52,428,800"


def test_values_that_are_not_finite_are_shown_and_not_the_lowest(tmp_path):
    folder = write_run(tmp_path, "a_base", "base")
    values = (float("nan"), 2.0, float("inf"), float("nan"))
    lines = [{"step": step, "time": BEGAN, "val/bpb": value} for step, value in enumerate(values)]
    write_lines(folder / "metrics" / "val.jsonl", lines)
    rows = {row.label: row.cells[0].text for row in results_table([only(tmp_path)]).rows}
    assert rows["bits per byte, last"] == "nan"
    assert rows["bits per byte, lowest"] == "2.0000"


def test_bits_per_byte_of_both_texts_are_lines_of_one_curve(tmp_path):
    folder = write_run(tmp_path, "a_base", "base")
    lines = [{"step": 1, "time": BEGAN, "val/bpb": 0.9, "train/bpb": 0.8}]
    write_lines(folder / "metrics" / "val.jsonl", lines)
    (curve,) = (curve for curve in curves_of(only(tmp_path)).curves if curve.title == "bits per byte")
    assert [series.name for series in curve.series] == ["val/bpb", "train/bpb"]


def test_a_median_is_one_of_finite_values(tmp_path):
    folder = write_run(tmp_path, "a_base", "base")
    rates = (float("nan"), 3.0, float("nan"), 1.0, 2.0)
    lines = [
        {"step": step, "time": BEGAN, "train/tokens_per_s": rate, "train/mfu": float("nan")}
        for step, rate in enumerate(rates)
    ]
    write_lines(folder / "metrics" / "train.jsonl", lines)
    rows = {row.label: row.cells[0] for row in results_table([only(tmp_path)]).rows}
    assert rows["tokens/s, median"][::2] == ("2", "without 2 not finite")
    assert rows["MFU, median"].text == "no finite value"
