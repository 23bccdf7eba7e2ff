"""Slow twin of sampling by rows: one row, one id after another, plain Python."""

from __future__ import annotations

import math
from collections.abc import Sequence


def draw(
    logits: Sequence[float],
    uniform: float,
    *,
    temperature: float,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
) -> int:
    """Return the id at `uniform` on the line of the ids that pass the filters, each as long as it is likely."""
    if temperature == 0:
        return list(logits).index(max(logits))
    odds = [math.exp((logit - max(logits)) / temperature) for logit in logits]
    if top_k is not None and top_k < len(odds):
        odds = keep(odds, sorted(odds, reverse=True)[top_k - 1])
    if top_p is not None and top_p < 1:
        odds = keep(odds, last_needed(odds, top_p * sum(odds)))
    if min_p is not None:
        odds = keep(odds, min_p * max(odds))
    return at(odds, uniform * sum(odds))


def keep(odds: Sequence[float], lowest: float) -> list[float]:
    """Return the odds with those below `lowest` replaced by 0."""
    return [one if one >= lowest else 0.0 for one in odds]


def last_needed(odds: Sequence[float], goal: float) -> float:
    """Return the smallest of the largest odds that together reach `goal`."""
    reached = 0.0
    for one in sorted(odds, reverse=True):
        reached += one
        if reached >= goal:
            return one
    raise AssertionError("all together reach any part of their sum")


def at(odds: Sequence[float], point: float) -> int:
    """Return the first place whose end lies beyond `point`."""
    end = 0.0
    for place, one in enumerate(odds):
        end += one
        if end > point:
            return place
    raise AssertionError("the point lies on the line")
