"""The demo's own questions, from `demo.json`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nanochat_pl.report.card import Block, Cell, Figure, Row, Table
from nanochat_pl.report.numbers import count_text, number_text, span_text
from nanochat_pl.report.read import Document, as_number, dig, read_document
from nanochat_pl.report.runs import Run

QUESTIONS = {
    "facts": "facts: towns known from documents only",
    "spelling": "spelling: words never seen before",
    "arithmetic": "arithmetic: sums never seen before, by the tool",
}
SCORES = {
    "score": "Chat model",
    "base_score": "Base model",
    "untrained_score": "Untrained model",
    "chance": "Chance",
}


def is_demo(run: Run) -> bool:
    """Tell whether a run is one of the demo's."""
    return run.name.startswith("demo_")


def demo_facts(runs: Sequence[Run], base: Path) -> Document | None:
    """Return `demo.json` if it speaks of one of these runs' models."""
    document = read_document(base / "demo.json", base)
    made = document.number("model_time")
    speaks_of_them = any(made is not None and made == run.provenance.number("time") for run in runs)
    return document if speaks_of_them else None


def demo_figures(document: Document) -> list[Figure]:
    """Return the chat model's scores, for the head of the card."""
    scores = {name: as_number(dig(document.facts, name, "score")) for name in QUESTIONS}
    return [Figure(name, Cell(number_text(score), (document.source,))) for name, score in scores.items()]


def demo_section(document: Document) -> tuple[Block, ...]:
    """Return scores and seconds of the demo."""
    source = (document.source,)
    rows = []
    for name, meaning in QUESTIONS.items():
        row = document.facts.get(name)
        shown = [Cell(number_text(as_number(dig(row, key))), source) for key in SCORES]
        rows.append(Row(meaning, (Cell(count_text(as_number(dig(row, "n"))), source), *shown)))
    seconds = document.facts.get("seconds")
    spans = (
        {str(name): as_number(value) for name, value in seconds.items()} if isinstance(seconds, dict) else {}
    )
    total = sum(value for value in spans.values() if value is not None)
    times = [Row(name, (Cell(span_text(value), source),)) for name, value in {**spans, "all": total}.items()]
    return (
        Table("Share of right answers", ("Questions about", "Questions", *SCORES.values()), tuple(rows)),
        Table("Time of each stage, as a user would wait for it", ("Stage", "Time"), tuple(times)),
    )
