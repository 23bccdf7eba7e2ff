"""The card of some runs: which sections it has, and in which order."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from nanochat_pl.report.card import EMPTY, Block, Card, Cell, Figure, Remark, Row, Section, Table
from nanochat_pl.report.demo import demo_facts, demo_figures, demo_section
from nanochat_pl.report.numbers import NOT_FINITE, count_text, dollars_text, moment_text, span_text
from nanochat_pl.report.read import Document
from nanochat_pl.report.remedies import missing
from nanochat_pl.report.runs import Run, others
from nanochat_pl.report.samples import samples_section
from nanochat_pl.report.scores import (
    chat_core_cell,
    chat_rows,
    chat_section,
    columns_of,
    core_cell,
    core_section,
)
from nanochat_pl.report.setup import environment_section, plan_section
from nanochat_pl.report.training import (
    bits_per_byte_cell,
    curves_of,
    results_table,
    spent,
    time_section,
    total,
)

MOST_OTHERS = 20


def build(runs: Sequence[Run], everything: Mapping[str, Run], base: Path, now: float) -> Card:
    """Return the card of `runs`.

    Args:
        runs: those it is about, in the order of their stages.
        everything: all runs there are, by name.
        base: the base directory, for what lies beside the runs.
        now: Unix seconds, to say when the card was made.
    """
    demo = demo_facts(runs, base)
    sections = (
        Section("Summary", (_summary(runs), *_broken_chain(runs))),
        Section("Missing, and what makes it", missing(runs, base) or (Remark("Nothing is missing."),)),
        Section("CORE", core_section(runs, base)),
        Section("Chat tasks", chat_section(runs)),
        *([Section("The demo", demo_section(demo))] if demo else []),
        Section(
            "Training", (results_table(runs), *(curves for run in runs if (curves := curves_of(run)).curves))
        ),
        Section("Samples", samples_section(runs)),
        Section("Time and cost", time_section(runs)),
        Section("Plan", plan_section(runs)),
        Section("Environment", environment_section(runs)),
        *_others(others(everything, runs)),
        *_damaged(runs),
    )
    chain = " → ".join(run.name for run in runs)
    return Card("Report card", chain, moment_text(now), tuple(_figures(runs, demo)), sections)


def _figures(runs: Sequence[Run], demo: Document | None) -> list[Figure]:
    """Return the numbers to look at first, those there are."""
    last = runs[-1]
    base = [run for run in runs if run.stage == "base"][-1:]
    time = total(runs)
    figures = [Figure(f"CORE, {run.name}", core_cell(run)) for run in base]
    figures += [Figure(f"bits per byte, {run.name}", bits_per_byte_cell(run)) for run in base or [last]]
    figures.append(Figure(f"ChatCORE, {last.name}", chat_core_cell(last)))
    figures += demo_figures(demo) if demo else []
    if time:
        figures.append(Figure("wall clock", Cell(span_text(time.wall_s), time.sources)))
        figures.append(
            Figure("cost, assumed", Cell(dollars_text(time.dollars), time.sources) if time.dollars else EMPTY)
        )
    return [_explained(figure) for figure in figures if figure.cell != EMPTY]


def _explained(figure: Figure) -> Figure:
    """Say what a number that is not finite means, and where to look."""
    if (words := NOT_FINITE.get(figure.cell.text)) is None:
        return figure
    why = f"{words}: training may have diverged, see Training"
    return figure._replace(cell=figure.cell._replace(note="; ".join(filter(None, (figure.cell.note, why)))))


def _summary(runs: Sequence[Run]) -> Table:
    """Return metric by stage."""
    columns = columns_of(runs)
    scores = [Row("CORE", tuple(core_cell(column.run) for column in columns)), *chat_rows(columns)]
    rows = (
        Row("run", tuple(Cell(column.run.name) if column.run else EMPTY for column in columns)),
        *map(_bare, scores),
        _bare(Row("bits per byte", tuple(_bits_per_byte(column.run) for column in columns))),
        Row("training time", tuple(_training_time(column.run) for column in columns)),
    )
    return Table("The last number of every stage", ("", *(column.head for column in columns)), rows)


def _bare(row: Row) -> Row:
    """Return a row without small type, a word such as "partial" excepted: errors stand in the section's own table."""
    kept = (cell._replace(note="partial" if "partial" in cell.note else "") for cell in row.cells)
    return row._replace(cells=tuple(kept), is_total=False)


def _bits_per_byte(run: Run | None) -> Cell:
    return bits_per_byte_cell(run) if run else EMPTY


def _training_time(run: Run | None) -> Cell:
    time = spent(run) if run else None
    return Cell(span_text(time.trained_s), time.sources) if time else EMPTY


def _broken_chain(runs: Sequence[Run]) -> tuple[Block, ...]:
    """Warn of a stage whose start was trained again after it."""
    by_name = {run.name: run for run in runs}
    remarks = []
    for run in runs:
        parent, began = by_name.get(run.parent or ""), spent(run)
        made = parent.provenance.number("time") if parent else None
        if made is not None and began is not None and made > began.began:
            remarks.append(
                Remark(
                    f"{run.name} began before {run.parent} was finished: it comes from an earlier {run.parent}, "
                    "not from the one shown here."
                )
            )
    return tuple(remarks)


def _others(runs: Sequence[Run]) -> list[Section]:
    """List the runs that are not on the card."""
    rows = tuple(
        Row(
            run.name,
            (
                Cell(run.stage.upper() or "unknown", (run.config.source,)),
                Cell(run.parent or "—", (run.config.source,)),
                Cell("finished" if run.is_finished else "not finished", ()),
                Cell(moment_text(run.last_active)),
                bits_per_byte_cell(run),
            ),
        )
        for run in runs[:MOST_OTHERS]
    )
    if not rows:
        return []
    heads = ("Run", "Stage", "Starts from", "State", "Last trained", "Bits per byte")
    remark = f"python cli.py report --runs {shlex.quote(runs[0].name)}"
    left = len(runs) - len(rows)
    text = "Another card shows them" + (f"; {count_text(left)} older ones are not listed." if left else ".")
    return [Section("Other runs", (Table("Not on this card", heads, rows), Remark(text, remark)))]


def _damaged(runs: Sequence[Run]) -> list[Section]:
    """Name the lines and files that could not be read."""
    remarks = [
        Remark(f"{lines.source.file}: {_lines(lines.damaged)} not readable and left out.")
        for run in runs
        for lines in run.metrics.values()
        if lines.damaged
    ]
    remarks += [
        Remark(f"{document.source.file}: damaged, and taken for missing.")
        for run in runs
        for document in (run.config, run.plan, run.environment, run.provenance)
        if document.is_damaged
    ]
    return [Section("Damaged files", tuple(remarks))] if remarks else []


def _lines(numbers: Sequence[int]) -> str:
    """Return `line 3 is` or `5 lines (3, 8, 9, …) are`."""
    if len(numbers) == 1:
        return f"line {numbers[0]:,} is"
    shown = ", ".join(f"{number:,}" for number in numbers[:3])
    return f"{len(numbers):,} lines ({shown}{', …' if len(numbers) > 3 else ''}) are"
