"""The card as Markdown: the same tables and remarks, curves by their ends, files as numbers in brackets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from nanochat_pl.report.card import (
    Block,
    Card,
    Cell,
    Curves,
    Remark,
    Samples,
    Table,
    files_of,
    place_marks,
    ranges,
)
from nanochat_pl.report.curves import note
from nanochat_pl.report.numbers import count_text, number_text
from nanochat_pl.system.printable import printable

MARKUP = re.compile(r"([\\`*\[\]<>|~#&$]|(?<![^\W_])_|_(?![^\W_]))")  # an underscore within a word is none


def to_markdown(card: Card) -> str:
    """Return the text of `report.md`."""
    numbers = {file: number for number, file in enumerate(card.files, 1)}
    figures = [
        f"- {plain(figure.label)}: **{_text(figure.cell)}**{_mark(files_of(figure.cell), numbers)}"
        for figure in card.figures
    ]
    head = (
        f"# {plain(card.title)}",
        plain(card.subtitle),
        f"Made {card.made}.",
        *(["\n".join(figures)] * bool(figures)),
    )
    parts = [*head]
    for section in card.sections:
        parts.append(f"## {plain(section.title)}")
        parts += (_block(block, numbers) for block in section.blocks)
    files = (f"{number}. {code(file)}" for file, number in numbers.items())
    parts += [
        "## Files",
        "Below the base directory, `$NANOCHAT_BASE_DIR`; numbers in brackets above.",
        "\n".join(files),
    ]
    return "\n\n".join(parts).encode("utf-8", "replace").decode("utf-8") + "\n"


def plain(text: str) -> str:
    """Return text that Markdown and HTML show as it is, on one line."""
    return (
        MARKUP.sub(r"\\\1", " ".join(printable(text).split())).replace("\\<", "&lt;").replace("\\&", "&amp;")
    )


def code(text: str) -> str:
    """Return text of one line in backticks, more of them than it holds."""
    text = " ".join(printable(text).split())
    ticks = "`" * (_longest_run(text) + 1)
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{ticks}{space}{text}{space}{ticks}"


def fenced(text: str) -> str:
    """Return text as a block that Markdown leaves alone."""
    ticks = "`" * max(3, _longest_run(text) + 1)
    return f"{ticks}text\n{printable(text)}\n{ticks}"


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)


def _block(block: Block, numbers: dict[str, int]) -> str:
    if isinstance(block, Table):
        return _table(block, numbers)
    if isinstance(block, Remark):
        return f"{plain(block.text)} {code(block.command)}" if block.command else plain(block.text)
    return _curves(block, numbers) if isinstance(block, Curves) else _samples(block, numbers)


def _table(table: Table, numbers: dict[str, int]) -> str:
    marks = place_marks(table)
    columns = marks.columns or [()] * (len(table.columns) - 1)
    rows = marks.rows or [()] * len(table.rows)
    heads = [
        plain(table.columns[0]),
        *(
            plain(head) + _mark(files, numbers)
            for head, files in zip(table.columns[1:], columns, strict=True)
        ),
    ]
    lines = [
        [
            plain(row.label) + _mark(files, numbers),
            *(_text(cell) + (_mark(files_of(cell), numbers) if marks.cells else "") for cell in row.cells),
        ]
        for row, files in zip(table.rows, rows, strict=True)
    ]
    caption = f"{plain(table.caption)}{_mark(marks.caption, numbers)}:"
    return "\n".join([caption, "", *_grid(heads, lines)])


def _grid(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table, padded so that the text is a table to the eye as well."""
    rows = [list(heads), *map(list, lines)]
    widths = [max(3, *(len(row[place]) for row in rows)) for place in range(len(heads))]
    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    padded = [
        [
            cell.ljust(width) if not place else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in rows
    ]
    return [f"| {' | '.join(row)} |" for row in (padded[0], rule, *padded[1:])]


def _text(cell: Cell) -> str:
    return plain(f"{cell.text} ({cell.note})" if cell.note else cell.text)


def _mark(files: Iterable[str], numbers: dict[str, int]) -> str:
    marks = "".join(f"[{number}]" for number in ranges(numbers[file] for file in files))
    return f" {marks}" if marks else ""


def _curves(block: Curves, numbers: dict[str, int]) -> str:
    lines = [
        [
            plain(curve.title if len(curve.series) == 1 else f"{curve.title}, {series.name}")
            + _mark([curve.source.file], numbers),
            *(
                f"{number_text(value)} (step {count_text(step)})"
                for step, value in (series.points[0], series.points[-1])
            ),
        ]
        for curve in block.curves
        for series in curve.series
    ]
    notes = [f"- {plain(f'{curve.title}: {note(curve)}')}" for curve in block.curves if note(curve)]
    return "\n".join(
        [
            f"### {plain(block.heading)}",
            "",
            *_grid(("Curve", "First", "Last"), lines),
            *(["", *notes] if notes else []),
        ]
    )


def _samples(block: Samples, numbers: dict[str, int]) -> str:
    parts = [f"### {plain(block.heading)}{_mark([block.source.file], numbers)}"]
    for sample in block.samples:
        parts.append(f"{code(sample.prompt)}")
        parts += (f"{step}:\n\n{fenced(text)}" for step, text in sample.texts)
    return "\n\n".join(parts)
