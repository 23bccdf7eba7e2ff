"""Every YAML parses, plans and builds; an overlay sets scalars only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from nanochat_pl.model.gpt import GPT
from nanochat_pl.training.lightning_cli import StageCLI

ROOT = Path(__file__).resolve().parent.parent
STAGES = sorted((ROOT / "configs").glob("*.yaml"))
OVERLAYS = sorted((ROOT / "configs" / "hardware").glob("*.yaml"))
PARAMETERS = {"d4": 36_700_160, "d20": 560_988_160, "d26": 1_081_999_360, "d32": 1_879_048_192}


def planned(*paths: Path) -> StageCLI:
    """Build the objects of a stage without a Trainer."""
    horizon = (
        ["--trainer.max_steps", "10"] if paths[0].stem.endswith(("_mid", "_sft")) else []
    )  # else the data says
    return StageCLI("plan", [argument for path in paths for argument in ("--config", str(path))] + horizon)


def test_the_sizes_are_all_there():
    names = {f"d{depth}" for depth in (4, 8, 12, 20, 26, 32)} | {"demo"}
    stages = {f"{name}_{stage}" for name in names for stage in ("base", "mid", "sft")}
    assert {path.stem for path in STAGES} >= stages
    assert {path.stem for path in OVERLAYS} >= {"cpu", "gpu1", "gpu8"}


@pytest.mark.parametrize("path", STAGES, ids=lambda path: path.stem)
def test_stage_plans_and_builds_on_the_meta_device(path):
    stage = planned(path)
    plan = stage.make_plan(world_size=1)
    with torch.device("meta"):
        gpt = GPT(stage.model.gpt_config(stage.datamodule.sequence_len))
    assert sum(parameter.numel() for parameter in gpt.parameters()) == plan.parameters
    assert plan.parameters == PARAMETERS.get(path.stem.split("_")[0], plan.parameters)
    json.dumps(plan.to_dict())


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.stem)
@pytest.mark.parametrize("stage", STAGES, ids=lambda path: path.stem)
def test_overlay_fits_every_stage(stage, overlay):
    settings = yaml.safe_load(overlay.read_text())
    built = planned(stage, overlay)
    for key, value in settings.get("data", {}).get("init_args", {}).items():
        assert getattr(built.datamodule, key) == value
    assert built.make_plan(world_size=1).steps > 0


@pytest.mark.parametrize("path", OVERLAYS, ids=lambda path: path.stem)
def test_overlay_sets_scalars_only(path):
    def leaves(node):
        return (
            [leaf for value in node.values() for leaf in leaves(value)] if isinstance(node, dict) else [node]
        )

    assert not [leaf for leaf in leaves(yaml.safe_load(path.read_text())) if isinstance(leaf, list)]
