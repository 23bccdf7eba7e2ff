"""GPT-2's published CORE scores, where the evaluation bundle holds them.

A file a model, `reference/openai-community-gpt2-xl.csv` beside `core.yaml`, with the columns Task, Accuracy and
Centered; its last row is CORE.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

from nanochat_pl.report.read import Source

PLACES = ("tasks/core/reference", "tasks/reference", "tasks/*/reference", "tasks/*/*/reference")


class Published(NamedTuple):
    """The centred score of every task, and of CORE, of a model somebody else trained."""

    name: str
    centred: dict[str, float]
    source: Source


def published_scores(base: Path) -> list[Published]:
    """Return the models of the bundle, the weakest first; none where there is no bundle."""
    folders = (folder for place in PLACES for folder in sorted(base.glob(place)))
    with_scores = (sorted(folder.glob("*.csv")) for folder in folders)
    models = [_read(path, base) for path in next(filter(None, with_scores), [])]
    return sorted(
        (model for model in models if model.centred), key=lambda model: model.centred.get("CORE", 0)
    )


def _read(path: Path, base: Path) -> Published:
    """Read one model's file; rows that are not as they should be are left out."""
    centred: dict[str, float] = {}
    try:
        rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
    except (OSError, ValueError, csv.Error):
        rows = []
    for task, *_, value in (row for row in rows[1:] if len(row) >= 3):
        try:
            centred[task.strip()] = float(value)
        except ValueError:
            continue
    name = path.stem.removeprefix("openai-community-").replace("gpt2", "GPT-2").replace("-2-", "-2 ")
    return Published(name, centred, Source(path.relative_to(base).as_posix()))
