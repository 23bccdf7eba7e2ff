"""Which runs are on a card, and which stage each is."""

from __future__ import annotations

import pytest
from run_files import BEGAN, HOUR, write_chain, write_run

from nanochat_pl.report.runs import choose, newest_chain, others, read_runs
from nanochat_pl.system.errors import BadInput, Failure


def names(runs) -> list[str]:
    return [run.name for run in runs]


def test_stages_are_what_the_configurations_name(tmp_path):
    write_chain(tmp_path)
    assert {name: run.stage for name, run in read_runs(tmp_path).items()} == {
        "d20_base": "base",
        "d20_mid": "mid",
        "d20_sft": "sft",
        "d20_rl": "rl",
    }


def test_of_chat_stages_without_a_telling_name_the_one_another_starts_from_is_mid(tmp_path):
    write_run(tmp_path, "first", "base")
    write_run(tmp_path, "second", "sft", init_from="first")
    write_run(tmp_path, "third", "sft", init_from="/some/where/runs/second/artifact")
    runs = read_runs(tmp_path)
    assert [runs[name].stage for name in ("first", "second", "third")] == ["base", "mid", "sft"]
    assert runs["third"].parent == "second"


def test_a_damaged_configuration_leaves_the_stage_open(tmp_path):
    folder = write_run(tmp_path, "odd", "base")
    (folder / "config.yaml").write_text("data: [")
    assert read_runs(tmp_path)["odd"].stage == ""


def test_the_newest_run_and_what_it_comes_from_is_the_default(tmp_path):
    write_chain(tmp_path)
    write_run(tmp_path, "d4_base", "base", began=BEGAN - 50 * HOUR)
    write_run(tmp_path, "d20_rl.old-1", "rl", began=BEGAN + 500 * HOUR)
    runs = read_runs(tmp_path)
    chain = choose(runs, None, tmp_path)
    assert names(chain) == ["d20_base", "d20_mid", "d20_sft", "d20_rl"]
    assert names(others(runs, chain)) == ["d20_rl.old-1", "d4_base"]


def test_runs_that_start_from_each_other_are_no_endless_chain(tmp_path):
    write_run(tmp_path, "a_mid", "mid", init_from="b_sft")
    write_run(tmp_path, "b_sft", "sft", init_from="a_mid", began=BEGAN + HOUR)
    assert names(newest_chain(read_runs(tmp_path))) == ["a_mid", "b_sft"]


def test_runs_asked_for_come_in_the_order_of_their_stages(tmp_path):
    write_chain(tmp_path)
    runs = read_runs(tmp_path)
    assert names(choose(runs, "d20_sft, d20_base,d20_sft", tmp_path)) == ["d20_base", "d20_sft"]


def test_an_unknown_run_is_answered_with_what_was_meant(tmp_path):
    write_chain(tmp_path)
    with pytest.raises(BadInput, match="'d20_bsae'\nDid you mean: --runs d20_base"):
        choose(read_runs(tmp_path), "d20_bsae", tmp_path)
    with pytest.raises(BadInput, match="Choose among: d20_rl"):
        choose(read_runs(tmp_path), "../../etc", tmp_path)


@pytest.mark.parametrize("asked", ["", ",", ",".join(f"r{number}" for number in range(13))])
def test_none_or_too_many_names_are_refused(tmp_path, asked):
    write_chain(tmp_path)
    with pytest.raises(BadInput, match="1 to 12"):
        choose(read_runs(tmp_path), asked, tmp_path)


def test_no_run_at_all_is_a_failure_with_the_command_that_makes_one(tmp_path):
    with pytest.raises(Failure, match=r"python cli\.py demo"):
        choose(read_runs(tmp_path), None, tmp_path / "runs")
