"""One process, DDP, ZeRO and FSDP2 train the same model, and what each saves is the same file."""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from ranks import on_ranks
from tiny_trainer import SEQUENCE_LEN, Kept, tiny_module, train

from nanochat_pl.model.gpt import GPT
from nanochat_pl.system.errors import Failure
from nanochat_pl.training.callbacks.finite_guard import FiniteGuard
from nanochat_pl.training.callbacks.train_log import TrainLog
from nanochat_pl.training.same_start import require_same_step, require_same_weights
from nanochat_pl.training.strategies import gpt_for_each_rank, gpt_for_first_rank

STRATEGIES = ("ddp", "zero", "fsdp2")
STEPS, MICRO_BATCHES = 50, 4  # of a step, over all ranks
CLIPPED = {"gradient_clip_val": 0.01, "precision": "64-true"}
# Three layers of odd width: neither matrices nor rows nor the embeddings divide by two ranks.
SHAPE = {"depth": 3, "aspect_ratio": 11, "head_dim": 11 * 2, "vocab_size": 67, "weight_decay": 0.1}


class SpoiltGradient(Callback):
    """One rank's gradients of one step are not finite."""

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step == 3 and trainer.global_rank == trainer.world_size - 1:
            gradient = optimizer.param_groups[2]["params"][0].grad
            getattr(gradient, "_local_tensor", gradient).fill_(float("nan"))


