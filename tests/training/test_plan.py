"""The plan's figures against published runs, its precedence, and what it says about impossible batches."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import fields

import pytest

from nanochat_pl.model.config import GPTConfig
from nanochat_pl.system.errors import BadInput
from nanochat_pl.system.hardware import find_gpu
from nanochat_pl.training.plan import Plan, make_plan

H100 = find_gpu("NVIDIA H100 80GB HBM3")
D20 = {
    "sequence_len": 2048,
    "device_batch_rows": 32,
    "batch_tokens": 524_288,
    "world_size": 8,
    "embedding_lr": 0.2,
    "unembedding_lr": 0.004,
    "matrix_lr": 0.02,
}


def plan_of(depth=20, **settings):
    return make_plan(GPTConfig.from_depth(depth), **D20 | settings)


@pytest.mark.parametrize(
    ("depth", "parameters", "flops_per_token", "steps", "tokens", "total_flops"),
    [
        (20, 560_988_160, 3.491758e9, 21_400, 11_219_763_200, "3.918e+19"),
        (26, 1_081_999_360, 6.9009e9, 41_275, 21_639_987_200, "1.493e+20"),
        (32, 1_879_048_192, 1.207960e10, 71_680, 37_580_963_840, "4.540e+20"),
    ],
)
def test_figures_of_published_runs(depth, parameters, flops_per_token, steps, tokens, total_flops):
    plan = plan_of(depth, device_batch_rows=8)
    assert plan.parameters == parameters
    assert plan.flops_per_token == pytest.approx(flops_per_token, rel=1e-5)
    assert plan.steps == steps
    assert plan.tokens == tokens
    assert f"{plan.total_flops:.3e}" == total_flops
    assert plan.total_flops == plan.flops_per_token * plan.tokens


@pytest.mark.parametrize(
    ("rows", "world_size", "accumulation"), [(32, 8, 1), (32, 1, 8), (8, 8, 4), (1, 2, 128)]
)
def test_accumulation_makes_up_for_fewer_ranks_and_rows(rows, world_size, accumulation):
    plan = plan_of(device_batch_rows=rows, world_size=world_size)
    assert plan.accumulation == accumulation
    assert plan.steps == 21_400


def test_steps_come_before_flops_and_flops_before_tokens_per_parameter():
    asked = {"max_steps": 300, "target_flops": 1e19, "tokens_per_parameter": 1.0}
    assert plan_of(**asked).steps == 300
    assert plan_of(**asked | {"max_steps": None}).steps == round(1e19 / (plan_of().flops_per_token * 524_288))
    assert plan_of(**asked | {"max_steps": None, "target_flops": None}).steps == 560_988_160 // 524_288


def test_flops_round_to_the_nearest_step_and_tokens_round_down():
    a_step = plan_of().flops_per_token * 524_288
    assert plan_of(target_flops=10.6 * a_step).steps == 11
    assert plan_of(tokens_per_parameter=0.0102).steps == 10  # 10.9


@pytest.mark.parametrize(
    ("depth", "rows", "fits"), [(20, 32, True), (20, 64, False), (32, 8, True), (32, 16, False)]
)
def test_memory_agrees_with_published_runs_on_80_gb(depth, rows, fits):
    plan = plan_of(depth, device_batch_rows=rows, world_size=1)
    assert (plan.memory_bytes["total"] <= 80e9) is fits


def test_fsdp2_holds_shares_and_what_is_gathered():
    embeddings, block = 4 * 2 * 65_536 * 1280, 4 * 12 * 1280**2
    held = plan_of(world_size=8, strategy="fsdp2").memory_bytes
    assert held["weights"] == 4 * 560_988_160 // 8 + embeddings + 2 * block
    assert held["gradients"] == held["weights"]
    assert held["optimizer"] == plan_of(world_size=1).memory_bytes["optimizer"] // 8
    accumulated = plan_of(world_size=8, strategy="fsdp2", device_batch_rows=16).memory_bytes
    assert accumulated["gradients"] == 4 * 560_988_160


def test_memory_adds_up_and_follows_precision_and_ranks():
    one, two, fp32 = plan_of(world_size=1), plan_of(world_size=2), plan_of(world_size=1, precision="32-true")
    assert list(one.memory_bytes) == ["weights", "gradients", "optimizer", "activations", "logits", "total"]
    assert sum(one.memory_bytes.values()) == 2 * one.memory_bytes["total"]
    assert one.memory_bytes["weights"] == 4 * 560_988_160
    assert one.memory_bytes["optimizer"] == 4 * (2 * 2 * 65_536 * 1280 + 393_216_000)
    assert two.memory_bytes["gradients"] == one.memory_bytes["gradients"]
    assert two.memory_bytes["optimizer"] == one.memory_bytes["optimizer"] // 2
    ddp = plan_of(world_size=2, strategy="ddp").memory_bytes
    assert ddp["gradients"] == 2 * one.memory_bytes["gradients"]
    assert ddp["optimizer"] == one.memory_bytes["optimizer"]
    assert fp32.memory_bytes["activations"] > 1.8 * one.memory_bytes["activations"]


def test_time_agrees_with_the_published_d32():
    plan = plan_of(32, device_batch_rows=8, gpu=H100)
    assert plan.time_s / 3600 == pytest.approx(31.3, rel=0.05)
    assert plan.node_hours == pytest.approx(plan.time_s / 3600)
    assert "9.89e+14 FLOP/s of H100 SXM x 0.5 assumed utilization" in plan.sources["time_s"]


def test_two_nodes_take_half_the_time_and_the_same_node_hours():
    one, two = (plan_of(gpu=H100, world_size=size, device_batch_rows=16) for size in (8, 16))
    assert two.time_s == pytest.approx(one.time_s / 2)
    assert two.node_hours == pytest.approx(one.node_hours)


def test_time_on_an_unknown_device_is_unknown():
    plan = plan_of()
    assert plan.time_s is None
    assert plan.node_hours is None
    assert plan.sources["time_s"].startswith("the device's peak FLOP/s is not known")
    assert "unknown" in plan.table()


def test_rates_follow_the_width():
    rates = plan_of().learning_rates
    scale = math.sqrt(768 / 1280)
    assert rates == pytest.approx({"embedding": 0.2 * scale, "unembedding": 0.004 * scale, "matrix": 0.02})


def test_shards_hold_all_documents_and_one_more_validates():
    assert plan_of().shards == math.ceil(11_219_763_200 * 4.8 / 0.65 / 250e6) + 1
    assert plan_of(max_steps=1).shards == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"batch_tokens": 500_000, "world_size": 1},
            "data.batch_tokens=500000 is not a multiple of 65536 tokens"
            " (32 rows x 2048 tokens x 1 rank); try 524288",
        ),
        (
            {"world_size": 16},
            "data.batch_tokens=524288 is less than one micro-batch of 1048576 tokens"
            " (32 rows x 2048 tokens x 16 ranks); try 1048576, or data.device_batch_rows=16",
        ),
        (
            {"batch_tokens": 1000, "world_size": 1},
            "data.batch_tokens=1000 is less than one micro-batch of 65536 tokens"
            " (32 rows x 2048 tokens x 1 rank); try 65536",
        ),
        ({"batch_tokens": 0}, "data.batch_tokens=0 is less than 1"),
        ({"device_batch_rows": 0}, "data.device_batch_rows=0 is less than 1"),
        ({"sequence_len": -1}, "data.sequence_len=-1 is less than 1"),
        ({"max_steps": 0}, "trainer.max_steps=0 gives 0 steps of 524288 tokens; at least 1 is needed"),
        (
            {"tokens_per_parameter": 1e-4},
            "model.tokens_per_parameter=0.0001 gives 0 steps of 524288 tokens; at least 1 is needed",
        ),
        (
            {"target_flops": 1e3},
            "model.target_flops=1000 gives 0 steps of 524288 tokens; at least 1 is needed",
        ),
    ],
)
def test_an_impossible_batch_or_horizon_names_its_remedy(settings, message):
    with pytest.raises(BadInput) as caught:
        plan_of(**settings)
    assert str(caught.value) == message


def test_every_suggested_batch_is_accepted():
    for batch_tokens in (70_000, 500_000, 99_999, 163_840):
        with pytest.raises(BadInput) as caught:
            plan_of(batch_tokens=batch_tokens, world_size=1)
        plan_of(batch_tokens=int(str(caught.value).rsplit("try ", 1)[1]), world_size=1)


def test_every_key_has_a_source_and_survives_json():
    plan = plan_of(gpu=H100)
    keys = [field.name for field in fields(Plan)]
    assert keys == [
        "parameters",
        "flops_per_token",
        "steps",
        "batch_tokens",
        "tokens",
        "total_flops",
        "device_batch_rows",
        "accumulation",
        "world_size",
        "sequence_len",
        "learning_rates",
        "memory_bytes",
        "time_s",
        "node_hours",
        "shards",
        "sources",
    ]
    assert list(plan.to_dict()) == keys
    assert json.loads(json.dumps(plan.to_dict())) == plan.to_dict()
    assert plan.sources.keys() == set(keys) - {"sources"}
    for key in ("learning_rates", "memory_bytes"):
        assert plan.sources[key].keys() == getattr(plan, key).keys()


def test_table_shows_every_number_with_its_source():
    plan = plan_of(gpu=H100)
    lines = plan.table().splitlines()
    first_words = [line.split()[0] for line in lines if line]
    for key in set(plan.to_dict()) - {"sources", "learning_rates", "memory_bytes"}:
        assert key in first_words
    assert "21,400" in next(line for line in lines if line.startswith("steps"))
    assert "memory_bytes.total" in first_words
    assert "RTX 5090" in plan.table()
    assert max(map(len, lines)) <= 140


def test_a_plan_needs_neither_torch_nor_lightning():
    code = (
        "import sys, types, pathlib, nanochat_pl\n"
        "package = types.ModuleType('nanochat_pl.training')\n"  # its __init__ re-exports Lightning classes
        "package.__path__ = [str(pathlib.Path(nanochat_pl.__path__[0]) / 'training')]\n"
        "sys.modules['nanochat_pl.training'] = package\n"
        "import nanochat_pl.training.plan\n"
        "assert not {'torch', 'lightning'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
