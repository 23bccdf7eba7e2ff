"""Slow twin of the GPT in NumPy: float64, rotary by complex numbers, attention one query at a time.

Letters: B rows, T positions, C width, H query heads, D head width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

ROTARY_BASE = 10_000.0
SOFTCAP = 15.0


def normalize(x: np.ndarray, eps: float = float(np.finfo(np.float32).eps)) -> np.ndarray:
    """Return `x` with root mean square 1 over the last dimension."""
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)


def rotate(x: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Multiply x[d] + i x[d + D/2] by exp(-i position base^(-2d/D)); x is (T, ..., D), positions (T,)."""
    half = x.shape[-1] // 2
    frequencies = ROTARY_BASE ** (-np.arange(half) / half)
    angles = positions[:, None] * frequencies  # (T, D/2)
    angles = angles.reshape(len(positions), *(1,) * (x.ndim - 2), half)
    turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(-1j * angles)
    return np.concatenate((turned.real, turned.imag), axis=-1)


def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return (T, H, D): every query reads the keys up to its own; head h reads key head h // (H / K)."""
    length, heads, width = q.shape
    group = heads // k.shape[1]
    out = np.zeros_like(q)
    for t in range(length):
        for h in range(heads):
            scores = k[: t + 1, h // group] @ q[t, h] / np.sqrt(width)
            odds = np.exp(scores - scores.max())
            out[t, h] = odds @ v[: t + 1, h // group] / odds.sum()
    return out


def logits(weights: Mapping[str, np.ndarray], n_layer: int, head_dim: int, ids: np.ndarray) -> np.ndarray:
    """Return softcapped logits (B, T, V) of ids (B, T); `weights` has the names of `GPT.state_dict`."""
    return np.stack([_row_logits(weights, n_layer, head_dim, row) for row in ids])


def _row_logits(
    weights: Mapping[str, np.ndarray], n_layer: int, head_dim: int, ids: np.ndarray
) -> np.ndarray:
    positions = np.arange(len(ids))
    x = normalize(weights["wte.weight"][ids])  # (T, C)
    for layer in range(n_layer):
        own = {
            name: weights[f"blocks.{layer}.{name}.weight"].T
            for name in ("attn.c_q", "attn.c_k", "attn.c_v", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
        }
        h = normalize(x)
        q, k, v = (
            (h @ own[f"attn.c_{name}"]).reshape(len(ids), -1, head_dim) for name in "qkv"
        )  # (T, H or K, D)
        q, k = (normalize(rotate(heads, positions)) for heads in (q, k))
        x = x + attend(q, k, v).reshape(len(ids), -1) @ own["attn.c_proj"]
        x = x + np.maximum(normalize(x) @ own["mlp.c_fc"], 0) ** 2 @ own["mlp.c_proj"]
    return SOFTCAP * np.tanh(normalize(x) @ weights["lm_head.weight"].T / SOFTCAP)
