"""Causal attention behind one function, the only place that picks a kernel.

Letters: B rows, T positions, H query heads, K key/value heads, D head width.
"""

from __future__ import annotations

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
