"""The runs of a base directory: what each holds, which stage it is, which of them belong together.

A stage is what the run's `config.yaml` names: pretraining data makes a base stage, `Reinforce` an RL stage,
conversations mid or SFT. Of these two, which differ in data alone, the run's name tells (`d20_mid`), and where it
does not, mid is the one another chat stage starts from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

from nanochat_pl.report.read import Document, Lines, as_number, dig, read_document, read_lines
from nanochat_pl.system.errors import BadInput, Failure

STAGES = ("base", "mid", "sft", "rl")
METRICS = ("train", "val", "core", "chat", "samples", "predictions")
MOVED_ASIDE = re.compile(r"\.old-\d+$")  # by `--fresh`
MOST_RUNS = 12  # keeps a card readable, and small


@dataclass(frozen=True)
class Run:
    """Everything a run left on disk that a report needs.

    Attributes:
        name: of its folder.
        stage: one of `STAGES`; empty where `config.yaml` does not tell.
        parent: name of the run it starts from; None where it starts from nothing.
    """

    folder: Path
    base: Path
    name: str
    stage: str
    parent: str | None
    config: Document
    plan: Document
    environment: Document
    provenance: Document

    @cached_property
    def metrics(self) -> dict[str, Lines]:
        """Its lines by the file's stem; an absent file is empty."""
        return {name: read_lines(self.folder / "metrics" / f"{name}.jsonl", self.base) for name in METRICS}

    @property
    def is_finished(self) -> bool:
        """Whether it has an artifact."""
        return bool(self.provenance.facts)

    @property
    def steps_done(self) -> int:
        """Optimizer steps taken, as far as the files tell."""
        steps = [record.number("step") or 0 for record in self.metrics["train"].records[-1:]]
        return int(max([*steps, self.provenance.number("step") or 0]))

    @property
    def last_active(self) -> float:
        """When it was last trained, Unix seconds."""
        starts = (as_number(start.get("time")) for start in self.starts)
        times = [moment for moment in (self.provenance.number("time"), *starts) if moment is not None]
        return max(times) if times else _modified(self.folder / "metrics" / "train.jsonl")

    @property
    def starts(self) -> list[dict[str, Any]]:
        """What `environment.json` says of each start."""
        starts = self.environment.facts.get("starts")
        return [start for start in starts if isinstance(start, dict)] if isinstance(starts, list) else []


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def read_runs(base: Path) -> dict[str, Run]:
    """Find every run below a base directory, and the stage of each."""
    folders = (base / "runs").glob("*/config.yaml")
    named = sorted(path.parent for path in folders if not path.parent.name.startswith("."))
    runs = {folder.name: _read(folder, base) for folder in named}
    fathers = {run.parent for run in runs.values() if run.stage == "chat"}
    return {name: replace(run, stage=_which_stage(run, fathers)) for name, run in runs.items()}


def _read(folder: Path, base: Path) -> Run:
    config = read_document(folder / "config.yaml", base)
    model = str(dig(config.facts, "model", "class_path") or "").rpartition(".")[2]
    data = str(dig(config.facts, "data", "class_path") or "").rpartition(".")[2]
    kinds = {"PretrainData": "base", "ChatData": "chat"}
    return Run(
        folder=folder,
        base=base,
        name=folder.name,
        stage="rl" if model == "Reinforce" else kinds.get(data, ""),
        parent=_parent(dig(config.facts, "model", "init_args", "init_from")),
        config=config,
        plan=read_document(folder / "plan.json", base),
        environment=read_document(folder / "environment.json", base),
        provenance=read_document(folder / "artifact" / "provenance.json", base),
    )


def _parent(init_from: object) -> str | None:
    """Return the run an `init_from` means: a name, or a folder with an artifact in a run."""
    if not isinstance(init_from, str) or not init_from:
        return None
    parts = Path(init_from).parts
    return Path(init_from).parent.name if parts[-1] == "artifact" and len(parts) > 1 else parts[-1]


def _which_stage(run: Run, fathers: set[str | None]) -> str:
    """Tell mid from SFT."""
    if run.stage != "chat":
        return run.stage
    told = [stage for stage in ("mid", "sft") if stage in re.split("[_.-]", run.name.lower())]
    return told[0] if len(told) == 1 else "mid" if run.name in fathers else "sft"


def choose(runs: Mapping[str, Run], asked: str | None, folder: Path) -> list[Run]:
    """Return the runs of a card in the order of their stages.

    Args:
        runs: all there are.
        asked: names with commas between; None means the run trained last and those it goes back to.
        folder: where runs lie, for messages.

    Raises:
        BadInput: there is no run of a name asked for, or too many were.
        Failure: there is no run at all.
    """
    if not runs:
        raise Failure(
            f"{folder}: no run is here, so there is nothing to report\nMake a small one: python cli.py demo"
        )
    if asked is None:
        return newest_chain(runs)
    names = list(dict.fromkeys(filter(None, (name.strip() for name in asked.split(",")))))
    if not 0 < len(names) <= MOST_RUNS:
        raise BadInput(f"--runs {asked!r}: name 1 to {MOST_RUNS} runs, with commas between")
    for name in names:
        if name not in runs:
            raise BadInput(_no_run(name, runs))
    return sorted((runs[name] for name in names), key=_stage_number)


def _no_run(name: str, runs: Mapping[str, Run]) -> str:
    near = get_close_matches(name, runs, n=1, cutoff=0.5)
    newest = sorted(runs, key=lambda other: runs[other].last_active, reverse=True)[:8]
    hint = f"Did you mean: --runs {near[0]}" if near else f"Choose among: {', '.join(newest)}"
    return f"--runs: no run called {name!r}\n{hint}"


def newest_chain(runs: Mapping[str, Run]) -> list[Run]:
    """Return the run trained last and, before it, those its model comes from."""
    kept = {name: run for name, run in runs.items() if not MOVED_ASIDE.search(name)} or runs
    name: str | None = max(kept, key=lambda name: runs[name].last_active)
    chain: list[Run] = []
    while name in runs and name not in {run.name for run in chain} and len(chain) < MOST_RUNS:
        chain.insert(0, runs[name])
        name = runs[name].parent
    return chain


def _stage_number(run: Run) -> int:
    return STAGES.index(run.stage) if run.stage in STAGES else len(STAGES)


def others(runs: Mapping[str, Run], chosen: Iterable[Run]) -> list[Run]:
    """Return the runs that are not on the card, newest first."""
    names = {run.name for run in chosen}
    left = (run for name, run in runs.items() if name not in names)
    return sorted(left, key=lambda run: run.last_active, reverse=True)
