"""The arithmetic tool of the chat model: a grammar of its own, never `eval`.

    sum      product (+|- product)*
    product  factor (*|/|//|% factor)*
    factor   (+|-) factor | atom [** factor]
    atom     number | ( sum ) | 'text'.count('text')

Precedence and meaning are Python's. An expression is text a model wrote, so nothing it says may cost time or
memory: every budget below is checked before the work is done, and what breaks one has no answer.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from typing import NoReturn

MAX_CHARACTERS = 200
MAX_DEPTH = 20  # of parentheses, signs and powers within one another
MAX_NODES = 50  # operands and operators
MAX_INTEGER = 10**30
MAX_EXPONENT = 100
MAX_RESULT_CHARACTERS = 64

Number = int | float

_TOKEN = re.compile(
    r"""\ *(?:
        (?P<number>(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?
                  |\.[0-9]+(?:[eE][+-]?[0-9]+)?)
        |(?P<text>'[^'\\]*'|"[^"\\]*")
        |(?P<symbol>\*\*|//|[-+*/%()]|\.count\b)
    )""",
    re.VERBOSE,
)
_SUM: dict[str, Callable[[Number, Number], Number]] = {"+": operator.add, "-": operator.sub}
_PRODUCT: dict[str, Callable[[Number, Number], Number]] = {
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
}


def calculate(expression: str) -> str | None:
    """Return what an expression comes to, or None where it is not legal or breaks a budget.

    Safe from any thread and for any text. `1,234` is a number, but a comma within quotes is text.

    Args:
        expression: arithmetic, or a count of text within text, as a model writes it between its tool tokens.

    Returns:
        Python's `repr` of the value, without the `.0` of a whole float: `10/4` gives `2.5`, `20/2` gives `10`,
        `0.1+0.2` gives `0.30000000000000004`. Never infinite, not a number, or longer than 64 characters.
    """
    if len(expression) > MAX_CHARACTERS or not expression.isprintable():
        return None
    try:
        tokens = _tokens(expression)
        value = _Parser(tokens).whole() if len(tokens) <= 4 * MAX_NODES else None
    except (_Illegal, ArithmeticError):
        return None
    return None if value is None else _canonical(value)


class _Illegal(Exception):
    """The expression is outside the grammar or a budget."""


def _refuse() -> NoReturn:
    raise _Illegal


def _tokens(expression: str) -> list[str]:
    """Cut an expression into tokens, the last one empty."""
    expression = expression.rstrip(" ")
    tokens, place = [], 0
    while place < len(expression):
        match = _TOKEN.match(expression, place) or _refuse()
        tokens.append(match.group(match.lastgroup or 0))
        place = match.end()
    return [*tokens, ""]


class _Parser:
    """One pass over the tokens that computes as it reads."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens, self._place = tokens, 0
        self._depth = self._nodes = 0

    def whole(self) -> Number:
        value = self._sum()
        return value if self._next() == "" else _refuse()

    def _next(self) -> str:
        self._place += 1
        return self._tokens[self._place - 1]

    def _accept(self, *choices: str) -> str:
        """Take the next token if it is one of these; give back the token or nothing."""
        return self._next() if self._tokens[self._place] in choices else ""

    def _expect(self, token: str) -> None:
        if not self._accept(token):
            _refuse()

    def _count(self) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            _refuse()

    def _deeper(self, parse: Callable[[], Number]) -> Number:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            _refuse()
        value = parse()
        self._depth -= 1
        return value

    def _sum(self) -> Number:
        return self._chain(_SUM, self._product)

    def _product(self) -> Number:
        return self._chain(_PRODUCT, self._factor)

    def _chain(
        self, operators: dict[str, Callable[[Number, Number], Number]], operand: Callable[[], Number]
    ) -> Number:
        value = operand()
        while symbol := self._accept(*operators):
            self._count()
            value = _bounded(operators[symbol](value, operand()))
        return value

    def _factor(self) -> Number:
        if sign := self._accept("-", "+"):
            self._count()
            value = self._deeper(self._factor)
            return -value if sign == "-" else value
        base = self._atom()
        if self._accept("**"):
            self._count()
            return _power(base, self._deeper(self._factor))
        return base

    def _atom(self) -> Number:
        self._count()
        token = self._next()
        if token == "(":
            value = self._deeper(self._sum)
            self._expect(")")
            return value
        if token[:1] in ("'", '"'):
            return self._count_of(token)
        return _number(token)

    def _count_of(self, text: str) -> int:
        self._expect(".count")
        self._expect("(")
        sought = self._next()
        if sought[:1] not in ("'", '"'):
            _refuse()
        self._expect(")")
        return text[1:-1].count(sought[1:-1])


def _number(token: str) -> Number:
    """Read a number; as in Python, an integer other than 0 does not begin with 0."""
    if not token[:1].isdigit() and not (token[:1] == "." and token != ".count"):
        _refuse()
    digits = token.replace(",", "")
    if not digits.isdigit():
        return _bounded(float(digits))
    if digits[0] == "0" and digits.strip("0"):
        _refuse()
    return _bounded(int(digits))


def _power(base: Number, exponent: Number) -> Number:
    """Raise to a power that is small enough to be computed at once; a complex result is not legal."""
    if abs(exponent) > MAX_EXPONENT:
        _refuse()
    value = base**exponent
    return _refuse() if isinstance(value, complex) else _bounded(value)


def _bounded(value: Number) -> Number:
    is_legal = abs(value) <= MAX_INTEGER if isinstance(value, int) else math.isfinite(value)
    return value if is_legal else _refuse()


def _canonical(value: Number) -> str | None:
    text = repr(value).removesuffix(".0")
    text = "0" if text == "-0" else text
    return text if len(text) <= MAX_RESULT_CHARACTERS else None
