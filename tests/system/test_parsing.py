"""A typing mistake is answered with what was meant, in at most three lines."""

from __future__ import annotations

import pytest
from jsonargparse import ArgumentParser

from nanochat_pl.system.errors import BadInput
from nanochat_pl.system.parsing import Suggesting, explain, nearest

KNOWN = [
    "--trainer.max_steps",
    "trainer.max_steps",
    "depth",
    "vocab_size",
    "--model.init_args",
    "seed_everything",
]


class Parser(Suggesting, ArgumentParser):
    """A plain parser with suggestions."""


def test_the_nearest_name_is_suggested_in_the_place_of_the_wrong_one():
    assert nearest("--trainer.max_stepz", KNOWN) == "--trainer.max_steps"
    assert nearest("depht", KNOWN) == "depth"
    assert nearest("model.init_args.depht", KNOWN) == "model.init_args.depth"
    assert nearest("zzzzqq", KNOWN) is None
    assert nearest("arc-easy", ["ARC-Easy", "MMLU"]) == "ARC-Easy"
    assert nearest("arceasy", ["ARC-Easy", "MMLU"]) == "ARC-Easy"


def test_a_long_message_becomes_a_few_lines():
    message = (
        "Parser key \"model\":\n  Does not validate\n  Subtypes: [x]\n  Errors:\n    - no attribute 'MM'\n"
    )
    assert explain(message, KNOWN).count("\n") <= 2


def test_abbreviations_are_refused():
    parser = Parser()
    parser.add_argument("--trainer.max_steps", type=int)
    with pytest.raises(BadInput, match=r"Did you mean --trainer.max_steps"):
        parser.parse_args(["--trainer.max_step", "3"])


def test_a_missing_file_is_answered_with_the_one_beside_it(tmp_path):
    (tmp_path / "d20_base.yaml").touch()
    text = explain(f"Parser key \"config\": File does not exist: '{tmp_path}/d20_bsae.yaml'", [])
    assert text.endswith(f"Did you mean {tmp_path}/d20_base.yaml?")
