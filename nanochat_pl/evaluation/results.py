"""Scores as lines of metrics and as a table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nanochat_pl.evaluation.chat_tasks import CHATCORE_VERSION, chatcore
from nanochat_pl.evaluation.core_metric import CoreResult
from nanochat_pl.evaluation.exam import Score
from nanochat_pl.tasks.exams import CHATCORE_TASKS


def score_metrics(scores: Sequence[Score]) -> dict[str, Any]:
    """Return accuracy, standard error, number and centred accuracy of each exam under its name."""
    metrics: dict[str, Any] = {}
    for score in scores:
        metrics |= {
            score.name: score.mean,
            f"{score.name}_se": score.standard_error,
            f"{score.name}_n": score.n,
            f"{score.name}_centred": score.centred,
        }
    return metrics


def chat_metrics(scores: Sequence[Score]) -> dict[str, Any]:
    """Return the line of `chat.jsonl`: ChatCORE, where all its tasks are there, and each task."""
    whole = chatcore(scores)
    metrics: dict[str, Any] = {}
    if whole:
        metrics = {
            "chat/metric": whole.value,
            "chat/metric_se": whole.standard_error,
            "chat/metric_version": CHATCORE_VERSION,
            "chat/metric_tasks": list(CHATCORE_TASKS),
        }
    return metrics | score_metrics(scores)


def core_metrics(scores: Sequence[Score], result: CoreResult) -> dict[str, Any]:
    """Return the line of `core.jsonl`: CORE, or its partial mean under another name, and each task."""
    return {
        result.name: result.value,
        f"{result.name}_se": result.standard_error,
        "core/is_partial": result.is_partial,
        "core/missing": [missing.label for missing in result.missing],
    } | score_metrics(scores)


def core_summary(result: CoreResult) -> str:
    """Return CORE in a sentence."""
    value = f"{result.value:.4f} ± {result.standard_error:.4f}"
    if not result.is_partial:
        return f"CORE {value}"
    missing = ", ".join(f"{label} ({reason})" for label, reason in result.missing[:3])
    more = f" and {len(result.missing) - 3} more" if len(result.missing) > 3 else ""
    return f"CORE is partial, and compares with none: {value} without {missing}{more}"


def chat_summary(scores: Sequence[Score]) -> str:
    """Return ChatCORE in a sentence."""
    whole = chatcore(scores)
    if whole:
        return f"ChatCORE {whole.value:.4f} ± {whole.standard_error:.4f} ({CHATCORE_VERSION})"
    asked = {score.name.removeprefix("chat/") for score in scores}
    return (
        f"ChatCORE needs all of its tasks; missing {', '.join(n for n in CHATCORE_TASKS if n not in asked)}"
    )


def score_table(scores: Sequence[Score], cropped: Mapping[str, int] | None = None) -> str:
    """Return a line for each exam.

    Args:
        scores: of the exams.
        cropped: how many prompts of an exam did not fit the context, by name.
    """
    width = max(len("task"), *(len(_short(score)) for score in scores)) if scores else 4
    lines = [f"{'task':<{width}}  {'right':>7}  {'± s.e.':>7}  {'chance':>7}  {'centred':>8}  {'n':>7}"]
    for score in scores:
        too_long = (cropped or {}).get(score.name, 0)
        note = f"   {too_long} prompts cropped" if too_long else ""
        lines.append(
            f"{_short(score):<{width}}  {score.mean:>7.2%}  {score.standard_error:>7.2%}  {score.baseline:>7.1%}"
            f"  {score.centred:>8.4f}  {score.n:>7,}{note}"
        )
    return "\n".join(lines)


def _short(score: Score) -> str:
    return score.name.rpartition("/")[2]
