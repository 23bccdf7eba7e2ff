"""Plain values as bytes, to cross from one locked process to another: what comes out is built in, never a trick.

    None True 1.5 "text" [1, 2]      as JSON has them; also inf and nan
    {"tuple": [..]}                  everything else, under the name of its type: tuple, set, frozenset, bytes,
                                     complex, large integers, dict (as pairs), range, iterator (as its items)

A subclass crosses as the type it derives from, so an `int` that calls itself equal to everything arrives as an
`int`. Messages are framed by their length; whoever reads sets the largest length he accepts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

MAX_MESSAGE_BYTES = 2**20
MAX_JOB_BYTES = 16 * 2**20  # two sources of 1 MiB whose every byte is escaped
MAX_ITERATOR_ITEMS = 10_000
PREFIX_BYTES = 4
_EXACT_INTEGER = 2**63  # decimal beyond would meet Python's limit on the digits of integers


class NotLiteral(TypeError):
    """The value has no literal form here, or too large a one."""


def pack(value: Any) -> bytes:
    """Return the bytes of a value.

    Raises:
        NotLiteral: it is, or contains, something else than the types above; it is nested too deeply.
    """
    try:
        return json.dumps(_plain(value)).encode("ascii")
    except RecursionError:
        raise NotLiteral("a value nested too deeply, or within itself, cannot cross") from None


def unpack(message: bytes) -> Any:
    """Return the value of `pack`'s bytes.

    Raises:
        ValueError: the bytes are not of this form, whoever wrote them.
    """
    try:
        return _built(json.loads(message))
    except (TypeError, KeyError, OverflowError, RecursionError) as error:
        raise ValueError(f"not a literal: {error}") from None


def frame(value: Any, max_bytes: int = MAX_MESSAGE_BYTES) -> bytes:
    """Return a value as a message with its length before it.

    Raises:
        NotLiteral: see `pack`; or it is too long.
    """
    message = pack(value)
    if len(message) > max_bytes:
        raise NotLiteral(f"a value of {len(message)} bytes cannot cross; at most {max_bytes} can")
    return len(message).to_bytes(PREFIX_BYTES, "big") + message


def send(descriptor: int, value: Any) -> None:
    """Write a value as one message; raises as `frame` does."""
    rest = memoryview(frame(value))
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def receive(descriptor: int, max_bytes: int = MAX_MESSAGE_BYTES) -> Any:
    """Read the next message.

    Raises:
        EOFError: the other side has ended.
        ValueError: the message is too long, or not one.
    """
    length = int.from_bytes(_read(descriptor, PREFIX_BYTES), "big")
    if length > max_bytes:
        raise ValueError(f"a message of {length} bytes; at most {max_bytes} are read")
    return unpack(_read(descriptor, length))


def _read(descriptor: int, length: int) -> bytes:
    parts = []
    while length:
        part = os.read(descriptor, length)
        if not part:
            raise EOFError
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def _plain(value: Any) -> Any:
    """Return what JSON can say of a value; the order of the tests is that of the types' kinship."""
    if value is None or value is True or value is False:
        return value
    for kind, say in _SAY:
        if isinstance(value, kind):
            return say(value)
    raise NotLiteral(f"a value of type {type(value).__name__} cannot cross, only literals")


def _say_int(value: int) -> Any:
    value = int.__index__(value)
    return value if abs(value) < _EXACT_INTEGER else {"int": hex(value)}


def _say_items(items: Any) -> list[Any]:
    return [_plain(item) for item in items]


def _say_dict(value: dict[Any, Any]) -> Any:
    return {"dict": [[_plain(key), _plain(item)] for key, item in value.items()]}


def _say_iterator(value: Iterator[Any]) -> Any:
    items = list(islice(value, MAX_ITERATOR_ITEMS + 1))
    if len(items) > MAX_ITERATOR_ITEMS:
        raise NotLiteral(f"an iterator of more than {MAX_ITERATOR_ITEMS} items cannot cross")
    return {"iterator": _say_items(items)}


_SAY: list[tuple[Any, Callable[[Any], Any]]] = [
    (int, _say_int),
    (float, lambda value: value),
    (str, lambda value: value),
    (list, _say_items),
    (tuple, lambda value: {"tuple": _say_items(value)}),
    (dict, _say_dict),
    (set, lambda value: {"set": _say_items(value)}),
    (frozenset, lambda value: {"frozenset": _say_items(value)}),
    ((bytes, bytearray), lambda value: {type(value).__name__: bytes(value).hex()}),
    (complex, lambda value: {"complex": [value.real, value.imag]}),
    (range, lambda value: {"range": _say_items([value.start, value.stop, value.step])}),
    (Iterator, _say_iterator),
]

_BUILD: dict[str, Callable[[Any], Any]] = {
    "int": lambda digits: int(digits, 16),
    "tuple": lambda items: tuple(_built(items)),
    "set": lambda items: set(_built(items)),
    "frozenset": lambda items: frozenset(_built(items)),
    "dict": lambda pairs: {_built(key): _built(item) for key, item in pairs},
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "complex": lambda parts: complex(*parts),
    "range": lambda ends: range(*_built(ends)),
    "iterator": lambda items: iter(_built(items)),
}


def _built(said: Any) -> Any:
    if isinstance(said, list):
        return [_built(item) for item in said]
    if isinstance(said, dict):
        ((kind, content),) = said.items()
        return _BUILD[kind](content)
    return said
