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


def sections() -> Parser:
    parser = Parser()
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(Watchdog, "watchdog")
    parser.add_class_arguments(Samples, "samples")
    return parser


class Watchdog:
    """A section."""

    def __init__(self, timeout_s: float = 300.0) -> None: ...


class Samples:
    """Another section."""

    def __init__(self, every_n_steps: int = 10) -> None: ...


@pytest.mark.parametrize(
    ("section", "value", "off"),
    [
        ("watchdog", "false", "--watchdog.timeout_s 0"),
        ("samples", "null", "--samples.every_n_steps 0"),
        ("samples", "0", "--samples.every_n_steps 0"),
    ],
)
@pytest.mark.parametrize("is_in_a_file", [True, False])
def test_one_value_for_a_section_is_answered_with_how_to_turn_it_off(
    tmp_path, section, value, off, is_in_a_file
):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(f"{section}: {value}\n")
    args = ["--config", str(overlay)] if is_in_a_file else [f"--{section}", value]
    with pytest.raises(BadInput, match=f"{section}: is a section") as refused:
        sections().parse_args(args)
    assert str(refused.value).endswith(f"\nTurn it off: {off}")


def test_a_missing_file_is_answered_with_the_one_beside_it(tmp_path):
    (tmp_path / "d20_base.yaml").touch()
    text = explain(f"Parser key \"config\": File does not exist: '{tmp_path}/d20_bsae.yaml'", [])
    assert text.endswith(f"Did you mean {tmp_path}/d20_base.yaml?")
