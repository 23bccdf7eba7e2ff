"""Literals cross as they are, everything else not at all, and no bytes do harm to who reads them."""

from __future__ import annotations

import math
import os
from collections import Counter, OrderedDict, namedtuple
from enum import IntEnum

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat_pl.sandbox.literals import MAX_MESSAGE_BYTES, NotLiteral, frame, pack, receive, send, unpack

PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.complex_numbers(allow_nan=False),
    st.text(st.characters()),
    st.binary(),
)
HASHABLE = st.one_of(PLAIN, st.tuples(PLAIN, PLAIN), st.frozensets(PLAIN, max_size=3))
VALUES = st.recursive(
    st.one_of(HASHABLE, st.sets(HASHABLE, max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(HASHABLE, inner, max_size=3),
    ),
    max_leaves=8,
)


def same(one: object, other: object) -> bool:
    """Equal, and of equal types all the way down."""
    return one == other and repr(_sorted(one)) == repr(_sorted(other))


def _sorted(value: object) -> object:
    if isinstance(value, (set, frozenset)):
        return type(value).__name__, sorted(repr(_sorted(item)) for item in value)
    if isinstance(value, (list, tuple)):
        return type(value).__name__, [_sorted(item) for item in value]
    if isinstance(value, dict):
        return [(_sorted(key), _sorted(item)) for key, item in value.items()]
    return value


@given(VALUES)
@settings(max_examples=300, deadline=None)
def test_a_literal_crosses_unchanged_with_its_type(value):
    assert same(unpack(pack(value)), value)


@pytest.mark.parametrize(
    "value",
    [
        True,
        1,
        1.0,
        -0.0,
        math.inf,
        -math.inf,
        10**5000,
        "\ud800",
        b"\xff",
        bytearray(b"a"),
        range(3),
        {(1,): {2}},
    ],
    ids=lambda value: type(value).__name__,
)
def test_awkward_values_cross(value):
    crossed = unpack(pack(value))
    assert type(crossed) is type(value)
    assert crossed == value


def test_nan_and_the_sign_of_zero_cross():
    assert math.isnan(unpack(pack(math.nan)))
    assert math.copysign(1, unpack(pack(-0.0))) == -1


def test_an_iterator_crosses_as_an_iterator_of_its_items():
    crossed = unpack(pack(number * number for number in range(4)))
    assert iter(crossed) is crossed
    assert list(crossed) == [0, 1, 4, 9]


class Always(int):
    def __eq__(self, other):
        return True

    __hash__ = int.__hash__


class Colour(IntEnum):
    RED = 1


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Always(3), 3),
        (Colour.RED, 1),
        (Counter("aab"), {"a": 2, "b": 1}),
        (OrderedDict(a=1), {"a": 1}),
        (namedtuple("Pair", "a b")(1, 2), (1, 2)),
    ],
)
def test_a_subclass_crosses_as_what_it_derives_from(value, plain):
    crossed = unpack(pack(value))
    assert type(crossed) is type(plain)
    assert repr(crossed) == repr(plain)


def _endless():
    while True:
        yield 1


def _within_itself():
    found = []
    found.append(found)
    return found


@pytest.mark.parametrize(
    "value",
    [object(), len, int, ..., [object()], _endless(), _within_itself()],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_literal_does_not_cross(value):
    with pytest.raises(NotLiteral):
        pack(value)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"{",
        b"{}",
        b'{"a": 1, "b": 2}',
        b'{"object": 1}',
        b'{"__class__": []}',
        b'{"int": "zz"}',
        b'{"int": 5}',
        b'{"set": [[1]]}',
        b'{"dict": [1]}',
        b'{"dict": [[[], 1]]}',
        b'{"bytes": 5}',
        b'{"bytes": "zz"}',
        b'{"complex": ["1", "2"]}',
        b'{"range": [1, 2, 0]}',
        b'{"iterator": 5}',
        b'{"tuple": 5}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"tuple":' * 100_000,
        b"1 2",
    ],
    ids=range(21),
)
def test_bytes_that_are_no_message_are_a_value_error(message):
    with pytest.raises(ValueError):
        unpack(message)


def test_a_message_that_says_it_is_huge_is_not_waited_for():
    read, write = os.pipe()
    os.write(write, (2**32 - 1).to_bytes(4, "big"))
    with pytest.raises(ValueError, match="at most"):
        receive(read)
    os.close(read)
    os.close(write)


def test_messages_follow_one_another_and_then_end():
    read, write = os.pipe()
    send(write, [1])
    send(write, {"a": (2,)})
    os.write(write, frame("cut")[:-1])
    os.close(write)
    assert [receive(read), receive(read)] == [[1], {"a": (2,)}]
    with pytest.raises(EOFError):
        receive(read)
    os.close(read)


def test_too_long_a_value_is_not_sent():
    with pytest.raises(NotLiteral, match="at most"):
        frame("x" * MAX_MESSAGE_BYTES)
