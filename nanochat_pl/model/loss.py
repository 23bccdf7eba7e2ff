"""Softcap and cross-entropy in chunks of tokens, so that no fp32 (N, V) tensor ever exists.

At 65,536 tokens and ids such a tensor takes 17 GB, and the plain way needs several. Here loss *and* gradients of a
chunk are computed while its logits are at hand, in the forward pass: the backward pass has only to scale them, and
nothing is computed twice.

Letters: N tokens, n tokens of a chunk, V vocabulary, C width.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

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
        targets: (N,) ids; -1 is not scored and has no gradient, any other number that is no id is an error.
        softcap: bound of the logits' magnitude, at most 40 (larger ones could overflow exp).
        reduction: "mean" over scored targets (0 where there is none), "sum", or "none", which has no gradient.
        chunk_tokens: tokens per chunk; None lets `accounting.chunk_tokens` choose.

    Returns:
        fp32 scalar, or (N,) with 0 at ignored targets for "none".
    """
    chunk = chunk_tokens or accounting.chunk_tokens(hidden.size(0), weight.size(0))
    if reduction == "none":
        return _token_losses(hidden, weight, targets, softcap, chunk)
    scored = (targets != IGNORED).float()  # (N,)
    divisor = scored.sum().clamp(min=1) if reduction == "mean" else scored.new_ones(())
    return _SummedLoss.apply(hidden, weight, _ids(targets), scored, divisor, softcap, chunk)


def _ids(targets: Tensor) -> Tensor:
    """Return targets with some id in the place of -1."""
    return targets.masked_fill(targets == IGNORED, 0)


@torch.no_grad()
def _token_losses(hidden: Tensor, weight: Tensor, targets: Tensor, cap: float, chunk: int) -> Tensor:
    """Return the loss of every token, (N,) fp32."""
    weight = weight.to(hidden.dtype)
    pieces = [
        _read_chunk(h, weight, y, cap).losses
        for h, y in zip(hidden.split(chunk), _ids(targets).split(chunk), strict=True)
    ]
    return torch.cat(pieces) * (targets != IGNORED)


class _SummedLoss(torch.autograd.Function):
    """Sum of the scored losses / divisor, with gradients computed in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        scored: Tensor,
        divisor: Tensor,
        cap: float,
        chunk: int,
    ) -> Tensor:
        operand = weight.to(hidden.dtype)
        total = torch.zeros((), device=hidden.device, dtype=torch.float64)
        grad_weight = torch.zeros_like(weight)
        grad_hidden = []
        for h, y, s in zip(hidden.split(chunk), targets.split(chunk), scored.split(chunk), strict=True):
            logits = _read_chunk(h, operand, y, cap)
            total += torch.sum(logits.losses * s, dtype=torch.float64)
            slope = _slope(logits, y, s / divisor, hidden.dtype)
            del logits  # nothing of one stage may live beside the next: each is as large as the chunk
            grad_hidden.append(slope @ operand)
            _add_product(grad_weight, slope.t(), h)
            del slope
        ctx.save_for_backward(torch.cat(grad_hidden), grad_weight)
        return (total / divisor).float()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad.to(grad_hidden.dtype) * grad_hidden, grad * grad_weight, None, None, None, None, None


class _Chunk(NamedTuple):
    """The logits of a chunk and what follows from them; `_slope` overwrites `tanh` and `odds`."""

    tanh: Tensor  # (n, V) capped logits / cap
    odds: Tensor  # (n, V) probability of each id / probability of the target
    total_odds: Tensor  # (n,)
    target_tanh: Tensor  # (n,)
    losses: Tensor  # (n,)


def _read_chunk(hidden: Tensor, weight: Tensor, targets: Tensor, cap: float) -> _Chunk:
    """Return the losses of a chunk: log sum_v exp(logit[v] - logit[target]).

    The cap bounds the exponents, so no maximum need be found; and where the target is all but certain, the sum is
    exactly 1 for the target itself and a little for the others: the loss is never negative.
    """
    tanh = (hidden @ weight.t()).float().div_(cap).tanh_()  # (n, V)
    target_tanh = tanh.gather(-1, targets[:, None])[:, 0]  # (n,)
    odds = (tanh - target_tanh[:, None]).mul_(cap).exp_()  # (n, V)
    total_odds = odds.sum(-1)
    return _Chunk(tanh, odds, total_odds, target_tanh, total_odds.log())


def _slope(chunk: _Chunk, targets: Tensor, weights: Tensor, dtype: torch.dtype) -> Tensor:
    """Return d(weighted loss)/d(uncapped logits), (n, V): (softmax - one-hot) * (1 - tanh^2), rounded once.

    The column of the target is written last, with p - 1 taken from the loss, where nothing cancels.
    """
    softmax = chunk.odds.mul_((weights / chunk.total_odds)[:, None])
    slope = softmax.addcmul_(softmax, chunk.tanh.square_(), value=-1)
    at_target = weights * torch.expm1(-chunk.losses) * (1 - chunk.target_tanh.square())  # (n,)
    return slope.scatter_(-1, targets[:, None], at_target[:, None]).to(dtype)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a @ b to `total`, which is fp32 whatever the factors are."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    else:
        total.add_(a @ b)
