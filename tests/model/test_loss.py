"""The chunked loss is the plain one, with its gradients, and never holds the logits of all tokens."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from nanochat_pl.model.accounting import chunk_tokens
from nanochat_pl.model.loss import softcapped_cross_entropy

CAP = 15.0


def plain(hidden, weight, targets, reduction="mean"):
    """The definition, all at once, in the dtype of its arguments."""
    logits = CAP * torch.tanh(hidden @ weight.t() / CAP)
    return F.cross_entropy(logits, targets, ignore_index=-1, reduction=reduction)


def problem(tokens, vocab, width=8, seed=0, ignored=0.2, std=3.0):
    """Hidden states whose logits spread by `std`, an output matrix, and targets of which some are -1."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, width, generator=generator)
    weight = torch.randn(vocab, width, generator=generator) * std * width**-0.5
    targets = torch.randint(vocab, (tokens,), generator=generator)
    targets[torch.rand(tokens, generator=generator) < ignored] = -1
    return hidden.requires_grad_(), weight.requires_grad_(), targets


def gradients(loss, *leaves):
    return torch.autograd.grad(loss, leaves)


@settings(max_examples=60, deadline=None)
@given(
    tokens=st.integers(1, 40),
    vocab=st.integers(1, 30),
    width=st.integers(1, 12),
    chunk=st.integers(1, 50),
    reduction=st.sampled_from(["mean", "sum"]),
    seed=st.integers(0, 999),
)
def test_loss_and_gradients_are_the_plain_ones_for_every_chunk_size(
    tokens, vocab, width, chunk, reduction, seed
):
    hidden, weight, targets = problem(tokens, vocab, width, seed)
    targets[0] = 0  # at least one is scored; the mean over none is a test of its own
    loss = softcapped_cross_entropy(hidden, weight, targets, reduction=reduction, chunk_tokens=chunk)
    exact = plain(hidden, weight, targets, reduction)
    torch.testing.assert_close(loss, exact, rtol=1e-6, atol=1e-6)
    expected = gradients(exact, hidden, weight)
    for ours, theirs in zip(gradients(loss, hidden, weight), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-6)


def test_the_unreduced_loss_is_the_plain_one_and_zero_where_ignored():
    hidden, weight, targets = problem(37, 19)
    losses = softcapped_cross_entropy(hidden, weight, targets, reduction="none", chunk_tokens=5)
    torch.testing.assert_close(losses, plain(hidden, weight, targets, "none").detach(), rtol=1e-6, atol=1e-6)
    assert losses.dtype == torch.float32
    assert torch.equal(losses == 0, targets == -1)
    assert not losses.requires_grad


def test_the_mean_is_over_scored_targets_of_all_chunks_together():
    hidden, weight, targets = problem(12, 7, ignored=0)
    targets[:9] = -1  # three chunks of four: two empty, the third with three
    mean, total = (
        softcapped_cross_entropy(hidden, weight, targets, reduction=r, chunk_tokens=4)
        for r in ("mean", "sum")
    )
    torch.testing.assert_close(mean * 3, total)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_scored_costs_nothing_and_teaches_nothing(reduction, dtype):
    hidden, weight, targets = problem(9, 7, ignored=1.1)
    hidden = hidden.detach().to(dtype).requires_grad_()
    loss = softcapped_cross_entropy(hidden, weight, targets, reduction=reduction, chunk_tokens=4)
    assert loss.item() == 0.0
    assert all(torch.equal(g, torch.zeros_like(g)) for g in gradients(loss, hidden, weight))


def test_an_ignored_token_has_no_gradient_and_changes_none():
    hidden, weight, targets = problem(20, 11)
    loss = softcapped_cross_entropy(hidden, weight, targets, chunk_tokens=6)
    grad_hidden, grad_weight = gradients(loss, hidden, weight)
    ignored = targets == -1
    assert 0 < ignored.sum() < 20
    assert grad_hidden[ignored].abs().max() == 0
    kept = softcapped_cross_entropy(hidden[~ignored], weight, targets[~ignored], chunk_tokens=6)
    torch.testing.assert_close(loss, kept)
    torch.testing.assert_close(grad_weight, gradients(kept, weight)[0], rtol=1e-5, atol=1e-7)


def test_the_gradient_is_scaled_by_what_comes_from_above():
    hidden, weight, targets = problem(10, 7)
    loss = softcapped_cross_entropy(hidden, weight, targets, chunk_tokens=3)
    once, thrice = (
        gradients(loss, hidden, weight),
        gradients(3 * softcapped_cross_entropy(hidden, weight, targets, chunk_tokens=3), hidden, weight),
    )
    for one, three in zip(once, thrice, strict=True):
        torch.testing.assert_close(3 * one, three)


@pytest.mark.parametrize("cap", [5.0, 15.0, 40.0])
@pytest.mark.parametrize("std", [0.0, 100.0])
def test_flat_and_saturated_logits_stay_finite(cap, std):
    hidden, weight, targets = problem(30, 50, std=std, ignored=0)
    loss = softcapped_cross_entropy(hidden, weight, targets, softcap=cap, chunk_tokens=7)
    exact = F.cross_entropy(cap * torch.tanh(hidden.double() @ weight.double().t() / cap), targets)
    torch.testing.assert_close(loss.double(), exact, rtol=2e-6, atol=1e-6)
    assert all(g.isfinite().all() for g in gradients(loss, hidden, weight))


