"""The number an answer ends with, as a number.

An answer gives its result behind four hashes, `#### 1,234`. What a tool printed does not count, of several results
the last counts, and numbers are compared by value: `$1,234.00` is 1234, and so is `1234.` at the end of a sentence.
"""

from __future__ import annotations

import re
from fractions import Fraction

MAX_DIGITS = 300  # no answer has more, and Python refuses to convert thousands
TOOL_OUTPUT = re.compile(r"<\|output_start\|>.*?(?:<\|output_end\|>|\Z)", re.DOTALL)
MINUS = ("-", "\u2212")
RESULT = re.compile(
    r"""\#{4} [ \t*]* (?P<sign>[-+\u2212]?) [ ]? [$€£¥]? (?P<inner_sign>[-+\u2212]?)
        (?P<number>\d[\d,]*(?:\.\d+)?|\.\d+)  (?:/(?P<divisor>\d+))?""",
    re.VERBOSE | re.ASCII,
)


def final_number(text: str) -> Fraction | None:
    """Return the number behind the last `####` that has one, exactly; None if none has.

    Args:
        text: an answer; segments between `<|output_start|>` and `<|output_end|>` are passed over.
    """
    results = list(RESULT.finditer(TOOL_OUTPUT.sub("", text)))
    if not results:
        return None
    numerator, divisor = results[-1]["number"].replace(",", ""), results[-1]["divisor"] or "1"
    if len(numerator) + len(divisor) > MAX_DIGITS or not int(divisor):
        return None
    is_negative = results[-1]["sign"] in MINUS or results[-1]["inner_sign"] in MINUS
    return Fraction(numerator) / int(divisor) * (-1 if is_negative else 1)


def has_result(text: str, number: Fraction | None) -> bool:
    """Tell whether an answer ends with this number; without a number nothing is right."""
    return number is not None and final_number(text) == number
