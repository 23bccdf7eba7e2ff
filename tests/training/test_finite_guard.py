"""A step that is not finite never reaches the weights; ten in a row end the run."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import Callback
from tiny_trainer import tiny_module, train

from nanochat_pl.system.errors import Failure
from nanochat_pl.training.callbacks.finite_guard import FiniteGuard

pytestmark = pytest.mark.filterwarnings("ignore:.*is not finite")


class Poison(Callback):
    """Spoil the loss or the gradients of some steps, and remember the weights after each."""

    def __init__(self, steps: set[int], what: str) -> None:
        self.steps, self.what = steps, what
        self.states: list[list[torch.Tensor]] = []

    def on_train_start(self, trainer, pl_module):
        self._note(trainer, pl_module)
        forward = pl_module.gpt.forward

        def poisoned(ids, targets=None):
            loss = forward(ids, targets)
            if trainer.global_step not in self.steps:
                return loss
            if self.what == "loss":
                return loss * float("inf")
            # A finite loss with one gradient that is not.
            return loss + (pl_module.gpt.wte.weight[0, 0] * 0.0).sqrt()

        pl_module.gpt.forward = poisoned

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self._note(trainer, pl_module)

    def _note(self, trainer, pl_module):
        moments = [value for state in trainer.optimizers[0].state.values() for value in state.values()]
        tensors = [value for value in moments if torch.is_tensor(value)]
        self.states.append([value.detach().clone() for value in (*pl_module.parameters(), *tensors)])


def unchanged(before, after):
    return len(before) == len(after) and all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_weights_and_moments_are_bit_equal_across_a_bad_step(tmp_path, what):
    guard, poison = FiniteGuard(), Poison({3, 5}, what)
    trainer = train(tiny_module(steps=8), tmp_path, guard, poison)
    assert trainer.global_step == 8
    assert (guard.skipped, guard.skipped_in_a_row) == (2, 0)
    same = [unchanged(poison.states[step], poison.states[step + 1]) for step in range(8)]
    assert [step for step in range(1, 8) if same[step]] == [3, 5]
    assert all(torch.isfinite(value).all() for value in poison.states[-1])


def test_without_the_guard_the_weights_would_be_lost(tmp_path):
    poison = Poison({3}, "loss")
    train(tiny_module(steps=5), tmp_path, poison)
    assert not all(torch.isfinite(value).all() for value in poison.states[-1])


def test_one_bad_micro_batch_spoils_its_whole_step(tmp_path):
    guard, poison = FiniteGuard(), Poison({2}, "loss")
    train(tiny_module(steps=4, accumulation=2), tmp_path, guard, poison)
    assert guard.skipped == 1


def test_ten_bad_steps_in_a_row_end_the_run_and_name_the_last_good_checkpoint(tmp_path):
    guard, poison = FiniteGuard(), Poison(set(range(4, 100)), "loss")
    with pytest.raises(Failure, match=r"10 steps in a row.*\n.*last\.ckpt"):
        train(tiny_module(steps=40), tmp_path, guard, poison)
    assert guard.skipped_in_a_row == 10


def test_a_resumed_run_goes_on_counting():
    guard, restored = FiniteGuard(), FiniteGuard()
    guard.skipped, guard.skipped_in_a_row = 5, 2
    restored.load_state_dict(guard.state_dict())
    assert (restored.skipped, restored.skipped_in_a_row) == (5, 2)
