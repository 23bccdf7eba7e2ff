"""The schedule's exact values where its pieces meet."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nanochat_pl.optim.schedule import (
    Schedule,
    apply_schedule,
    learning_rates,
    lr_multiplier,
    muon_momentum,
    weight_decay_multiplier,
)
from nanochat_pl.system.errors import BadInput

WARM = Schedule(steps=1000, warmup_steps=40, warmdown_ratio=0.2, final_lr_fraction=0.1)
SCHEDULES = st.builds(
    Schedule,
    steps=st.integers(1, 5000),
    warmup_steps=st.integers(0, 500),
    warmdown_ratio=st.floats(0, 1),
    final_lr_fraction=st.floats(0, 1),
)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 1 / 40),
        (38, 39 / 40),
        (39, 1.0),  # end of warm-up
        (40, 1.0),
        (800, 1.0),  # last step at the full rate
        (801, 199 / 200 + 1 / 200 * 0.1),
        (900, 0.55),
        (999, 1 / 200 + 199 / 200 * 0.1),  # the last update
        (1000, 0.1),
    ],
)
def test_rate_at_every_joint(step, expected):
    assert WARM.lr(step) == pytest.approx(expected, rel=1e-12)


def test_default_rate_is_constant_then_falls_over_the_last_fifth():
    schedule = Schedule(steps=21_400)
    assert schedule.lr(0) == schedule.lr(17_120) == 1.0
    assert schedule.lr(17_121) == pytest.approx(4279 / 4280)
    assert schedule.lr(21_399) == pytest.approx(1 / 4280)  # small, but no wasted step


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.85), (1, 0.85 + 0.1 / 300), (150, 0.90), (299, 0.95 - 0.1 / 300), (300, 0.95)],
)
def test_momentum_ramps_over_300_steps(step, expected):
    assert muon_momentum(step) == pytest.approx(expected, rel=1e-12)
    assert Schedule(steps=1000).momentum(step) == muon_momentum(step)


def test_momentum_stays_after_its_ramp():
    assert muon_momentum(100_000) == 0.95
    assert muon_momentum(0, ramp_steps=0) == 0.95


def test_weight_decay_is_constant_unless_told_to_fall():
    assert {Schedule(steps=10).weight_decay(step) for step in range(11)} == {1.0}
    assert weight_decay_multiplier(0, 100, final_fraction=0.0) == 1.0
    assert weight_decay_multiplier(50, 100, final_fraction=0.0) == pytest.approx(0.5)
    assert weight_decay_multiplier(100, 100, final_fraction=0.0) == pytest.approx(0.0)


@settings(deadline=None)
@given(SCHEDULES)
@example(Schedule(steps=5, warmdown_ratio=1.0, final_lr_fraction=0.9999999999999999))  # one ulp below 1
def test_rate_rises_then_falls_and_is_never_wasted(schedule):
    rates = [schedule.lr(step) for step in range(schedule.steps)]
    assert all(0.0 < rate <= 1.0 for rate in rates)
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


def test_off_means_off():
    multiplier = lr_multiplier(0, 10, warmup_steps=0, warmdown_ratio=0.0, final_lr_fraction=0.0)
    assert multiplier == 1.0
    assert Schedule(steps=10, warmdown_ratio=0.0).lr(9) == 1.0


def test_applied_to_every_group_from_its_own_start():
    groups = [
        {"kind": "muon", "initial_lr": 0.02, "initial_weight_decay": 0.1, "lr": 9.0, "weight_decay": 9.0},
        {"kind": "adamw", "initial_lr": 0.2, "initial_weight_decay": 0.0, "lr": 9.0, "weight_decay": 9.0},
    ]
    schedule = Schedule(steps=10, warmdown_ratio=0.5, momentum_ramp_steps=20)
    for _ in range(2):  # a second time changes nothing
        apply_schedule(SimpleNamespace(param_groups=groups), schedule, 9)
    assert groups[0]["lr"] == pytest.approx(0.02 / 5)
    assert groups[1]["lr"] == pytest.approx(0.2 / 5)
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert groups[0]["momentum"] == pytest.approx(0.85 + 0.1 * 9 / 20)
    assert "momentum" not in groups[1]


def test_rates_of_adamw_fall_with_the_width():
    rates = {"embedding_lr": 0.2, "unembedding_lr": 0.004, "matrix_lr": 0.02}
    assert learning_rates(768, **rates) == {"embedding": 0.2, "unembedding": 0.004, "matrix": 0.02}
    wide = learning_rates(4 * 768, **rates)
    assert wide == pytest.approx({"embedding": 0.1, "unembedding": 0.002, "matrix": 0.02})


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"steps": 0}, "steps=0 is less than 1"),
        ({"warmup_steps": -1}, "warmup_steps=-1 is less than 0"),
        ({"warmdown_ratio": 1.5}, "warmdown_ratio=1.5 is not between 0 and 1"),
        ({"final_lr_fraction": -0.1}, "final_lr_fraction=-0.1 is not between 0 and 1"),
        ({"momentum_end": 1.0}, r"momentum_end=1.0 is not in \[0, 1\)"),
    ],
)
def test_numbers_out_of_range_are_refused(setting, message):
    with pytest.raises(BadInput, match=message):
        Schedule(**{"steps": 10} | setting)


def test_schedule_needs_no_torch():
    code = "import sys, nanochat_pl.optim.schedule; assert not {'torch', 'lightning'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
