"""Softcap and cross-entropy in chunks of tokens, so that no fp32 (N, V) tensor ever exists.

At 65,536 tokens and ids such a tensor takes 17 GB, and the plain way needs several. Here loss *and* gradients of a
chunk are computed while its logits are at hand, in the forward pass: the backward pass has only to scale them, and
nothing is computed twice.

Letters: N tokens, n tokens of a chunk, V vocabulary, C width.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from nanochat_pl.model import accounting

IGNORED = -1


def softcapped_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    softcap: float = 15.0,
    reduction: Literal["mean", "sum", "none"] = "mean",
    chunk_tokens: int | None = None,
) -> Tensor:
    """Return the cross-entropy of `targets` under softcapped logits `hidden @ weight.T`.

    The products are taken in the dtype of `hidden`, everything from the softcap on in fp32.

    Args:
        hidden: (N, C) final hidden states, fp32 or bf16.
        weight: (V, C) output matrix.
        targets: (N,) ids; -1 is not scored and has no gradient.
        softcap: bound of the logits' magnitude, at most 80 (larger ones would overflow exp).
        reduction: "mean" over scored targets (0 where there is none), "sum", or "none", which has no gradient.
        chunk_tokens: tokens per chunk; None lets `accounting.chunk_tokens` choose.

    Returns:
        fp32 scalar, or (N,) with 0 at ignored targets for "none".
    """
    chunk = chunk_tokens or accounting.chunk_tokens(hidden.size(0), weight.size(0))
    if reduction == "none":
        return _token_losses(hidden, weight, targets, softcap, chunk)
    scored = targets != IGNORED
    weights = scored / scored.sum().clamp(min=1) if reduction == "mean" else scored.float()  # (N,)
    return _WeightedLoss.apply(hidden, weight, targets.clamp(min=0), weights, softcap, chunk)


@torch.no_grad()
def _token_losses(hidden: Tensor, weight: Tensor, targets: Tensor, cap: float, chunk: int) -> Tensor:
    """Return the loss of every token, (N,) fp32."""
    weight = weight.to(hidden.dtype)
    pieces = [
        _chunk_losses(_tanh_logits(h, weight, cap), y.clamp(min=0), cap)
        for h, y in zip(hidden.split(chunk), targets.split(chunk), strict=True)
    ]
    return torch.cat(pieces) * (targets != IGNORED)


def _tanh_logits(hidden: Tensor, weight: Tensor, cap: float) -> Tensor:
    """Return the logits of a chunk as a fraction of the cap, (n, V) fp32 within [-1, 1]."""
    return torch.tanh((hidden @ weight.t()).float() / cap)


def _chunk_losses(fraction: Tensor, targets: Tensor, cap: float) -> Tensor:
    """Return -log softmax(cap * fraction)[targets], (n,); the cap bounds exp, so no maximum is subtracted."""
    return (cap * fraction).exp().sum(-1).log() - cap * fraction.gather(-1, targets[:, None])[:, 0]


class _WeightedLoss(torch.autograd.Function):
    """sum_i weights[i] * loss_i, with gradients computed in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor, cap: float, chunk: int
    ) -> Tensor:
        operand = weight.to(hidden.dtype)
        total = torch.zeros((), device=hidden.device)
        grad_weight = torch.zeros_like(weight)
        grad_hidden = []
        for h, y, w in zip(hidden.split(chunk), targets.split(chunk), weights.split(chunk), strict=True):
            losses, slope = _losses_and_slopes(_tanh_logits(h, operand, cap), y, w, cap)
            slope = slope.to(hidden.dtype)
            total += torch.dot(losses, w)
            grad_hidden.append(slope @ operand)
            grad_weight += slope.t() @ h
        ctx.save_for_backward(torch.cat(grad_hidden), grad_weight)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad.to(grad_hidden.dtype) * grad_hidden, grad * grad_weight, None, None, None, None


def _losses_and_slopes(
    fraction: Tensor, targets: Tensor, weights: Tensor, cap: float
) -> tuple[Tensor, Tensor]:
    """Return the losses (n,) and d(weighted loss)/d(uncapped logits) (n, V) of a chunk.

    d tanh(x / cap) * cap = 1 - tanh(x / cap)^2, and softmax minus one-hot goes through it.
    """
    powers = (cap * fraction).exp()  # (n, V)
    sums = powers.sum(-1)
    losses = sums.log() - cap * fraction.gather(-1, targets[:, None])[:, 0]
    is_target = torch.arange(fraction.size(-1), device=targets.device) == targets[:, None]
    slope = (powers * (weights / sums)[:, None] - is_target * weights[:, None]) * (1 - fraction * fraction)
    return losses, slope
