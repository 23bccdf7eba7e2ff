"""Curves as SVG that takes its colours from the page, so that one drawing serves light and dark.

matplotlib draws with colours that mean something (`INK`, `GRID`, one a line); in its SVG they become CSS variables. The
SVG stands in the page itself: names of elements get the drawing's own prefix, and everything that points outside is
taken out.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from nanochat_pl.report.card import Curve, Remark, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 5.2, 2.7  # inches of 72 units
BOX = (
    0.14,
    0.2,
    0.845,
    0.765,
)  # of the axes: left, bottom, width, height, with room for numbers of 8 letters
COLOURS = 6  # of lines in the page's style
INK, GRID = "#010203", "#010204"
LINES = tuple(f"#0102{number:02x}" for number in range(0x10, 0x10 + COLOURS))
MOST_POINTS = 400  # of a line; twice the width a screen shows
MOST_DOTS = 24  # points of a line that are drawn one by one
SMOOTHED_FROM = 60  # points of a noisy line
BEYOND = 1e30  # no curve of ours goes there, and no axis can show it
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "card",
    "text.parse_math": False,
    "font.size": 11,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GRID,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
}


WITHOUT_CURVES = Remark("The curves are left out, for matplotlib is not installed.", "pip install matplotlib")


def can_draw() -> bool:
    """Tell whether matplotlib is here, and whole."""
    try:
        import matplotlib.figure
    except ImportError:
        return False
    return bool(matplotlib.figure.Figure)


def draw(curve: Curve, prefix: str) -> str:
    """Return the drawing as an `<svg>` element for the middle of a page.

    Args:
        curve: what to draw.
        prefix: begins the names of its elements; another for each drawing of a page.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, HEIGHT))
        axes = figure.add_axes(BOX)
        for series, colour in zip(curve.series, _colours(), strict=False):
            _line(axes, series, colour, curve)
        _dress(axes, curve)
        file = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        FigureCanvasSVG(figure).print_svg(file, metadata=nothing)
    return _for_page(file.getvalue(), prefix, describe(curve))


def describe(curve: Curve) -> str:
    """Say in words where each line begins and ends."""
    ends = "; ".join(
        f"{series.name} from {series.points[0][1]:.4g} at step {series.points[0][0]:,.0f} "
        f"to {series.points[-1][1]:.4g} at step {series.points[-1][0]:,.0f}"
        for series in curve.series
    )
    return "; ".join(filter(None, [f"{curve.title}: {ends}", note(curve)]))


def note(curve: Curve) -> str:
    """Say what of a curve cannot be drawn; nothing where all can."""
    found = _gaps(curve)
    if not found and not has_points(curve):
        found = ["no value that this axis can show"]
    return "; ".join(found)


def _gaps(curve: Curve) -> list[str]:
    """Say of each line how many of its values are not finite; nothing of a whole one."""
    found = []
    for series in curve.series:
        lost = [step for step, value in series.points if not math.isfinite(value)]
        name = f"{series.name}: " if len(curve.series) > 1 else ""
        if len(lost) == len(series.points):
            found.append(f"{name}no finite value")
        elif lost:
            found.append(
                f"{name}{len(lost):,} of {len(series.points):,} values not finite, the first at step {lost[0]:,.0f}"
            )
    return found


def has_points(curve: Curve) -> bool:
    """Tell whether there is anything to draw."""
    return any(math.isfinite(value) for series in curve.series for _, value in _shown(series, curve))


def is_smoothed(curve: Curve) -> bool:
    """Tell whether a smoothed line is drawn over what was logged."""
    return curve.is_noisy and all(len(_finite(series.points)) >= SMOOTHED_FROM for series in curve.series)


def _colours() -> Iterator[str]:
    while True:
        yield from LINES


def _line(axes: Axes, series: Series, colour: str, curve: Curve) -> None:
    points = thinned(_shown(series, curve))
    dots = points if len(points) <= MOST_DOTS else isolated(points)
    faint: dict[str, Any] = {"alpha": 0.35, "linewidth": 0.8} if is_smoothed(curve) else {}
    axes.plot(*_columns(points), color=colour, **faint)
    axes.plot(*_columns(dots), "o", color=colour, markersize=2.6, **faint)
    if is_smoothed(curve):
        axes.plot(*_columns(thinned(smoothed(_finite(shown(series.points))))), color=colour)


