"""What the model said while it trained: its text, cut to a size a card can hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nanochat_pl.report.card import Block, Remark, Sample, Samples
from nanochat_pl.report.numbers import count_text
from nanochat_pl.report.read import Lines
from nanochat_pl.report.runs import Run
from nanochat_pl.report.scores import heading
from nanochat_pl.system.printable import printable

MOST_PROMPTS = 16
MOST_STEPS = 5  # of each prompt
MOST_CHARACTERS = 600
NO_TEXT = "(nothing)"
KINDS = {"samples": "while training", "predictions": "asked for with predict"}


def samples_section(runs: Sequence[Run]) -> tuple[Block, ...]:
    """Return samples over time and predictions of every run."""
    found = tuple(
        Samples(f"{heading(run)}, {when}", _samples(run.metrics[name]), run.metrics[name].source)
        for run in runs
        for name, when in KINDS.items()
        if run.metrics[name].records
    )
    return found or (Remark("No run has samples."),)


def _samples(lines: Lines) -> tuple[Sample, ...]:
    """Return the texts of each prompt by step, the later of two of one step."""
    by_prompt: dict[str, dict[float, str]] = {}
    for record in lines.records:
        step = record.number("step")
        if step is not None and isinstance(record.facts.get("text"), str):
            by_prompt.setdefault(_cut(record.facts.get("prompt")), {})[step] = (
                _cut(record.facts["text"]).strip() or NO_TEXT
            )
    return tuple(
        Sample(prompt, tuple((f"step {count_text(step)}", texts[step]) for step in _spread(sorted(texts))))
        for prompt, texts in list(by_prompt.items())[:MOST_PROMPTS]
    )


def _spread(steps: Sequence[float]) -> list[float]:
    """Return a few steps from the first to the last, evenly chosen."""
    if len(steps) <= MOST_STEPS:
        return list(steps)
    places = (round(number * (len(steps) - 1) / (MOST_STEPS - 1)) for number in range(MOST_STEPS))
    return [steps[place] for place in places]


def _cut(text: Any) -> str:
    """Return text without what commands a terminal, at most so long."""
    shown = printable(str(text or "")).encode("utf-8", "replace").decode("utf-8")
    return shown if len(shown) <= MOST_CHARACTERS else shown[:MOST_CHARACTERS] + " …"
