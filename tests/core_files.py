"""Bundles of CORE small enough to read, in the form of the real one."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import yaml
from task_files import write_rows

WORDS = (
    "sun",
    "moon",
    "river",
    "stone",
    "cat",
    "dog",
    "bread",
    "glass",
    "winter",
    "ant",
    "bee",
    "cold",
    "a",
    "an",
)


def words(rng: random.Random, least: int, most: int) -> str:
    """Return some words."""
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(least, most)))


def make_items(kind: str, n: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return items of a kind; some choices begin alike, some twice the same, some contexts end in spaces."""
    rng = random.Random(seed)
    items: list[dict[str, Any]] = []
    for number in range(n):
        if kind == "multiple_choice":
            opening = words(rng, 0, 2)
            choices = [f"{opening} {words(rng, 1, 4)}".strip() for _ in range(rng.randint(2, 4))]
            if number % 5 == 0:
                choices[-1] = choices[0]
            if number % 7 == 1:
                choices[0] = choices[1][:-1]
            items.append(
                {"query": words(rng, 2, 12), "choices": choices, "gold": rng.randrange(len(choices))}
            )
        elif kind == "schema":
            opening = words(rng, 3, 9)
            options = [f"{opening} {words(rng, 1, 2)}" for _ in range(2)]
            items.append(
                {"context_options": options, "continuation": words(rng, 1, 5), "gold": rng.randrange(2)}
            )
        else:
            items.append(
                {
                    "context": words(rng, 1, 12) + " " * rng.randint(0, 2),
                    "continuation": words(rng, 1, 2),
                }
            )
    return items


def write_bundle(folder: Path, tasks: dict[str, dict[str, Any]], suffix: str = ".jsonl") -> Path:
    """Write a bundle; each task has `kind`, `items`, and perhaps `shots`, `delimiter`, `baseline`."""
    listed, baselines = [], ["Eval Task,Task Category,Random baseline"]
    for label, task in tasks.items():
        entry = {
            "label": label,
            "dataset_uri": f"group/{label}.jsonl",
            "num_fewshot": [task.get("shots", 0)],
            "icl_task_type": task["kind"],
        }
        if "delimiter" in task:
            entry["continuation_delimiter"] = task["delimiter"]
        listed.append(entry)
        baselines.append(f'{label},"a, b",{task.get("baseline", 0)}')
        if task["items"] is not None:
            write_rows(folder / "eval_data" / "group" / f"{label}{suffix}", task["items"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "core.yaml").write_text(yaml.safe_dump({"icl_tasks": listed}))
    (folder / "eval_meta_data.csv").write_text("\n".join(baselines) + "\n")
    return folder
