"""The files of CORE: which tasks it has, how each is asked, and their items.

    core.yaml             the tasks: label, kind, shots, delimiter, file of items
    eval_meta_data.csv    what chance reaches in each, in percent
    eval_data/**.jsonl    the items, gzipped or not

A task whose file is not here is named with the reason; a file that is damaged is an error.

Source:
    Li et al. 2024, arXiv:2406.11794 (DataComp-LM: the 22 tasks and their baselines).
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import yaml

from nanochat_pl.system.errors import Unfetched
from nanochat_pl.system.paths import tasks_dir
from nanochat_pl.system.printable import printable
from nanochat_pl.tasks.rows import Row, Rows

TASKS, BASELINES, ITEMS = "core.yaml", "eval_meta_data.csv", "eval_data"
REMEDY = "bring the bundle anew"

CoreKind = Literal["multiple_choice", "schema", "language_modeling"]


class CoreItem(NamedTuple):
    """One question.

    Attributes:
        contexts: what comes before the delimiter; several where the kind is "schema", else one.
        continuations: what comes after it; several where the kind is "multiple_choice", else one.
        gold: number of the right context or continuation.
    """

    contexts: tuple[str, ...]
    continuations: tuple[str, ...]
    gold: int = 0


class CoreItems:
    """The items of one file, all checked before the first is used.

    Args:
        path: the file.
        kind: which fields its rows have.

    Raises:
        Failure: a row lacks something, with file and line; the file is damaged or has no rows.
    """

    def __init__(self, path: Path, kind: CoreKind) -> None:
        self.path = path
        rows = Rows([path])
        self._items = [_READERS[kind](rows[number]) for number in range(len(rows))]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, number: int) -> CoreItem:
        return self._items[number]

    @cached_property
    def digest(self) -> str:
        """sha256 (hex) of the items in their order, however the file holds them."""
        digest = sha256()
        for item in self._items:
            digest.update(repr(tuple(item)).encode("utf-8", "replace"))
        return digest.hexdigest()


class CoreTask(NamedTuple):
    """One of the tasks.

    Attributes:
        label: its name in CORE.
        kind: how it is asked and marked.
        num_fewshot: solved items put before each question.
        delimiter: what stands between context and continuation.
        baseline: the accuracy that chance reaches, 0 to 1.
        items: in the order of the file.
    """

    label: str
    kind: CoreKind
    num_fewshot: int
    delimiter: str
    baseline: float
    items: CoreItems


class Missing(NamedTuple):
    """A task that cannot be asked, and why."""

    label: str
    reason: str


class Bundle(NamedTuple):
    """All of CORE that is here.

    Attributes:
        tasks: in the order of `core.yaml`.
        missing: those whose file is not here.
        labels: of all tasks, missing ones too.
        folder: where it lies.
    """

    tasks: list[CoreTask]
    missing: list[Missing]
    labels: list[str]
    folder: Path


def default_bundle() -> Path:
    """Return where the bundle lies unless a path is given."""
    return tasks_dir("core")


def read_bundle(folder: Path) -> Bundle:
    """Read CORE.

    Args:
        folder: the one with `core.yaml` in it.

    Raises:
        Failure: there is no bundle, none of its items is here, or a file is damaged; the message names file and line.
    """
    entries = _read_tasks(folder / TASKS)
    baselines = _read_baselines(folder / BASELINES)
    tasks: list[CoreTask] = []
    missing: list[Missing] = []
    read: dict[tuple[Path, CoreKind], CoreItems] = {}
    for entry in entries:
        path = _find(folder / ITEMS / entry.dataset_uri)
        if path is None:
            missing.append(Missing(entry.label, f"{folder / ITEMS / entry.dataset_uri} is missing"))
            continue
        key = (path, entry.kind)  # two tasks may ask the same items
        items = read[key] = read.get(key) or CoreItems(path, entry.kind)
        _require_shots(entry, items)
        baseline = _baseline(entry.label, baselines, folder / BASELINES)
        tasks.append(CoreTask(entry.label, entry.kind, entry.num_fewshot, entry.delimiter, baseline, items))
    if not tasks:
        raise Unfetched(f"{folder / ITEMS}: holds the items of none of the {len(entries)} tasks", REMEDY)
    return Bundle(tasks, missing, [entry.label for entry in entries], folder)


class _Entry(NamedTuple):
    """A task as `core.yaml` has it."""

    label: str
    kind: CoreKind
    num_fewshot: int
    delimiter: str
    dataset_uri: str


def _read_tasks(path: Path) -> list[_Entry]:
    """Return the tasks in `core.yaml`, one at least."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Unfetched(f"{path}: is missing, so CORE is not here", REMEDY) from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}: line {mark.line + 1}" if mark else str(path)
        raise Unfetched(f"{where}: damaged ({_first_line(error)})", REMEDY) from None
    listed = content.get("icl_tasks") if isinstance(content, dict) else None
    if not isinstance(listed, list) or not listed:
        raise Unfetched(f"{path}: has no list of tasks under 'icl_tasks'", REMEDY)
    entries = [_entry(Row(f"{path}: task {number}", task)) for number, task in enumerate(listed, 1)]
    labels = [entry.label for entry in entries]
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise Unfetched(f"{path}: task {printable(twice)} is there twice", REMEDY)
    return entries