def test_the_loss_of_near_certain_targets_is_exact_to_two_roundings_of_one_and_never_negative():
    """At 1 - p below 1e-5, `logsumexp - target` of logits near 15 would be off by their spacing, 1e-6."""
    gains = torch.linspace(4.0, 40.0, 200)  # 1 - p from 1e-2 down to 1e-12
    hidden = gains[:, None].clone().requires_grad_()
    weight = torch.tensor([[0.7], [-0.7], [-0.6], [-0.65]]).requires_grad_()
    targets = torch.zeros(200, dtype=torch.long)
    losses = softcapped_cross_entropy(hidden, weight, targets, reduction="none", chunk_tokens=64)
    leaves = [leaf.detach().double().requires_grad_() for leaf in (hidden, weight)]
    exact = plain(*leaves, targets, "none")
    assert exact[0] > 1e-2
    assert exact[-1] < 1e-11
    assert (losses >= 0).all()
    torch.testing.assert_close(losses.double(), exact.detach(), rtol=2e-6, atol=2**-22)
    total = softcapped_cross_entropy(hidden, weight, targets, reduction="sum", chunk_tokens=64)
    simple = plain(hidden, weight, targets, "sum")
    for mine, simply, truly in zip(
        gradients(total, hidden, weight),
        gradients(simple, hidden, weight),
        gradients(exact.sum(), *leaves),
        strict=True,
    ):
        assert (mine - truly).norm() < 1.1 * (simply - truly).norm()  # as exact as the plain way in fp32


def test_bf16_products_are_the_only_thing_rounded():
    hidden, weight, targets = problem(50, 40, width=32)
    low = hidden.detach().bfloat16().requires_grad_()
    loss = softcapped_cross_entropy(low, weight, targets, chunk_tokens=16)
    products = (low @ weight.bfloat16().t()).detach().double().requires_grad_()
    exact = F.cross_entropy(CAP * torch.tanh(products / CAP), targets, ignore_index=-1)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), exact, rtol=1e-6, atol=1e-6)
    (slope,) = gradients(exact, products)
    grad_hidden, grad_weight = gradients(loss, low, weight)
    assert grad_hidden.dtype == torch.bfloat16
    assert grad_weight.dtype == torch.float32
    for mine, theirs in (
        (grad_hidden.double(), slope @ weight.bfloat16().double()),
        (grad_weight.double(), slope.t() @ low.double()),
    ):
        assert (mine - theirs).norm() / theirs.norm() < 2**-8  # two roundings of at most 2^-9


def test_the_gradient_of_the_output_matrix_adds_up_in_fp32_over_bf16_chunks():
    hidden, weight, targets = problem(512, 20, width=16, ignored=0)
    low = hidden.detach().bfloat16().requires_grad_()
    many, one = (
        gradients(softcapped_cross_entropy(low, weight, targets, chunk_tokens=chunk), weight)[0]
        for chunk in (1, 512)
    )
    assert (many - one).norm() / one.norm() < 2**-8


@pytest.mark.parametrize("target", [7, -2, -100])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_target_that_is_no_id_is_an_error_and_not_another_id(target, reduction):
    hidden, weight, targets = problem(5, 7, ignored=0)
    targets[2] = target
    with pytest.raises((RuntimeError, IndexError), match="out of bounds"):
        softcapped_cross_entropy(hidden, weight, targets, reduction=reduction)


def test_arguments_are_left_as_they_were():
    arguments = problem(12, 9)
    before = [tensor.detach().clone() for tensor in arguments]
    softcapped_cross_entropy(*arguments, chunk_tokens=5).backward()
    assert all(torch.equal(tensor, old) for tensor, old in zip(arguments, before, strict=True))


def test_the_forward_pass_alone_runs_without_gradients():
    hidden, weight, targets = problem(12, 9)
    expected = plain(hidden, weight, targets).detach()
    with torch.no_grad():
        torch.testing.assert_close(
            softcapped_cross_entropy(hidden, weight, targets, chunk_tokens=5), expected
        )


class _Largest(TorchDispatchMode):
    """Records the largest number of values any operation returns, per dtype."""

    def __init__(self):
        super().__init__()
        self.values = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (list, tuple)) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.values[tensor.dtype] = max(self.values.get(tensor.dtype, 0), tensor.numel())
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_no_tensor_ever_holds_the_logits_of_all_tokens(dtype, reduction):
    tokens, vocab, width, chunk = 96, 512, 4, 10
    hidden, weight, targets = problem(tokens, vocab, width)
    hidden = hidden.detach().to(dtype).requires_grad_()
    with _Largest() as largest:
        loss = softcapped_cross_entropy(hidden, weight, targets, reduction=reduction, chunk_tokens=chunk)
        if reduction == "mean":
            loss.backward()
    assert max(largest.values.values()) == chunk * vocab
    with _Largest() as largest:
        plain(hidden.float(), weight, targets).backward()
    assert largest.values[torch.float32] == tokens * vocab  # the recorder would have seen it


def test_the_chunk_chosen_by_itself_bounds_the_logits_at_nanochats_vocabulary():
    tokens, vocab = 300, 65_536
    hidden, weight, targets = problem(tokens, vocab, width=2)
    with _Largest() as largest:
        softcapped_cross_entropy(hidden, weight, targets).backward()
    assert largest.values[torch.float32] == chunk_tokens(tokens, vocab) * vocab
    assert 4 * largest.values[torch.float32] <= 64 * 2**20


def test_a_uniform_guess_costs_ln_v():
    hidden, _, targets = problem(8, 1000, ignored=0)
    loss = softcapped_cross_entropy(hidden, torch.zeros(1000, 8), targets)
    assert loss.item() == pytest.approx(math.log(1000), rel=1e-6)
