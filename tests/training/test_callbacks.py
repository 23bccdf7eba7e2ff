"""Validation while training, carried generators, and the collector that does not interrupt a step."""

from __future__ import annotations

import gc
import io
import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_trainer import SEQUENCE_LEN, VOCAB_SIZE, Kept, RandomRows, tiny_module, train
from torch.nn import functional as F

from nanochat_pl.data.batch import Batch
from nanochat_pl.model.gpt import GPT
from nanochat_pl.training.callbacks.bits_per_byte import ValidationBitsPerByte
from nanochat_pl.training.callbacks.exact_resume import ExactResume
from nanochat_pl.training.callbacks.manual_gc import ManualGC

TOKEN_BYTES = np.array([0, *(1 + number % 5 for number in range(VOCAB_SIZE - 1))])


class WithValidation(RandomRows):
    """Random rows with two batches to validate on; some targets are not scored."""

    tokenizer_on_disk = SimpleNamespace(token_bytes=TOKEN_BYTES)

    def val_dataloader(self) -> list[Batch]:
        draw = torch.Generator().manual_seed(1)
        rows = [torch.randint(VOCAB_SIZE, (3, SEQUENCE_LEN + 1), generator=draw) for _ in range(2)]
        batches = [Batch(ids[:, :-1], ids[:, 1:].clone()) for ids in rows]
        batches[0].targets[0, 3:7] = -1
        return batches


def bits_per_byte(model) -> float:
    """Compute it token by token from plain logits."""
    nats, total = 0.0, 0
    for batch in WithValidation().val_dataloader():
        with torch.no_grad():
            logits = model.gpt(batch.inputs).double()
        for row, targets in zip(logits, batch.targets.tolist(), strict=True):
            for position, target in enumerate(targets):
                if target >= 0 and TOKEN_BYTES[target]:
                    nats += float(F.cross_entropy(row[position], torch.tensor(target)))
                    total += int(TOKEN_BYTES[target])
    return nats / math.log(2) / total


def test_validation_runs_before_the_first_step_at_the_interval_and_after_the_last(tmp_path):
    logger, model = Kept(), tiny_module(steps=7)
    untrained = bits_per_byte(tiny_module_with_weights())
    callback = ValidationBitsPerByte(every_n_steps=3, tokens=64)
    data = WithValidation()
    train(model, tmp_path, callback, logger=logger, data=data)
    assert sorted(logger.lines) == [0, 3, 6, 7]
    assert data.eval_tokens == 64
    assert logger.lines[0]["val/bpb"] == pytest.approx(untrained, rel=1e-6)
    assert logger.lines[7]["val/bpb"] == pytest.approx(bits_per_byte(model), rel=1e-6)
    assert model.gpt.training


def tiny_module_with_weights():
    """Return the module as it is before the first step."""
    model = tiny_module(steps=1)
    torch.manual_seed(42)
    model.gpt = GPT.materialized(model.gpt_config(SEQUENCE_LEN))
    return model


@pytest.mark.parametrize("never", [0, -1])
def test_validation_can_be_switched_off(tmp_path, never):
    logger = Kept()
    train(tiny_module(steps=2), tmp_path, ValidationBitsPerByte(every_n_steps=never), logger=logger)
    assert not logger.lines


def draws() -> list[float]:
    """Draw a number from every generator there is."""
    return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), float(torch.rand(()))]


def test_generators_go_on_at_the_first_batch_where_they_stood_at_the_save():
    draws()
    file = io.BytesIO()
    torch.save(ExactResume().state_dict(), file)
    expected = [draws() for _ in range(3)]
    file.seek(0)
    resumed = ExactResume()
    resumed.load_state_dict(torch.load(file, weights_only=True))
    draws()  # building loaders may draw
    resumed.on_train_batch_start(SimpleNamespace(global_rank=0, world_size=1), None, None, 0)
    first = draws()
    resumed.on_train_batch_start(SimpleNamespace(global_rank=0), None, None, 1)
    assert [first, draws(), draws()] == expected


def test_collector_rests_between_intervals_and_is_given_back(monkeypatch):
    collected = []
    monkeypatch.setattr(gc, "collect", lambda: collected.append(gc.isenabled()))
    callback = ManualGC(every_n_batches=4)
    try:
        for number in range(9):
            callback.on_train_batch_end(None, None, None, None, number)
            assert not gc.isenabled()
        assert len(collected) == 3
    finally:
        callback.teardown(None, None, "fit")
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