def _entry(row: Row) -> _Entry:
    kind, shots = row.field("icl_task_type", str), row.field("num_fewshot", list)
    if kind not in get_args(CoreKind):
        raise row.failure(f"icl_task_type={printable(kind)} is none of {', '.join(get_args(CoreKind))}")
    if not shots or type(shots[0]) is not int or shots[0] < 0:
        raise row.failure(f"num_fewshot={shots} does not begin with a number of shots")
    delimiter = row.field("continuation_delimiter", str) if "continuation_delimiter" in row.content else " "
    return _Entry(row.field("label", str), kind, shots[0], delimiter, row.field("dataset_uri", str))


def _read_baselines(path: Path) -> dict[str, str]:
    """Return what `eval_meta_data.csv` says of each task's baseline."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            return {row["Eval Task"]: row["Random baseline"] for row in csv.DictReader(lines)}
    except FileNotFoundError:
        raise Unfetched(f"{path}: is missing; CORE cannot be centred without it", REMEDY) from None
    except KeyError as error:
        raise Unfetched(f"{path}: line 1 has no column {error}", REMEDY) from None
    except (OSError, ValueError, csv.Error) as error:
        raise Unfetched(f"{path}: damaged ({_first_line(error)})", REMEDY) from None


def _baseline(label: str, baselines: Mapping[str, str], path: Path) -> float:
    """Return what chance reaches, 0 to 1."""
    if label not in baselines:
        raise Unfetched(f"{path}: has no line for task {printable(label)}", REMEDY)
    try:
        percent = float(baselines[label])
    except (TypeError, ValueError):
        percent = -1.0
    if not 0 <= percent < 100:
        raise Unfetched(
            f"{path}: 'Random baseline' of {printable(label)} is {baselines[label]!r}, not 0 to 100 percent",
            REMEDY,
        )
    return 0.01 * percent


def _find(path: Path) -> Path | None:
    """Return the file of this name, or the gzipped one beside it."""
    places = (path, path.with_name(path.name + ".gz"))
    return next((place for place in places if place.is_file()), None)


def _require_shots(entry: _Entry, items: CoreItems) -> None:
    if len(items) <= entry.num_fewshot:
        raise Unfetched(
            f"{items.path}: {len(items)} items are too few for {entry.label}, which shows {entry.num_fewshot} "
            "others before each",
            REMEDY,
        )


def _multiple_choice(row: Row) -> CoreItem:
    choices = _options(row, "choices")
    return CoreItem((row.field("query", str),), choices, _gold(row, len(choices)))


def _schema(row: Row) -> CoreItem:
    options = _options(row, "context_options")
    return CoreItem(options, (row.field("continuation", str),), _gold(row, len(options)))


def _language_modeling(row: Row) -> CoreItem:
    continuation = row.field("continuation", str)
    if not continuation.strip():
        raise row.failure("'continuation' is blank, so that there is nothing to predict")
    return CoreItem((row.field("context", str),), (continuation,))


_READERS = {
    "multiple_choice": _multiple_choice,
    "schema": _schema,
    "language_modeling": _language_modeling,
}


def _options(row: Row, key: str) -> tuple[str, ...]:
    options = row.texts(key)
    if len(options) < 2:
        raise row.failure(f"{key!r} has {len(options)} options; a question needs two or more")
    return tuple(options)


def _gold(row: Row, options: int) -> int:
    gold: Any = row.field("gold", int)
    if type(gold) is not int or not 0 <= gold < options:
        raise row.failure(f"'gold' is {gold}, which is none of its {options} options")
    return gold


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
