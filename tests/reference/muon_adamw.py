"""Slow twins of Muon and AdamW in NumPy: float64, one matrix at a time, by singular values, not products."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# arXiv:2505.16932, five iterations.
COEFFICIENTS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


def orthogonalize(matrix: np.ndarray, steps: int = 5) -> np.ndarray:
    """Return U f(S) V^T: iterating X <- a X + b X X^T X + c X X^T X X^T X acts on singular values alone."""
    scaled = matrix / (np.sqrt((matrix**2).sum()) * 1.01 + 1e-7)
    u, s, vt = np.linalg.svd(scaled, full_matrices=False)
    for a, b, c in COEFFICIENTS[:steps]:
        s = a * s + b * s**3 + c * s**5
    return (u * s) @ vt


class MuonState(NamedTuple):
    """A matrix and the running average of its gradients."""

    weight: np.ndarray
    average: np.ndarray


def muon_step(
    state: MuonState, gradient: np.ndarray, *, lr: float, momentum: float, weight_decay: float
) -> MuonState:
    """Return the state after one update."""
    average = momentum * state.average + (1 - momentum) * gradient
    ahead = momentum * average + (1 - momentum) * gradient
    rows, columns = gradient.shape
    size = max(1.0, rows / columns) ** 0.5
    weight = state.weight - lr * weight_decay * state.weight - lr * size * orthogonalize(ahead)
    return MuonState(weight, average)


class AdamWState(NamedTuple):
    """A weight, its two moments, and the number of updates so far."""

    weight: np.ndarray
    first: np.ndarray
    second: np.ndarray
    updates: int


def adamw_step(
    state: AdamWState,
    gradient: np.ndarray,
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> AdamWState:
    """Return the state after one update; eps is added after the bias correction (arXiv:1711.05101)."""
    updates = state.updates + 1
    first = betas[0] * state.first + (1 - betas[0]) * gradient
    second = betas[1] * state.second + (1 - betas[1]) * gradient**2
    mean = first / (1 - betas[0] ** updates)
    scale = np.sqrt(second / (1 - betas[1] ** updates)) + eps
    weight = state.weight - lr * weight_decay * state.weight - lr * mean / scale
    return AdamWState(weight, first, second, updates)
