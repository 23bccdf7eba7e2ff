"""Causal attention, over whole rows or over what a cache remembers; the only place that picks a kernel.

Letters: B rows, T positions, S remembered positions, H query heads, K key/value heads, D head width.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor
from torch.nn import functional as F


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend from every position to itself and all earlier ones.

    Args:
        q: (B, T, H, D) queries.
        k: (B, T, K, D) keys; K divides H, query head h reads head h // (H / K).
        v: (B, T, K, D) values.

    Returns:
        (B, T, H, D) in the dtype of `v`.
    """
    q, k, v = (heads.transpose(1, 2) for heads in (q, k, v))  # (B, H or K, T, D)
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.size(1) != k.size(1))
    return y.transpose(1, 2)  # (B, T, H, D)


class Past(Protocol):
    """What rows remember of their earlier positions, for one call of the network; a cache makes it.

    Attributes:
        positions: (B, T) int64, the place of each new id in its row.
        visible: (B, T, S) bool, which remembered positions each new one may read, itself among them; None where
            that is all up to itself and every row is equally long.
    """

    positions: Tensor
    visible: Tensor | None

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Remember keys and values of the new positions, (B, T, K, D); return those of all, (B, S, K, D)."""


def cached_attention(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None) -> Tensor:
    """Attend from new positions, which are the last, to all that are visible.

    Args:
        q: (B, T, H, D) queries of the new positions.
        k: (B, S, K, D) keys of old and new ones.
        v: (B, S, K, D) values.
        visible: see `Past`; None only where T is 1 or S.

    Returns:
        (B, T, H, D) in the dtype of `v`.
    """
    if visible is None and q.size(1) == k.size(1):
        return causal_attention(q, k, v)
    assert visible is not None or q.size(1) == 1, "several new positions after old ones need a mask"
    q, k, v = (heads.transpose(1, 2) for heads in (q, k, v))  # (B, H or K, T or S, D)
    mask = None if visible is None else visible[:, None]  # (B, 1, T, S)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=q.size(1) != k.size(1))
    return y.transpose(1, 2)  # (B, T, H, D)
