"""MuonAdamW against its slow twins, against torch's AdamW, and what it promises about state."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from reference.muon_adamw import AdamWState, MuonState, adamw_step, muon_step
from reference.muon_adamw import orthogonalize as slow_orthogonalize

from nanochat_pl.optim.muon_adamw import MuonAdamW, orthogonalize
from nanochat_pl.optim.schedule import Schedule, apply_schedule

SHAPES = [(6, 4), (4, 6), (5, 5), (6, 4), (4, 6), (1, 7), (7, 1)]
ADAMW = {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-10, "weight_decay": 0.1}


def parameters(shapes=SHAPES, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in shapes]


def set_gradients(params, seed):
    generator = torch.Generator().manual_seed(1000 + seed)
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator, dtype=param.dtype)


def both_kinds(seed=0, dtype=torch.float32, **settings):
    params = parameters(seed=seed, dtype=dtype)
    groups = [
        {"name": "matrix", "kind": "muon", "params": params[:5], "lr": 0.02, "weight_decay": 0.1},
        {"name": "embedding", "kind": "adamw", "params": params[5:]} | ADAMW,
    ]
    return MuonAdamW(groups, **settings), params


def snapshot(optimizer):
    return {
        (i, name): value.clone()
        for i, param in enumerate(p for group in optimizer.param_groups for p in group["params"])
        for name, value in (optimizer.state[param] | {"weight": param.detach()}).items()
    }


def test_muon_equals_its_slow_twin_over_a_schedule():
    params = parameters()
    group = {"kind": "muon", "params": params, "lr": 0.02, "weight_decay": 0.1}
    optimizer = MuonAdamW([group], orthogonalize_dtype=torch.float64)
    twins = [MuonState(p.detach().numpy().copy(), np.zeros(p.shape)) for p in params]
    schedule = Schedule(steps=6, warmup_steps=2, warmdown_ratio=0.5, momentum_ramp_steps=4)
    for step in range(6):
        set_gradients(params, step)
        apply_schedule(optimizer, schedule, step)
        optimizer.step()
        momentum = 0.85 + 0.10 * min(1.0, step / 4)
        lr = 0.02 * min((step + 1) / 2, 1.0, (6 - step) / 3)
        for i, (param, twin) in enumerate(zip(params, twins, strict=True)):
            settings = {"lr": lr, "momentum": momentum, "weight_decay": 0.1}
            twins[i] = muon_step(twin, param.grad.numpy(), **settings)
            np.testing.assert_allclose(param.detach().numpy(), twins[i].weight, rtol=0, atol=1e-12)


def test_adamw_equals_its_slow_twin():
    params = parameters()
    optimizer = MuonAdamW([{"kind": "adamw", "params": params} | ADAMW])
    twins = [AdamWState(p.detach().numpy().copy(), np.zeros(p.shape), np.zeros(p.shape), 0) for p in params]
    for step in range(6):
        set_gradients(params, step)
        optimizer.step()
        for i, (param, twin) in enumerate(zip(params, twins, strict=True)):
            twins[i] = adamw_step(twin, param.grad.numpy(), **ADAMW)
            np.testing.assert_allclose(param.detach().numpy(), twins[i].weight, rtol=0, atol=1e-12)


def test_adamw_equals_torch():
    ours, theirs = parameters(dtype=torch.float32), parameters(dtype=torch.float32)
    optimizer = MuonAdamW([{"kind": "adamw", "params": ours} | ADAMW])
    peer = torch.optim.AdamW(theirs, **ADAMW)
    for step in range(20):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        optimizer.step()
        peer.step()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 3, 5])
@pytest.mark.parametrize("shape", [(8, 8), (12, 5), (5, 12), (1, 4), (4, 1)])
def test_orthogonalize_equals_its_slow_twin(shape, steps):
    update = torch.randn(3, *shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    result = orthogonalize(update, steps, dtype=torch.float64).numpy()
    expected = np.stack([slow_orthogonalize(matrix, steps) for matrix in update.numpy()])
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(64, 192), (192, 64)])
def test_singular_values_go_to_one(shape, dtype):
    update = 1e-3 * torch.randn(2, *shape, generator=torch.Generator().manual_seed(3))
    values = torch.linalg.svdvals(orthogonalize(update, dtype=dtype))
    assert values.min() > 0.85
    assert values.max() < 1.15


def test_orthogonalize_leaves_its_argument_and_its_dtype_alone():
    update = torch.randn(2, 6, 4)
    before = update.clone()
    assert orthogonalize(update, dtype=torch.bfloat16).dtype == torch.float32
    assert torch.equal(update, before)


def test_orthogonalizing_twice_the_update_gives_the_same():
    update = torch.randn(6, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    once, twice = (orthogonalize(factor * update, dtype=torch.float64) for factor in (1, 2))
    torch.testing.assert_close(once, twice, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("shape", "steps"), [((4,), 5), ((), 5), ((4, 4), 0), ((4, 4), 6)])
def test_orthogonalize_refuses_what_it_cannot_do(shape, steps):
    with pytest.raises(ValueError, match="orthogonalize: "):
        orthogonalize(torch.zeros(shape), steps)


def test_zero_gradients_move_nothing_and_are_never_nan():
    params = parameters(dtype=torch.float32)
    groups = [{"kind": "muon", "params": params[:5]}, {"kind": "adamw", "params": params[5:]}]
    optimizer = MuonAdamW(groups)
    before = [param.detach().clone() for param in params]
    for _ in range(2):
        for param in params:
            param.grad = torch.zeros_like(param)
        optimizer.step()
    assert all(torch.equal(param, old) for param, old in zip(params, before, strict=True))


def test_a_zero_matrix_in_a_stack_does_not_disturb_the_others():
    update = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(1))
    update[1] = 0
    result = orthogonalize(update, dtype=torch.float32)
    assert torch.equal(result[1], torch.zeros(4, 6))
    torch.testing.assert_close(result[2], orthogonalize(update[2], dtype=torch.float32), rtol=0, atol=1e-5)


def test_without_gradients_neither_weights_nor_state_change():
    optimizer, params = both_kinds()
    for step in range(2):
        set_gradients(params, step)
        optimizer.step()
    before = snapshot(optimizer)
    optimizer.zero_grad(set_to_none=True)
    optimizer.step()
    after = snapshot(optimizer)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_one_missing_gradient_skips_that_parameter_alone():
    optimizer, params = both_kinds()
    set_gradients(params, 0)
    params[0].grad = params[6].grad = None
    before = [param.detach().clone() for param in params]
    optimizer.step()
    same = [torch.equal(param, old) for param, old in zip(params, before, strict=True)]
    assert same == [True, False, False, False, False, False, True]
    assert params[0] not in optimizer.state
    assert params[6] not in optimizer.state


def test_gradients_are_not_modified():
    optimizer, params = both_kinds()
    set_gradients(params, 0)
    before = [param.grad.clone() for param in params]
    optimizer.step()
    assert all(torch.equal(param.grad, old) for param, old in zip(params, before, strict=True))


def test_reloaded_state_continues_bit_for_bit():
    unbroken, params = both_kinds()
    resumed, others = both_kinds(seed=9)
    for step in range(3):
        set_gradients(params, step)
        unbroken.step()
    file = io.BytesIO()
    torch.save(unbroken.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for param, other in zip(params, others, strict=True):
        other.data.copy_(param.data)
    for step in range(3, 6):
        for optimizer, its_params in ((unbroken, params), (resumed, others)):
            set_gradients(its_params, step)
            optimizer.step()
    ours, theirs = snapshot(unbroken), snapshot(resumed)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_checkpoint_does_not_overrule_the_settings():
    saved, params = both_kinds()
    set_gradients(params, 0)
    saved.step()
    resumed, _ = both_kinds()
    resumed.param_groups[0] |= {"lr": 0.5, "initial_lr": 0.5}
    resumed.load_state_dict(saved.state_dict())
    assert resumed.param_groups[0]["initial_lr"] == resumed.param_groups[0]["lr"] == 0.5
    assert resumed.param_groups[1]["betas"] == ADAMW["betas"]


def test_state_belongs_to_each_parameter_in_float32():
    optimizer, params = both_kinds()
    set_gradients(params, 0)
    optimizer.step()
    for group in optimizer.param_groups:
        moments = {"muon": {"momentum_buffer"}, "adamw": {"exp_avg", "exp_avg_sq", "step"}}[group["kind"]]
        for param in group["params"]:
            state = optimizer.state[param]
            assert state.keys() == moments
            assert all(value.dtype == torch.float32 for value in state.values())
            assert all(state[name].shape == param.shape for name in moments - {"step"})


def test_closure_runs_first_with_gradients_and_its_loss_is_returned():
    optimizer, params = both_kinds()
    before = params[0].detach().clone()

    def closure():
        assert torch.is_grad_enabled()
        assert torch.equal(params[0], before)
        optimizer.zero_grad()
        loss = sum((param**2).sum() for param in params)
        loss.backward()
        return loss

    loss = optimizer.step(closure)
    assert loss.item() > 0
    assert not torch.equal(params[0], before)
    assert optimizer.step() is None


def test_rates_and_decay_as_given_are_where_a_schedule_starts():
    optimizer, _ = both_kinds()
    starts = [(group["initial_lr"], group["initial_weight_decay"]) for group in optimizer.param_groups]
    assert starts == [(0.02, 0.1), (ADAMW["lr"], ADAMW["weight_decay"])]


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({"kind": "sgd"}, r"kind='sgd' is not one of \['adamw', 'muon'\]"),
        ({}, "kind=None is not one of"),
        ({"kind": "muon", "lr": -1.0}, "group 'matrix': lr=-1.0 is negative"),
        ({"kind": "muon", "momentum": 1.0}, r"momentum or beta 1.0 is not in \[0, 1\)"),
        ({"kind": "adamw", "betas": (0.8, 1.5)}, "momentum or beta 1.5 is not in"),
        ({"kind": "adamw", "weight_decay": -0.1}, "weight_decay=-0.1 is negative"),
        ({"kind": "muon", "params": [torch.nn.Parameter(torch.zeros(3))]}, r"shape \(3,\) is no matrix"),
        (
            {"kind": "muon", "params": [torch.nn.Parameter(torch.zeros(2, 2).bfloat16())]},
            "keep float32 weights",
        ),
    ],
)
def test_groups_nobody_could_mean_are_refused(group, message):
    with pytest.raises(ValueError, match=message):
        MuonAdamW([{"name": "matrix", "params": [torch.nn.Parameter(torch.zeros(2, 2))]} | group])
