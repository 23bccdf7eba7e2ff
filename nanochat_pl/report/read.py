"""Files of a run as plain records, however they were left.

A process may have been killed while it wrote, or write at this moment: a line that is no JSON object is skipped and
counted, a missing or damaged file is an empty one that says so. Numbers keep the file and line they come from.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import yaml

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C, ten times faster, where it was built
DAMAGE = (ValueError, RecursionError)  # not JSON, not UTF-8; nested beyond any sense


class Source(NamedTuple):
    """Where something shown stands.

    Attributes:
        file: path below the base directory.
        line: number of the line, None where the whole file is meant.
    """

    file: str
    line: int | None = None


class Record(NamedTuple):
    """One line of a metrics file."""

    facts: dict[str, Any]
    source: Source

    def number(self, key: str) -> float | None:
        """Return the number under a key, which may be nan or infinite; None where there is none."""
        return as_number(self.facts.get(key))


class Lines(NamedTuple):
    """A file of JSON objects, one a line.

    Attributes:
        source: the file.
        records: its sound lines, in order.
        damaged: numbers of the lines skipped.
    """

    source: Source
    records: tuple[Record, ...]
    damaged: tuple[int, ...] = ()

    def with_key(self, key: str) -> list[Record]:
        """Return the records that have a number under a key."""
        return [record for record in self.records if record.number(key) is not None]


class Document(NamedTuple):
    """A JSON or YAML file that holds one object.

    Attributes:
        source: the file.
        facts: what it holds; empty where it is missing or damaged.
        is_damaged: whether it is there and cannot be read.
    """

    source: Source
    facts: dict[str, Any]
    is_damaged: bool = False

    def number(self, key: str) -> float | None:
        """Return the number under a key, None where there is none."""
        return as_number(self.facts.get(key))


def read_lines(path: Path, base: Path) -> Lines:
    """Read a file of JSON lines; a missing one has no record."""
    source = Source(path.relative_to(base).as_posix())
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return Lines(source, ())
    parsed = {number: _object(line) for number, line in enumerate(lines, 1) if line.strip()}
    sound = (
        Record(facts, Source(source.file, number)) for number, facts in parsed.items() if facts is not None
    )
    return Lines(source, tuple(sound), tuple(number for number, facts in parsed.items() if facts is None))


def read_document(path: Path, base: Path) -> Document:
    """Read one object from a `.json` or `.yaml` file."""
    source = Source(path.relative_to(base).as_posix())
    try:
        text = path.read_bytes()
    except OSError:
        return Document(source, {})
    facts = _yaml_object(text) if path.suffix == ".yaml" else _object(text)
    return Document(source, facts or {}, is_damaged=facts is None)


def _object(text: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except DAMAGE:
        return None
    return value if isinstance(value, dict) else None


def _yaml_object(text: bytes) -> dict[str, Any] | None:
    try:
        value = yaml.load(text, Loader=LOADER)
    except (yaml.YAMLError, *DAMAGE):
        return None
    return value if isinstance(value, dict) else None


def as_number(value: Any) -> float | None:
    """Return a JSON number as a float; None for anything else, a truth value included."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:  # an integer of hundreds of digits
        return float("inf") if value > 0 else float("-inf")


def dig(facts: Any, *keys: str) -> Any:
    """Return what stands under nested keys, None where one of them is missing."""
    for key in keys:
        facts = facts.get(key) if isinstance(facts, dict) else None
    return facts
