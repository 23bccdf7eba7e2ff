"""The number an answer ends with: its value counts, not its spelling; what a tool printed does not count."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat_pl.tasks.answers import final_number, has_result


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("#### 10", 10),
        ("so it is\n#### 10.", 10),
        ("#### 10.0", 10),
        ("#### 10, as I said.", 10),
        ("#### 1,234,567", 1234567),
        ("#### 1,234.50", Fraction(2469, 2)),
        ("#### $80,000", 80000),
        ("#### -$5", -5),
        ("#### $-5", -5),
        ("#### \N{MINUS SIGN}5", -5),
        ("#### - 5", -5),
        ("#### +5", 5),
        ("#### 50%", 50),
        ("#### .5", Fraction(1, 2)),
        ("#### 3/4", Fraction(3, 4)),
        ("#### **12**", 12),
        ("####12", 12),
        ("#### 12 apples", 12),
        ("#### 007", 7),
        ("#### 5\nNo, wait.\n#### 6", 6),
        ("<|output_start|>#### 5<|output_end|> so\n#### 6", 6),
        ("#### 6\n<|output_start|>#### 5<|output_end|>", 6),
        ("#### 6\n<|output_start|>#### 5", 6),
    ],
)
def test_a_result_is_read_by_its_value(text, value):
    assert final_number(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10",
        "### 10",
        "#### ten",
        "#### ",
        "####\n10",
        "#### 3/0",
        "#### ,5",
        "<|output_start|>#### 5<|output_end|>",
        "#### " + "9" * 10_000,
    ],
)
def test_an_answer_without_a_result_has_no_number(text):
    assert final_number(text) is None


def test_without_a_reference_nothing_is_right():
    assert not has_result("no number", None)
    assert not has_result("#### 1", None)


@given(
    number=st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9), max_value=10**9)
)
def test_thousands_separators_and_zeros_change_nothing(number):
    assert final_number(f"#### {number:,}") == final_number(f"#### {number}0") == Fraction(number)


@given(st.text())
def test_no_answer_whatsoever_is_an_error(text):
    final_number("#### " + text)
    final_number(text)