def _columns(points: Points) -> tuple[list[float], list[float]]:
    """Return steps and values."""
    return [step for step, _ in points], [value for _, value in points]


def _finite(points: Points) -> list[tuple[float, float]]:
    return [point for point in points if math.isfinite(point[1])]


def isolated(points: Points) -> list[tuple[float, float]]:
    """Return the points between two gaps, of which a line shows nothing."""
    there = [False, *(math.isfinite(value) for _, value in points), False]
    return [
        point
        for point, before, here, after in zip(points, there, there[1:], there[2:], strict=False)
        if here and not before and not after
    ]


def _shown(series: Series, curve: Curve) -> list[tuple[float, float]]:
    return shown(series.points, is_log=curve.is_log)


def shown(points: Points, *, is_log: bool = False) -> list[tuple[float, float]]:
    """Return the points an axis can show; nan in the place of others, which leaves a gap."""
    lowest = 0.0 if is_log else -BEYOND
    return [
        (step, value if lowest < value < BEYOND else math.nan) for step, value in points if abs(step) < BEYOND
    ]


def thinned(points: Points) -> Points:
    """Return fewer points that look the same: of every stretch the lowest and the highest."""
    if len(points) <= MOST_POINTS:
        return points
    kept = []
    stretches = MOST_POINTS // 2
    for number in range(stretches):
        stretch = points[number * len(points) // stretches : (number + 1) * len(points) // stretches]
        finite = [point for point in stretch if math.isfinite(point[1])] or stretch[:1]
        ends = {min(finite, key=lambda point: point[1]), max(finite, key=lambda point: point[1])}
        kept += sorted(ends)
    return kept


def smoothed(points: Points) -> list[tuple[float, float]]:
    """Return the mean over a window of a fortieth of the points around each."""
    reach = max(1, len(points) // 80)
    sums = [0.0]
    for _, value in points:
        sums.append(sums[-1] + value)
    return [
        (step, (sums[stop] - sums[start]) / (stop - start))
        for place, (step, _) in enumerate(points)
        for start, stop in [(max(0, place - reach), min(len(points), place + reach + 1))]
    ]


def _dress(axes: Axes, curve: Curve) -> None:
    """Set axes, grid and labels."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    axes.grid(visible=False, axis="x")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if curve.is_log and has_points(curve):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(numticks=7))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: tick_text(value)))
    if curve.from_zero:
        axes.set_ylim(bottom=0)
    axes.set_xlabel("step")


def tick_text(value: float) -> str:
    """Return a number on an axis: `20k`, `0.05`, `1.5M`."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}".replace("-", "\N{MINUS SIGN}")


def _for_page(svg: str, prefix: str, words: str) -> str:
    """Make an SVG file an element of a page."""
    root = ElementTree.fromstring(svg)
    for parent in root.iter():
        for child in list(parent):
            if child.tag.rpartition("}")[2] in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = {
            name.rpartition("}")[2]: _attribute(name, value, prefix) for name, value in element.attrib.items()
        }
    box = root.attrib["viewBox"]
    root.attrib = {"viewBox": box, "role": "img", "aria-label": words}
    return ElementTree.tostring(root, encoding="unicode")


def _attribute(name: str, value: str, prefix: str) -> str:
    """Return an attribute with the drawing's own names and the page's colours and letters."""
    if name == "id":
        return prefix + value
    if name.endswith("href"):
        return value.replace("#", f"#{prefix}", 1)
    value = value.replace("url(#", f"url(#{prefix}").replace(INK, "var(--ink)").replace(GRID, "var(--grid)")
    for number, colour in enumerate(LINES, 1):
        value = value.replace(colour, f"var(--line-{number})")
    if name == "style":  # letters are the page's
        value = re.sub(r"font: ([\d.]+px)[^;]*", r"font-size: \1", value)
        value = re.sub(r"font-family: [^;]*;? *", "", value)
    return value
