"""Every scored target of a step weighs the same, however targets are spread over its batches."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tiny_trainer import ROWS, SEQUENCE_LEN, VOCAB_SIZE, Kept, RandomRows, tiny_module, train
from torch.nn import functional as F
from torch.utils.data import DataLoader

from nanochat_pl.data.batch import Batch
from nanochat_pl.model.gpt import GPT
from nanochat_pl.training.callbacks.train_log import TrainLog

BATCHES = 3


class UnevenTargets(RandomRows):
    """A step of three batches with very different numbers of targets."""

    def train_dataloader(self) -> DataLoader:
        batches = uneven_batches()
        targets = sum(int((batch.targets != -1).sum()) for batch in batches)
        return DataLoader([batch._replace(step_targets=targets) for batch in batches], batch_size=None)


def uneven_batches() -> list[Batch]:
    draw = torch.Generator().manual_seed(3)
    batches = []
    for scored in (1, SEQUENCE_LEN, 5):
        ids = torch.randint(VOCAB_SIZE, (ROWS, SEQUENCE_LEN + 1), generator=draw)
        targets = ids[:, 1:].clone()
        targets[:, scored:] = -1
        batches.append(Batch(ids[:, :-1], targets))
    return batches


def test_gradient_and_logged_loss_are_those_of_the_mean_over_all_targets(tmp_path):
    model, kept = tiny_module(steps=1, accumulation=BATCHES), Kept()
    gradients = {}

    def note(*_):
        gradients.update({name: p.grad.clone() for name, p in model.gpt.named_parameters()})

    log = TrainLog()
    original = model.on_before_optimizer_step
    model.on_before_optimizer_step = lambda optimizer: (note(), original(optimizer))
    train(model, tmp_path, log, log.clock_restart, logger=kept, data=UnevenTargets())

    gpt = untrained_twin()
    batches = uneven_batches()
    logits = torch.cat([gpt(batch.inputs) for batch in batches]).flatten(0, 1)
    targets = torch.cat([batch.targets for batch in batches]).flatten()
    loss = F.cross_entropy(logits, targets, ignore_index=-1)
    loss.backward()
    assert kept.lines[1]["train/loss"] == pytest.approx(loss.item(), rel=1e-6)
    for name, parameter in gpt.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-7)


def untrained_twin():
    """The network as `tiny_module`'s is before its first step."""
    model = tiny_module(steps=1)
    return GPT.materialized(model.gpt_config(SEQUENCE_LEN))


def test_weight_is_a_batch_s_share_of_the_targets_of_all_ranks():
    """Two ranks, three batches each; this rank's step has 10 targets, the other's 30, this batch 4."""
    model = tiny_module(steps=1)
    batch = Batch(
        torch.zeros(1, 8, dtype=torch.long), torch.tensor([[1, 2, 3, 4, -1, -1, -1, -1]]), step_targets=10
    )
    strategy = SimpleNamespace(reduce=lambda mine, reduce_op: {"sum": mine + 30}[reduce_op])
    model._trainer = SimpleNamespace(accumulate_grad_batches=3, world_size=2, strategy=strategy)
    assert float(model._weight(batch)) == pytest.approx(4 / ((10 + 30) / (3 * 2)))