def trained(strategy, ranks, steps=STEPS, spoilt=False, **settings):
    """Train, and return what the tests compare; weights, state and checkpoint of all ranks on rank 0."""
    os.environ["WORLD_SIZE"] = str(ranks)  # the Trainer's end takes it away
    model = tiny_module(steps, MICRO_BATCHES // ranks, ranks, **SHAPE)
    model.gpt = GPT.materialized(model.gpt_config(SEQUENCE_LEN), generator=torch.Generator().manual_seed(0))
    kept, log, guard = Kept(), TrainLog(), FiniteGuard()
    callbacks = [log, *([SpoiltGradient()] if spoilt else []), guard, log.clock_restart]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is not finite")
        trainer = train(
            model, Path(folder), *callbacks, logger=kept, strategy=strategy, devices=ranks, **settings
        )
        gpt = gpt_for_first_rank(model, "cpu")
        copy = gpt_for_each_rank(model).state_dict()
        trainer.save_checkpoint(f"{folder}/end.ckpt")
        path = Path(folder) / "end.ckpt"
        saved = torch.load(path, weights_only=True) if trainer.is_global_zero else {}
    state = trainer.optimizers[0].state
    return {
        "losses": [line["train/loss"] for line in kept.lines.values()],
        "weights": {} if gpt is None else {n: w.detach().clone() for n, w in gpt.state_dict().items()},
        "file": {key: saved.get(key) for key in ("state_dict", "optimizer_states", "global_step")},
        "state_bytes": sum(v.nbytes for values in state.values() for v in values.values()),
        "copies_are_equal": gpt is None
        or all(torch.equal(copy[name], weight) for name, weight in gpt.state_dict().items()),
        "skipped": guard.skipped,
    }


def everything(rank, ranks):
    """Run all that the tests below look at, in one start of the processes."""
    runs = {strategy: trained(strategy, ranks) for strategy in STRATEGIES}
    for strategy in STRATEGIES:
        runs[f"{strategy} spoilt"] = trained(strategy, ranks, steps=6, spoilt=True)
        runs[f"{strategy} clipped"] = trained(strategy, ranks, steps=6, **CLIPPED)
    runs |= {f"{s} bf16": trained(s, ranks, steps=6, precision="bf16-mixed") for s in STRATEGIES}
    return runs | {"messages": different_starts(rank)}


def different_starts(rank):
    """Return what the ranks are told where they differ."""
    linear = torch.nn.Linear(3, 2)
    torch.nn.init.zeros_(linear.weight)
    torch.nn.init.ones_(linear.bias)
    require_same_weights(linear)
    require_same_step(7)
    linear.weight.data[1, 2] = float(rank)
    messages = []
    for check, argument in ((require_same_weights, linear), (require_same_step, 7 + rank)):
        try:
            check(argument)
        except Failure as failure:
            messages.append(str(failure))
    return messages


@pytest.fixture(scope="module")
def fp32_everywhere():
    """Have Muon's iterations in fp32: bf16 would make steps of a thousandth of what rounds differently."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
        yield


@pytest.fixture(scope="module")
def two(tmp_path_factory, fp32_everywhere):
    return on_ranks(2, tmp_path_factory.mktemp("two"), everything, 2)


@pytest.fixture(scope="module")
def one(fp32_everywhere):
    return {
        "": trained("auto", 1),
        " spoilt": trained("auto", 1, steps=6, spoilt=True),
        " clipped": trained("auto", 1, steps=6, **CLIPPED),
    }


def assert_close(a, b, tolerance):
    """Compare losses, and weights relative to the largest of each matrix."""
    assert a["losses"] == pytest.approx(b["losses"], rel=tolerance)
    assert a["weights"].keys() == b["weights"].keys()
    for name, weight in a["weights"].items():
        difference = (weight - b["weights"][name]).abs().max()
        assert difference <= tolerance * max(1.0, b["weights"][name].abs().max()), name


def test_zero_is_ddp_to_the_last_bit(two):
    ddp, zero = two[0]["ddp"], two[0]["zero"]
    assert [loss.hex() for loss in zero["losses"]] == [loss.hex() for loss in ddp["losses"]]
    assert all(torch.equal(zero["weights"][name], weight) for name, weight in ddp["weights"].items())
    assert_same(zero["file"], ddp["file"])


def assert_same(a, b):
    """Compare nested plain data with tensors, to the last bit."""
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b


def test_fsdp2_is_ddp_within_rounding(two):
    assert_close(two[0]["fsdp2"], two[0]["ddp"], 1e-5)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_processes_are_one_within_rounding(two, one, strategy):
    assert_close(two[0][strategy], one[""], 1e-5)


def test_copies_of_a_sharded_network_are_whole(two):
    assert all(runs["fsdp2"]["copies_are_equal"] for runs in two)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_in_bf16_the_losses_agree(two, strategy):
    assert two[0][f"{strategy} bf16"]["losses"] == pytest.approx(two[0]["ddp bf16"]["losses"], rel=1e-3)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_checkpoint_has_whole_weights_and_state_by_name_whatever_wrote_it(two, one, strategy):
    file, plain = two[0][strategy]["file"], one[""]["file"]
    assert {n: w.shape for n, w in file["state_dict"].items()} == {
        n: w.shape for n, w in plain["state_dict"].items()
    }
    (state,), (expected,) = file["optimizer_states"], plain["optimizer_states"]
    assert state["state"].keys() == expected["state"].keys() == two[0]["ddp"]["weights"].keys()
    assert {n: {k: v.shape for k, v in values.items()} for n, values in state["state"].items()} == {
        n: {k: v.shape for k, v in values.items()} for n, values in expected["state"].items()
    }


@pytest.mark.parametrize("strategy", ["zero", "fsdp2"])
def test_state_of_a_rank_is_its_share(two, one, strategy):
    ideal = one[""]["state_bytes"] / 2
    assert max(runs[strategy]["state_bytes"] for runs in two) <= 1.05 * ideal


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_gradient_that_is_not_finite_on_one_rank_skips_the_step_on_all(two, one, strategy):
    assert [runs[f"{strategy} spoilt"]["skipped"] for runs in two] == [1, 1]
    assert_close(two[0][f"{strategy} spoilt"], one[" spoilt"], 1e-5)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_clipping_uses_the_norm_of_all_gradients(two, one, strategy):
    assert_close(two[0][f"{strategy} clipped"], one[" clipped"], 1e-5)


def test_ranks_that_begin_differently_are_named(two):
    for runs in two:
        weights, step = runs["messages"]
        assert weights.startswith("rank 1 of 2 began with other weights than the rest: weight\n")
        assert step.startswith("rank 1 of 2 would continue from step 8, the rest from step 7\n")
