"""The card as one HTML file: no script, nothing fetched, light or dark as the reader's system is.

Everything that comes from a file goes through the template's escaping; only our own drawings are markup. The page
also forbids itself, by its content security policy, to load anything.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from nanochat_pl.report.card import (
    Card,
    Cell,
    Curve,
    Curves,
    Remark,
    Row,
    Samples,
    Table,
    files_of,
    place_marks,
    ranges,
)
from nanochat_pl.report.curves import COLOURS, WITHOUT_CURVES, can_draw, draw, has_points, is_smoothed, note

KINDS = {Table: "table", Remark: "remark", Curves: "curves", Samples: "samples"}
FOLD = 24  # characters of a word after which it may be broken
LONG = 28  # characters of a cell that make a table one of words rather than of numbers


def to_html(card: Card) -> str:
    """Return the page."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    numbers = {file: number for number, file in enumerate(card.files, 1)}
    drawing = count(1)
    page = environment.get_template("card.html.jinja").render(
        card=card,
        css=Markup((Path(__file__).parent / "page" / "card.css").read_text(encoding="utf-8")),
        kind_of=lambda block: KINDS[type(block)],
        marks_of=place_marks,
        files_of=files_of,
        marks_for=lambda files: ranges(numbers[file] for file in files),
        where=where,
        is_wordy=is_wordy,
        drawn=lambda curve: _drawn(curve, next(drawing)),
        can_draw=can_draw(),
        without_curves=WITHOUT_CURVES,
        colour_of=lambda index: index % COLOURS + 1,
        places_of=lambda row, table: places(row, table.rows),
        slug=slug,
        breakable=breakable,
        folded=folded,
        is_smoothed=is_smoothed,
        has_points=has_points,
        note=note,
    )
    return page.encode("utf-8", "replace").decode(
        "utf-8"
    )  # half a character, which JSON can hold and UTF-8 cannot


def _drawn(curve: Curve, number: int) -> Markup:
    return Markup(draw(curve, f"c{number}-"))


def breakable(text: str) -> Markup:
    """Return text that may go on in the next line behind an underscore, and not behind a hyphen."""
    return folded(text.replace("-", "\u2011")).replace("_", Markup("_<wbr>"))


def folded(text: str) -> Markup:
    """Return text that may go on in the next line within a word too long for a table."""
    parts = re.sub(rf"(\S{{{FOLD}}})(?=\S)", "\\1\0", text).split("\0")
    return Markup('<wbr class="fold">').join(parts)


def slug(title: str) -> str:
    """Return a title as the name of a place in the page."""
    return "-".join("".join(letter if letter.isalnum() else " " for letter in title.lower()).split())


def where(cell: Cell) -> str:
    """Return the files and lines of a cell, for its tooltip."""
    lines = (f"{file}, line {line}" if line else file for file, line in cell.sources)
    return "\n".join(dict.fromkeys(lines))


def is_wordy(table: Table) -> bool:
    """Tell whether a table holds words, to be set to the left, rather than numbers."""
    return any(len(cell.text) > LONG for row in table.rows for cell in row.cells)


def places(row: Row, rows: Sequence[Row]) -> dict[str, Any]:
    """Return where a row's dots, and zero, stand on a line as wide as the dots of all rows ask for, in percent."""
    values = [value for other in rows for value in other.dots]
    low, high = min([0.0, *values]), max([1.0, *values])

    def place(value: float) -> float:
        return round(100 * (value - low) / (high - low), 2)

    return {
        "zero": place(0.0),
        "own": [place(value) for value in row.dots[:1]],
        "others": list(map(place, row.dots[1:])),
    }
