"""Drawings for the middle of a page."""

from __future__ import annotations

import math
import random
import re
from xml.etree import ElementTree

import pytest

from nanochat_pl.report.card import Curve, Series
from nanochat_pl.report.curves import (
    MOST_DOTS,
    MOST_POINTS,
    draw,
    has_points,
    is_smoothed,
    isolated,
    note,
    shown,
    smoothed,
    thinned,
    tick_text,
)
from nanochat_pl.report.read import Source

FILE = Source("runs/a/metrics/train.jsonl")


def curve(*points, name="loss", **kind) -> Curve:
    return Curve("loss", (Series(name, tuple(points)),), FILE, **kind)


def test_a_drawing_takes_colours_and_letters_from_the_page_and_points_nowhere():
    pytest.importorskip("matplotlib")
    svg = draw(curve(*((step, 5 / (step + 1)) for step in range(100)), is_noisy=True), "c1-")
    root = ElementTree.fromstring(svg)
    assert root.tag == "svg"
    assert root.attrib["role"] == "img"
    assert "from 5 at step 0 to 0.05 at step 99" in root.attrib["aria-label"]
    assert {"var(--ink)", "var(--grid)", "var(--line-1)"} <= set(re.findall(r"var\(--[\w-]+\)", svg))
    assert not re.search(r"#0102|https?:|xmlns|<style|<metadata|font-family|font:", svg)
    assert any(element.tag == "text" and element.text == "step" for element in root.iter())


def test_two_drawings_share_no_name_and_each_finds_its_own():
    pytest.importorskip("matplotlib")
    one, two = (draw(curve((0, 1.0), (1, 2.0)), prefix) for prefix in ("c1-", "c2-"))
    names = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (one, two)]
    assert names[0]
    assert not names[0] & names[1]
    for svg, own in zip((one, two), names, strict=True):
        assert set(re.findall(r'(?:url\(|href=")#([^")]+)', svg)) <= own


@pytest.mark.parametrize(
    "points",
    [
        [(0, math.nan)],
        [(0, 1.0)],
        [(0, math.inf), (1, 2.0), (2, -math.inf), (3, 1e308)],
        [(0, 0.0), (1, 0.0)],
        [(1e300, 1.0), (1, 1.0)],
    ],
)
@pytest.mark.parametrize("is_log", [True, False])
def test_values_no_axis_can_show_leave_a_gap(points, is_log):
    pytest.importorskip("matplotlib")
    assert draw(curve(*points, is_log=is_log), "c-").startswith("<svg")


@pytest.mark.parametrize("name", ["$\\frac{1}{0}$", "_hidden", "<script>", "a & b"])
def test_names_are_text(name):
    pytest.importorskip("matplotlib")
    assert "<script" not in draw(curve((0, 1.0), (1, 0.5), name=name), "c-")


def test_fewer_points_keep_every_extreme():
    draw_ = random.Random(0)
    points = [(step, draw_.gauss(0, 1)) for step in range(100_000)]
    points[70_123] = (70_123, 99.0)
    kept = thinned(points)
    assert len(kept) <= MOST_POINTS
    assert kept == sorted(kept)
    assert set(kept) <= set(points)
    assert min(value for _, value in kept) == min(value for _, value in points)
    assert (70_123, 99.0) in kept


def test_fewer_points_of_a_line_with_gaps():
    assert len(thinned([(step, math.nan) for step in range(10_000)])) <= MOST_POINTS


def test_smoothing_is_the_mean_of_the_neighbours():
    draw_ = random.Random(1)
    points = [(step, draw_.random()) for step in range(400)]
    reach = 5
    for place, (step, value) in enumerate(smoothed(points)):
        window = [value for _, value in points[max(0, place - reach) : place + reach + 1]]
        assert step == place
        assert value == pytest.approx(sum(window) / len(window))


def test_what_an_axis_cannot_show_is_no_number():
    assert [step for step, _ in shown([(1, 2.0), (1e40, 1.0)])] == [1]
    assert math.isnan(shown([(1, 0.0)], is_log=True)[0][1])
    assert shown([(1, 0.0)]) == [(1, 0.0)]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (20_000, "20k"), (1_500_000, "1.5M"), (0.05, "0.05"), (-3, "−3"), (2e9, "2G"), (750, "750")],
)
def test_numbers_on_an_axis(value, text):
    assert tick_text(value) == text


def every_third(count: int) -> list[tuple[float, float]]:
    return [(step, 2.0 + step if step % 3 == 0 else math.nan) for step in range(count)]


def test_points_between_two_gaps_are_isolated():
    points = every_third(MOST_DOTS * 3)
    assert isolated(points) == [point for point in points if point[0] % 3 == 0]
    assert isolated([(0, 1.0), (1, 2.0), (2, math.nan), (3, 4.0), (4, math.nan), (5, 6.0)]) == [
        (3, 4.0),
        (5, 6.0),
    ]
    assert isolated([]) == []


@pytest.mark.parametrize("is_noisy", [True, False])
def test_every_isolated_point_is_drawn(is_noisy):
    pytest.importorskip("matplotlib")
    points = every_third(MOST_DOTS * 3)
    root = ElementTree.fromstring(draw(curve(*points, is_noisy=is_noisy), "c-"))
    dots = [use for use in root.iter("use") if "var(--line-1)" in use.attrib.get("style", "")]
    assert len(dots) == len(points) // 3


def test_a_curve_tells_how_many_values_are_not_finite_and_where_the_first_is():
    points = [(10, 1.0), (20, math.nan), (30, math.inf), (40, 2.0)]
    assert note(curve(*points)) == "2 of 4 values not finite, the first at step 20"
    assert note(curve((10, 1.0))) == ""
    two = Curve("loss", (Series("a", tuple(points)), Series("b", ((1, math.nan),))), FILE)
    assert note(two) == "a: 2 of 4 values not finite, the first at step 20; b: no finite value"


@pytest.mark.parametrize(
    ("points", "said", "is_log"),
    [
        ([(0, math.nan), (1, math.inf)], "no finite value", False),
        ([(0, 0.0)], "no value that this axis can show", True),
    ],
)
def test_a_curve_without_a_point_says_so(points, said, is_log):
    empty = curve(*points, is_log=is_log)
    assert not has_points(empty)
    assert note(empty) == said


def test_values_that_are_not_finite_do_not_make_a_running_mean():
    assert not is_smoothed(curve(*every_third(100), is_noisy=True))
    assert is_smoothed(curve(*every_third(300), is_noisy=True))
