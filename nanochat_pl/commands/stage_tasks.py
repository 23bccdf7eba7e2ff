"""The tasks a chat stage's file names, looked at without building the stage."""

from __future__ import annotations

from typing import Any

from nanochat_pl.system.errors import BadInput, Failure
from nanochat_pl.tasks.base import Task


def check_tasks(settings: dict[str, Any], config: str) -> None:
    """Open every task of a stage and print how many items it has.

    Args:
        settings: `data.init_args` of the stage's file.
        config: the file, for messages.

    Raises:
        Failure: a task's data is missing or damaged; all of them are named first.
    """
    missing = 0
    for task in tasks_of(settings, config):
        try:
            print(f"{task.name}: {len(task):,} items")
        except Failure as failure:
            missing += 1
            print(str(failure).splitlines()[0])
    if missing:
        raise Failure(
            f"{config}: {missing} of its tasks cannot be read\n"
            f"Put their files there: python cli.py data fetch --for {config}"
        )


def tasks_of(settings: dict[str, Any], config: str) -> list[Task]:
    """Return the different tasks that are trained on or validated with, in the order of the file."""
    entries = [*settings.get("train", ()), *settings.get("val", ())]
    different = [entry for place, entry in enumerate(entries) if entry not in entries[:place]]
    return [_task(entry, config) for entry in different]


def _task(entry: Any, config: str) -> Task:
    """Build one task of this package.

    Raises:
        BadInput: the entry names no task, or not what it takes.
    """
    from nanochat_pl import tasks

    path = entry.get("class_path", "") if isinstance(entry, dict) else ""
    task = getattr(tasks, path.rpartition(".")[2], None)
    if not (isinstance(task, type) and issubclass(task, Task)):
        raise BadInput(f"--for {config}: {path or entry!r} is no task of nanochat_pl.tasks")
    try:
        return task(**entry.get("init_args", {}))
    except TypeError as error:
        raise BadInput(f"--for {config}: {path}: {error}") from None
