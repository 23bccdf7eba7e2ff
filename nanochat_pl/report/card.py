"""What a card is made of: sections of tables, curves, samples and remarks, each number with its file.

These are values; `html.py` and `markdown.py` turn them into text, and nothing here knows how. Every string may come
from a file, so it is text and never markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from nanochat_pl.report.numbers import NOTHING
from nanochat_pl.report.read import Source


class Cell(NamedTuple):
    """A value in a table.

    Attributes:
        text: as it is shown.
        sources: where it stands, or what it is computed from.
        note: a few words in small type behind it.
    """

    text: str
    sources: tuple[Source, ...] = ()
    note: str = ""


EMPTY = Cell(NOTHING)


class Row(NamedTuple):
    """A row of a table.

    Attributes:
        label: what the row is about.
        cells: its values, one a column.
        dots: finite values drawn on a line from 0 to 1, the first being the model's own; none for no drawing.
        is_total: whether it sums up the rows above.
    """

    label: str
    cells: tuple[Cell, ...]
    dots: tuple[float, ...] = ()
    is_total: bool = False


class Table(NamedTuple):
    """A table.

    Attributes:
        caption: what it shows.
        columns: heads of the columns, the first that of the labels.
        rows: its rows.
        dots: what the dots show, head of their column.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    dots: str = ""


class Remark(NamedTuple):
    """A sentence, and the command that does something about it."""

    text: str
    command: str = ""


class Series(NamedTuple):
    """One line of a curve: (step, value) pairs; a value that is not finite leaves a gap."""

    name: str
    points: tuple[tuple[float, float], ...]


class Curve(NamedTuple):
    """One drawing.

    Attributes:
        title: what is drawn.
        series: its lines.
        source: the file.
        is_log: whether the values spread over powers of ten.
        from_zero: whether the axis begins at 0.
        is_noisy: whether a smoothed line helps to see the trend.
    """

    title: str
    series: tuple[Series, ...]
    source: Source
    is_log: bool = False
    from_zero: bool = False
    is_noisy: bool = False


class Curves(NamedTuple):
    """The drawings of one run."""

    heading: str
    curves: tuple[Curve, ...]


class Sample(NamedTuple):
    """What the model made of a prompt, at steps of its training."""

    prompt: str
    texts: tuple[tuple[str, str], ...]  # ("step 200", text)


class Samples(NamedTuple):
    """Samples of one file."""

    heading: str
    samples: tuple[Sample, ...]
    source: Source


Block = Table | Remark | Curves | Samples


class Section(NamedTuple):
    """A part of the card."""

    title: str
    blocks: tuple[Block, ...]


class Figure(NamedTuple):
    """A number at the head of the card."""

    label: str
    cell: Cell


@dataclass(frozen=True)
class Card:
    """The whole card.

    Attributes:
        title: its name.
        subtitle: the runs it speaks of.
        made: when.
        figures: the few numbers to look at first.
        sections: all the rest.
    """

    title: str
    subtitle: str
    made: str
    figures: tuple[Figure, ...]
    sections: tuple[Section, ...]

    @property
    def files(self) -> list[str]:
        """Every file a number comes from, in the order in which the card names them."""
        found = [source.file for source in self._sources()]
        return list(dict.fromkeys(found))

    def _sources(self) -> Iterable[Source]:
        for figure in self.figures:
            yield from figure.cell.sources
        for section in self.sections:
            for block in section.blocks:
                yield from sources_of(block)


def sources_of(block: Block) -> list[Source]:
    """Return where the numbers of a block stand."""
    if isinstance(block, Table):
        return [source for row in block.rows for cell in row.cells for source in cell.sources]
    if isinstance(block, Curves):
        return [curve.source for curve in block.curves]
    return [block.source] if isinstance(block, Samples) else []


class Marks(NamedTuple):
    """Where a table says which files its numbers come from: once for all, by column, by row, or at each number."""

    caption: tuple[str, ...] = ()
    columns: tuple[tuple[str, ...], ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    cells: bool = False


def place_marks(table: Table) -> Marks:
    """Return the fewest marks that name the files of every number."""
    grid = [[files_of(cell) for cell in row.cells] for row in table.rows]
    together = _one_of(files for row in grid for files in row)
    if together is not None:
        return Marks(caption=together)
    columns = [_one_of(column) for column in zip(*grid, strict=True)]
    if None not in columns:
        return Marks(columns=tuple(files or () for files in columns))
    rows = [_one_of(row) for row in grid]
    if None not in rows:
        return Marks(rows=tuple(files or () for files in rows))
    return Marks(cells=True)


def files_of(cell: Cell) -> tuple[str, ...]:
    """Return the files a cell's value comes from, each once."""
    return tuple(dict.fromkeys(source.file for source in cell.sources))


def ranges(numbers: Iterable[int]) -> list[str]:
    """Return numbers as `["3", "5–8"]`, three or more in a row as one."""
    rows: list[list[int]] = []
    for number in sorted(set(numbers)):
        if rows and number == rows[-1][-1] + 1:
            rows[-1].append(number)
        else:
            rows.append([number])
    return [text for row in rows for text in ([f"{row[0]}–{row[-1]}"] if len(row) > 2 else map(str, row))]


def _one_of(cells: Iterable[tuple[str, ...]]) -> tuple[str, ...] | None:
    """Return the files that all cells with any share; () where no cell has one, None where they differ."""
    different = set(filter(None, cells))
    return None if len(different) > 1 else next(iter(different), ())


def facts_table(caption: str, columns: Sequence[str], rows: Iterable[tuple[str, Sequence[Cell]]]) -> Table:
    """Return a table with one column a run; rows of which no run has a value are left out."""
    kept = (
        Row(label, tuple(cells))
        for label, cells in rows
        if any(cell.text not in ("", NOTHING) for cell in cells)
    )
    return Table(caption, ("", *columns), tuple(kept))
