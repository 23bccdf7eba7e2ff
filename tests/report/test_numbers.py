"""Numbers as people read them."""

from __future__ import annotations

import pytest

from nanochat_pl.report.numbers import count_text, moment_text, number_text, span_text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "—"),
        (9999, "9999"),
        (10_000, "10,000"),
        (-12_345, "-12,345"),
        (0.22194, "0.2219"),
        (1.0, "1.0000"),
        (0.0, "0.0000"),
        (3.08e-05, "3.080e-05"),
        (1_050_000.7, "1,050,001"),
        (3.918e19, "3.918e+19"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
    ],
)
def test_number(value, text):
    assert number_text(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(21400.0, "21,400"), (8.0, "8"), (float("inf"), "inf"), (None, "—")]
)
def test_count(value, text):
    assert count_text(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0s"),
        (59.94, "59.9s"),
        (60, "1m00s"),
        (3599.6, "1h00m"),
        (13860, "3h51m"),
        (4e6, "1,111h06m"),
        (None, "—"),
    ],
)
def test_span(seconds, text):
    assert span_text(seconds) == text


@pytest.mark.parametrize("moment", [1e300, float("nan"), float("inf")])
def test_a_moment_no_calendar_has_is_a_dash(moment):
    assert moment_text(moment) == "—"
    assert moment_text(0) == "1970-01-01 00:00 UTC"
