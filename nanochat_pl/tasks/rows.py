"""Rows of tasks from files: parquet, or JSON lines, plain or gzipped; shards follow each other by name.

    tasks/gsm8k/train.jsonl.gz                          one file
    tasks/smoltalk/train-00000-of-00004.parquet ...     shards; all that their names promise must be there

Every row knows where it stands, so that whoever finds something wrong in it can say so. What a row means is its
task's business.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from nanochat_pl.system.errors import Failure, Unfetched

ROW_SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz")
REMEDY = "mend the file if it is your own, or bring it anew"

T = TypeVar("T")


class Row(NamedTuple):
    """One row, or a part of one, and where it stands.

    Attributes:
        where: file and row, or file and line, both counted from 1.
        content: what the file holds there; usually a mapping.
    """

    where: str
    content: Any

    def field(self, key: str, kind: type[T]) -> T:
        """Return the value of `key`.

        Raises:
            Failure: there is none, or it is not of this kind.
        """
        if not isinstance(self.content, dict) or key not in self.content:
            raise self.failure(f"has no {key!r}")
        value = self.content[key]
        if not isinstance(value, kind):
            raise self.failure(f"{key!r} is {type(value).__name__}, not {kind.__name__}")
        return value

    def texts(self, key: str) -> list[str]:
        """Return the strings in the list that is the value of `key`."""
        values = self.field(key, list)
        if not all(isinstance(value, str) for value in values):
            raise self.failure(f"{key!r} holds something else than strings")
        return values

    def failure(self, complaint: str) -> Failure:
        """Return the error that says what is wrong with this row."""
        return Unfetched(f"{self.where}: {complaint}", REMEDY)


class Rows:
    """The rows of several files, one after the other.

    Args:
        files: parquet files or JSON lines, at least one.

    Raises:
        Failure: a file is damaged, or there is no row in any of them.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = list(files)
        self._parts = [_Table(path) if path.suffix == ".parquet" else _Lines(path) for path in files]
        self._ends = list(accumulate(map(len, self._parts)))
        if not len(self):
            raise Unfetched(f"{self.files[0]}: has no rows", REMEDY)

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, number: int) -> Row:
        part = bisect_right(self._ends, number)
        return self._parts[part].row(number - (self._ends[part - 1] if part else 0))


class _Table:
    """A parquet file in memory, in Arrow's own compact form: processes forked from this one share it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with _naming(path):
            # No threads and no buffering ahead: a loader's worker is forked, and threads do not survive that.
            file = pq.ParquetFile(path, pre_buffer=False, page_checksum_verification=True)
            self._table = file.read(use_threads=False)

    def __len__(self) -> int:
        return self._table.num_rows

    def row(self, number: int) -> Row:
        return Row(f"{self.path}: row {number + 1}", self._table.slice(number, 1).to_pylist()[0])


class _Lines:
    """A file of JSON lines, parsed; blank lines are no rows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._values = [(number, _parsed(path, number, line)) for number, line in read_lines(path)]

    def __len__(self) -> int:
        return len(self._values)

    def row(self, number: int) -> Row:
        line, value = self._values[number]
        return Row(f"{self.path}: line {line}", value)


def find_files(
    place: Path, stems: Sequence[str], *, whose: str, suffixes: Sequence[str] = ROW_SUFFIXES
) -> list[Path]:
    """Return a task's files in the order of their names.

    Args:
        place: the file itself, or the folder it lies in.
        stems: names without suffix, the usual one first; the first that is there counts.
        whose: the task, for the message.
        suffixes: what may follow, the preferred one first; the first that is there counts, so that a file
            lying beside its own unpacked copy is read once.

    Raises:
        Failure: there is none, or shards are missing.
    """
    if place.is_file():
        _require_suffix(place, suffixes)
        return [place]
    names = sorted(path.name for path in place.iterdir()) if place.is_dir() else []
    for stem in stems:
        for suffix in suffixes:
            if found := [name for name in names if _is_shard(name, stem, suffix)]:
                _require_all_shards(place, found)
                return [place / name for name in found]
    looked_for = " or ".join(f"{stem}{suffix}" for stem in stems for suffix in suffixes)
    raise Unfetched(f"{place}: the data of {whose} is not here; expected {looked_for}")


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file, gzipped if its name says so, that are not blank, and their numbers from 1."""
    with (
        _naming(path),
        (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig") as lines,
    ):
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield number, line.strip()


def _is_shard(name: str, stem: str, suffix: str) -> bool:
    """Tell whether a name is `stem`, or `stem-00000` or `stem-00000-of-00004`, with this suffix."""
    return re.fullmatch(rf"{re.escape(stem)}(-\d+(-of-\d+)?)?{re.escape(suffix)}", name) is not None


def _require_all_shards(place: Path, names: Sequence[str]) -> None:
    promised = {int(match[1]) for name in names if (match := re.search(r"-\d+-of-(\d+)", name))}
    if promised and promised != {len(names)}:
        raise Unfetched(
            f"{place}: {names[0]} is one of {max(promised)} shards, but {len(names)} are here",
            "bring the rest",
        )


def _require_suffix(path: Path, suffixes: Sequence[str]) -> None:
    if not path.name.endswith(tuple(suffixes)):
        raise Failure(f"{path}: cannot be read; a file named *{' or *'.join(suffixes)} can")


def _parsed(path: Path, number: int, line: str) -> Any:
    """Return the value of one line of JSON whose strings UTF-8 can hold."""
    try:
        value = json.loads(line)
        if "\\ud" in line.lower():  # JSON can spell halves of surrogate pairs, which no tokenizer takes
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0][:100]
        raise Unfetched(f"{path}: line {number} is not JSON ({reason})", REMEDY) from None
    return value


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn whatever a damaged file makes a library say into a Failure with the file's name."""
    try:
        yield
    except (pa.ArrowException, OSError, EOFError, zlib.error, UnicodeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise Unfetched(f"{path}: damaged, or not what its name says ({reason})", REMEDY) from error
