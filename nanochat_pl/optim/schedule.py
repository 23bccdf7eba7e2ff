"""Rates, momentum and decay as functions of the step, and the rate of each group as a function of the width.

Pure Python. Steps count from 0: the first update is step 0, the last is `steps - 1`. Nothing here has state:
there is nothing to save, and a resumed run sees the same numbers. The optimizer is in `muon_adamw.py`.

         rate ┌────────────────────┐
     warm-up ╱                      ╲ warm-down    (by default no warm-up, and warm-down over the last fifth)
            ╱                        ╲
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

from nanochat_pl.system.errors import BadInput

TUNED_WIDTH = 768  # the width at which AdamW's rates were tuned


def learning_rates(
    n_embd: int, *, embedding_lr: float, unembedding_lr: float, matrix_lr: float
) -> dict[str, float]:
    """Return the initial rate of each parameter group of a GPT of width `n_embd`.

    Every stage and the plan take their rates from here. AdamW's scale with (width / 768)^-0.5. Muon's is the
    same at any width, as is the size of an orthogonal update.
    """
    scale = (n_embd / TUNED_WIDTH) ** -0.5
    return {"embedding": embedding_lr * scale, "unembedding": unembedding_lr * scale, "matrix": matrix_lr}


def lr_multiplier(
    step: int, steps: int, *, warmup_steps: int, warmdown_ratio: float, final_lr_fraction: float
) -> float:
    """Return the factor on the initial rates at `step` of `steps`.

    Warm-up: (step + 1) / warmup_steps, so step 0 already learns, step `warmup_steps - 1` at the full rate.
    Warm-down over W = round(warmdown_ratio * steps): linear in (steps - step) / W. Step `steps - W` is the
    last at the full rate; the final fraction would be reached at `steps`, one after the last update, so that
    none is spent at rate 0. Where the two overlap, the smaller counts.
    """
    warmdown_steps = round(warmdown_ratio * steps)
    rise = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    left = max(0.0, min(1.0, (steps - step) / warmdown_steps)) if warmdown_steps else 1.0
    return min(
        rise, final_lr_fraction + (1.0 - final_lr_fraction) * left
    )  # in this order it never rises by rounding


def muon_momentum(step: int, *, start: float = 0.85, end: float = 0.95, ramp_steps: int = 300) -> float:
    """Return Muon's momentum: `start` at step 0, linear to `end` at step `ramp_steps`, constant after."""
    done = min(1.0, step / ramp_steps) if ramp_steps else 1.0
    return (1.0 - done) * start + done * end


def weight_decay_multiplier(step: int, steps: int, *, final_fraction: float = 1.0) -> float:
    """Return the factor on the initial weight decay at `step` of `steps`.

    Half a cosine from 1 at step 0 to `final_fraction` at `steps`; the default of 1 keeps the decay constant.
    """
    left = 0.5 * (1.0 + math.cos(math.pi * min(1.0, step / steps)))
    return final_fraction + (1.0 - final_fraction) * left


@dataclass(frozen=True)
class Schedule:
    """Rate, momentum and decay of one run, as functions of its step.

    Args:
        steps: optimizer steps of the run.
        warmup_steps: steps over which the rate rises.
        warmdown_ratio: last share of the steps over which it falls, 0 to 1.
        final_lr_fraction: what it falls to, as a fraction of the initial rate.
        momentum_start: Muon's momentum at step 0.
        momentum_end: Muon's momentum from step `momentum_ramp_steps` on.
        momentum_ramp_steps: steps between the two.
        final_weight_decay_fraction: what the decay falls to; 1 is constant.

    Raises:
        BadInput: a number is out of its range.
    """

    steps: int
    warmup_steps: int = 0
    warmdown_ratio: float = 0.2
    final_lr_fraction: float = 0.0
    momentum_start: float = 0.85
    momentum_end: float = 0.95
    momentum_ramp_steps: int = 300
    final_weight_decay_fraction: float = 1.0

    def __post_init__(self) -> None:
        for name in ("steps", "warmup_steps", "momentum_ramp_steps"):
            least = 1 if name == "steps" else 0
            if getattr(self, name) < least:
                raise BadInput(f"{name}={getattr(self, name)} is less than {least}")
        for name in ("warmdown_ratio", "final_lr_fraction", "final_weight_decay_fraction"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise BadInput(f"{name}={getattr(self, name)} is not between 0 and 1")
        for name in ("momentum_start", "momentum_end"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise BadInput(f"{name}={getattr(self, name)} is not in [0, 1)")

    def lr(self, step: int) -> float:
        """Return the factor on the initial rates at `step`."""
        return lr_multiplier(
            step,
            self.steps,
            warmup_steps=self.warmup_steps,
            warmdown_ratio=self.warmdown_ratio,
            final_lr_fraction=self.final_lr_fraction,
        )

    def momentum(self, step: int) -> float:
        """Return Muon's momentum at `step`."""
        return muon_momentum(
            step, start=self.momentum_start, end=self.momentum_end, ramp_steps=self.momentum_ramp_steps
        )

    def weight_decay(self, step: int) -> float:
        """Return the factor on the initial weight decay at `step`."""
        return weight_decay_multiplier(step, self.steps, final_fraction=self.final_weight_decay_fraction)


class HasParamGroups(Protocol):
    """What `apply_schedule` needs of an optimizer."""

    param_groups: list[dict[str, Any]]


def apply_schedule(optimizer: HasParamGroups, schedule: Schedule, step: int) -> None:
    """Set rate, momentum and decay of the update number `step`, before it is taken.

    Every group carries `initial_lr` and `initial_weight_decay`; only groups of kind "muon" have momentum.
    """
    lr, decay, momentum = schedule.lr(step), schedule.weight_decay(step), schedule.momentum(step)
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * lr
        group["weight_decay"] = group["initial_weight_decay"] * decay
        if group["kind"] == "muon":
            group["momentum"] = momentum
