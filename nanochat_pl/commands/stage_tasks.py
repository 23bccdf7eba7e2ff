"""The tasks a chat stage's file names, looked at without building the stage."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nanochat_pl.system.errors import BadInput
from nanochat_pl.tasks.base import Task


def tasks_of(settings: dict[str, Any], config: str) -> list[Task]:
    """Return the different tasks that stand anywhere in a stage's settings, in the order of the file.

    Args:
        settings: `data.init_args` of the stage's file.
        config: the file, for messages.

    Raises:
        BadInput: an entry names no task, or not what it takes.
    """
    entries = [*_entries(settings)]
    different = [entry for place, entry in enumerate(entries) if entry not in entries[:place]]
    return [_task(entry, config) for entry in different]


def _entries(node: Any) -> Iterator[dict[str, Any]]:
    """Yield the parts of a stage's settings that name a class."""
    if isinstance(node, dict) and "class_path" in node:
        yield node
    elif isinstance(node, dict):
        for value in node.values():
            yield from _entries(value)
    elif isinstance(node, list):
        for value in node:
            yield from _entries(value)


def _task(entry: dict[str, Any], config: str) -> Task:
    """Build one task of this package."""
    from nanochat_pl import tasks

    path = str(entry["class_path"])
    task = getattr(tasks, path.rpartition(".")[2], None)
    if not (isinstance(task, type) and issubclass(task, Task)):
        raise BadInput(f"--for {config}: {path} is no task of nanochat_pl.tasks")
    try:
        return task(**(entry.get("init_args") or {}))
    except TypeError as error:
        raise BadInput(f"--for {config}: {path}: {error}") from None
