"""The plan without Lightning is the plan of the stage's own parser, and mistakes are that one's to explain."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nanochat_pl.commands import plan as quick
from nanochat_pl.training.lightning_cli import StageCLI

ROOT = Path(__file__).resolve().parent.parent.parent
BASES = sorted((ROOT / "configs").glob("*_base.yaml"))
OVERLAYS = [None, *sorted((ROOT / "configs" / "hardware").glob("*.yaml"))]


def by_the_stages_parser(args: list[str]):
    return StageCLI("plan", args).make_plan(world_size=8)


def planned(args: list[str]):
    return quick._planned(quick._request([*args, "--devices", "8"]))


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path and path.stem)
@pytest.mark.parametrize("base", BASES, ids=lambda path: path.stem)
def test_every_base_stage_has_the_same_plan_both_ways(base, overlay):
    rows = ["--data.init_args.batch_tokens", "8388608"]  # divides for every overlay and eight ranks
    args = ["--config", str(base), *(["--config", str(overlay)] if overlay else []), *rows]
    assert planned(args) == by_the_stages_parser(args)


@pytest.mark.parametrize(
    "options",
    [
        ["--model.init_args.depth", "32"],
        ["--model.init_args.depth=7", "--model.init_args.n_kv_head", "2"],
        ["--model.init_args.target_flops", "1.0e+19"],
        ["--model.init_args.tokens_per_parameter", "8", "--model.init_args.lr_fraction", "0.5"],
        ["--trainer.max_steps", "100", "--trainer.accelerator", "cpu", "--trainer.precision", "32-true"],
        ["--data.init_args.device_batch_rows", "8", "--data.init_args.sequence_len", "1024"],
        ["--run", "mine", "--model.init_args.embedding_lr", "0.3", "--model.init_args.vocab_size", "32768"],
    ],
    ids=" ".join,
)
def test_options_count_the_same_both_ways(options):
    args = ["--config", str(ROOT / "configs" / "d20_base.yaml"), *options]
    assert planned(args) == by_the_stages_parser(args)


@pytest.mark.parametrize(
    "options",
    [
        ["--model.init_args.depht", "3"],
        ["--trainer.max_stepz", "3"],
        ["--model.init_args.depth", "deep"],
        ["--model.init_args.depth", "2.5"],
        ["--trainer.max_steps", "many"],
        ["--data.init_args.corpus", "3"],
        ["--data.init_args.batch_tokens", "null"],
        ["--model.class_path", "os.system"],
        [
            "--model.init_args.target_flops",
            "1e19",
        ],  # YAML takes this for a word; the other parser knows better
        ["--devices", "0"],
        ["--json=maybe"],
        ["stray"],
        ["--run"],
    ],
    ids=" ".join,
)
def test_whatever_is_not_plain_goes_to_the_stages_parser(options):
    with pytest.raises(quick._NotPlain):
        quick._planned(quick._request(["--config", str(ROOT / "configs" / "d20_base.yaml"), *options]))


def test_a_file_that_is_no_stage_goes_to_the_stages_parser(tmp_path):
    for text in (
        "",
        "- a\n",
        "model: {}\n",
        "a: [1\n",
        "model: {class_path: nanochat_pl.training.LanguageModel}\n",
    ):
        file = tmp_path / "stage.yaml"
        file.write_text(text)
        with pytest.raises(quick._NotPlain):
            quick._planned(quick._request(["--config", str(file)]))
    with pytest.raises(quick._NotPlain):
        quick._request(["--config", str(tmp_path / "missing.yaml")])
    with pytest.raises(quick._NotPlain):
        quick._request(["--json"])


def test_a_plan_imports_no_lightning():
    program = (
        "import sys, cli\n"
        "assert cli.main(['plan', '--config', 'configs/d20_base.yaml', '--devices', '8', '--json']) == 0\n"
        "assert 'lightning' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
