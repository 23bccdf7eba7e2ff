"""Bits per byte counts the bytes of scored targets, whatever the batches and ranks."""

from __future__ import annotations

import math

import pytest
import torch

from nanochat_pl.evaluation.bits_per_byte import BitsPerByte

TOKEN_BYTES = [0, 1, 2, 5]


def test_equals_the_definition():
    metric = BitsPerByte(TOKEN_BYTES)
    losses = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    targets = torch.tensor([[1, 2, 0], [3, -1, 1]])
    metric.update(losses, targets)
    nats = 1.0 + 2.0 + 4.0 + 6.0  # not the special token's 3.0, not the unscored 5.0
    assert metric.compute().item() == pytest.approx(nats / (math.log(2) * (1 + 2 + 5 + 1)), rel=1e-12)


def test_does_not_depend_on_the_batches():
    losses, targets = torch.rand(8, 16), torch.randint(0, 4, (8, 16))
    whole, parts = BitsPerByte(TOKEN_BYTES), BitsPerByte(TOKEN_BYTES)
    whole.update(losses, targets)
    for start in range(0, 8, 3):
        parts.update(losses[start : start + 3], targets[start : start + 3])
    assert whole.compute().item() == pytest.approx(parts.compute().item(), rel=1e-9)


def test_an_unscored_infinite_loss_does_not_count():
    metric = BitsPerByte(TOKEN_BYTES)
    metric.update(torch.tensor([[math.inf, 1.0]]), torch.tensor([[-1, 1]]))
    assert metric.compute().item() == pytest.approx(1 / math.log(2))


def test_is_infinite_without_bytes():
    metric = BitsPerByte(TOKEN_BYTES)
    metric.update(torch.ones(1, 2), torch.tensor([[0, -1]]))
    assert metric.compute().item() == math.inf
