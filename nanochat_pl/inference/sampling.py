"""Sampling: from logits to the next id, and a completion that recomputes everything for each id.

`complete` is the plain truth a cached engine is checked against; it is fast enough for a few samples during training.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from nanochat_pl.model.gpt import GPT
from nanochat_pl.system.errors import BadInput

LOWEST_TEMPERATURE = 1e-30  # already here only the largest can be drawn; 1 / 1e-40 is infinite in fp32


@torch.no_grad()
def sample_next(
    logits: Tensor,
    temperature: float = 0.0,
    top_k: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw the next id of each row.

    Args:
        logits: (B, V) fp32.
        temperature: divides the logits; 0 takes the largest, ties to the lowest id.
        top_k: only the k largest logits of a row can be drawn; None means all.
        generator: source of randomness on the device of `logits`; None means torch's own.

    Returns:
        (B,) int64 ids.

    Raises:
        BadInput: `temperature` is negative or `top_k` below 1.
    """
    _require_sampling(temperature, top_k)
    if temperature == 0.0:
        return logits.argmax(-1)
    if top_k is not None and top_k < logits.size(-1):
        values, ids = logits.topk(top_k)  # (B, k)
        return ids.gather(-1, _draw(values, temperature, generator))[:, 0]
    return _draw(logits, temperature, generator)[:, 0]


def _draw(logits: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
    """Return one column number per row, (B, 1); the largest logit becomes 0 first, so no temperature overflows."""
    logits = (logits - logits.amax(-1, keepdim=True)) / max(temperature, LOWEST_TEMPERATURE)
    return torch.multinomial(logits.softmax(-1), 1, generator=generator)


def _require_sampling(temperature: float, top_k: int | None) -> None:
    if not temperature >= 0.0:
        raise BadInput(
            f"temperature={temperature} is negative; give 0 for the likeliest id or more for chance"
        )
    if top_k is not None and top_k < 1:
        raise BadInput(f"top_k={top_k} leaves no id to draw; give 1 or more, or leave it out")


@torch.no_grad()
def complete(
    gpt: GPT,
    ids: list[int],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    generator: torch.Generator | None = None,
    stop_ids: Collection[int] = frozenset(),
) -> list[int]:
    """Continue `ids`; each new id sees the last `sequence_len` ids before it.

    Args:
        gpt: the model; runs eagerly even where it was compiled, for every length would compile anew.
        ids: at least one id, usually beginning with BOS.
        max_new_tokens: number of ids to add at most.
        temperature: see `sample_next`.
        top_k: see `sample_next`.
        generator: see `sample_next`.
        stop_ids: the completion ends before the first of these.

    Returns:
        The new ids only, without the stop id.

    Raises:
        BadInput: `ids` is empty, or see `sample_next`.
    """
    if not ids:
        raise BadInput("ids is empty; begin with at least the BOS id")
    _require_sampling(temperature, top_k)
    context, new = list(ids), []
    for _ in range(max_new_tokens):
        logits = _last_logits(gpt, context[-gpt.config.sequence_len :])  # (1, V)
        drawn = int(sample_next(logits, temperature, top_k, generator))
        if drawn in stop_ids:
            break
        context.append(drawn)
        new.append(drawn)
    return new


def _last_logits(gpt: GPT, ids: list[int]) -> Tensor:
    """Return the logits after the last of `ids`, (1, V)."""
    batch = torch.tensor([ids], device=gpt.lm_head.weight.device)  # (1, T)
    return gpt.logits(gpt.hidden(batch)[:, -1])
