"""The logged loss is the mean over the whole batch; the speed leaves out what other callbacks do."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import Callback
from tiny_trainer import Kept, RandomRows, tiny_module, train

from nanochat_pl.optim.schedule import learning_rates
from nanochat_pl.training.callbacks import train_log
from nanochat_pl.training.callbacks.train_log import TrainLog


def logged(tmp_path, model, *callbacks) -> dict[int, dict[str, float]]:
    logger, log = Kept(), TrainLog()
    train(model, tmp_path, log, *callbacks, log.clock_restart, logger=logger)
    return logger.lines


@pytest.mark.parametrize("accumulation", [1, 3])
def test_loss_is_the_mean_over_all_micro_batches_of_the_step(tmp_path, accumulation):
    lines = logged(tmp_path, tiny_module(steps=2, accumulation=accumulation))
    untrained = tiny_module(steps=2).gpt_config(16)
    assert lines[1]["train/loss"] == pytest.approx(torch.tensor(untrained.vocab_size).log().item(), abs=1e-6)

    model = tiny_module(steps=2, accumulation=accumulation)
    train(model, tmp_path, Until(1))
    batches = list(RandomRows().train_dataloader())[accumulation : 2 * accumulation]
    with torch.no_grad():
        expected = sum(float(model.gpt(batch.inputs, batch.targets)) for batch in batches) / accumulation
    assert lines[2]["train/loss"] == pytest.approx(expected, rel=1e-6)


class Until(Callback):
    """Stop after some optimizer steps."""

    def __init__(self, steps):
        self.steps = steps

    def on_train_batch_end(self, trainer, *args):
        trainer.should_stop = trainer.global_step >= self.steps


def test_rates_are_those_of_the_step_just_taken(tmp_path):
    model = tiny_module(steps=10, warmdown_ratio=0.5)
    lines = logged(tmp_path, model)
    initial = learning_rates(
        n_embd=32,
        **model.rates,
    )
    for name, rate in initial.items():
        assert lines[5][f"lr/{name}"] == pytest.approx(rate)
        assert lines[10][f"lr/{name}"] == pytest.approx(rate * 0.2)


class Clock(Callback):
    """A clock that shows the seconds the training itself took, and a thousand more for every other callback."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now

    def on_before_optimizer_step(self, *args):
        self.now += 2.0

    def on_train_batch_end(self, *args):
        self.now += 1000.0


def test_what_other_callbacks_do_is_not_part_of_the_speed(tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(train_log, "time", clock)
    line = logged(tmp_path, tiny_module(steps=8), clock)[6]
    assert line["train/tokens_per_s"] == 2 * 16 / 2.0
    assert line["train/eta_s"] == 2 * 2.0
