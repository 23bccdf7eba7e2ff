"""What a card lacks, each with the command that makes it, where one does."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from nanochat_pl.report.card import Remark
from nanochat_pl.report.demo import demo_facts, is_demo
from nanochat_pl.report.published import published_scores
from nanochat_pl.report.runs import STAGES, Run
from nanochat_pl.report.scores import CHAT_TASKS, chat_metric, core_record, core_scores, task_scores

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def missing(runs: Sequence[Run], base: Path) -> tuple[Remark, ...]:
    """Return everything the card could show and cannot."""
    found = [*_stages(runs)]
    for run in runs:
        found += [*_training(run), *(_core(run) if run.stage == "base" else _chat(run))]
    if any(core_record(run) for run in runs) and not published_scores(base):
        config = config_of(next(run for run in runs if core_record(run)))
        found.append(
            Remark(
                "GPT-2's published CORE scores: tasks/core/reference/*.csv is not here",
                f"python cli.py data fetch --for {config}",
            )
        )
    if any(map(is_demo, runs)) and demo_facts(runs, base) is None:
        found.append(Remark("the demo's scores of these runs: demo.json", "python cli.py demo"))
    return tuple(found)


def config_of(run: Run) -> str:
    """Return the file to give to `--config`: the stage's own, or the resolved one in the run's folder."""
    if (CONFIGS / f"{run.name}.yaml").is_file():
        return f"configs/{run.name}.yaml"
    base = '"$NANOCHAT_BASE_DIR"' if os.environ.get("NANOCHAT_BASE_DIR") else "~/.cache/nanochat_pl"
    return base + shlex.quote(f"/runs/{run.name}/config.yaml")


def _stages(runs: Sequence[Run]) -> Iterator[Remark]:
    """Name the stages that were not trained."""
    here = {run.stage for run in runs}
    for place, stage in enumerate(STAGES):
        if stage not in here:
            before = [run for run in runs if run.stage in STAGES[:place]]
            yield Remark(f"{stage.upper()}: not trained", _fit_of(stage, runs[-1].name, before))


def _fit_of(stage: str, name: str, before: Sequence[Run]) -> str:
    """Return the command that trains a stage: with the file of the same size, else with one to be written.

    Args:
        stage: the one missing.
        name: of a run of its chain, `<size>_<stage>`.
        before: runs of earlier stages; it starts from the last.
    """
    size = name.rpartition("_")[0]
    if (CONFIGS / f"{size}_{stage}.yaml").is_file():
        return f"python cli.py fit --config configs/{size}_{stage}.yaml"
    start = f" --model.init_args.init_from {shlex.quote(before[-1].name)}" if before else ""
    return f"python cli.py fit --config YOUR_{stage.upper()}_STAGE.yaml{start}"


def _training(run: Run) -> Iterator[Remark]:
    """Name what `fit` has not written, or not yet."""
    config = config_of(run)
    fit = f"python cli.py fit --config {config}"
    if not run.is_finished:
        steps = run.plan.number("steps")
        of = f" of {steps:,.0f}" if steps is not None else ""
        yield Remark(f"{run.name}: not finished, at step {run.steps_done:,}{of}", fit)
    if not run.metrics["train"].records:
        yield Remark(f"{run.name}: no line in {run.metrics['train'].source.file}", fit)
    if not run.metrics["val"].with_key("val/bpb"):
        yield Remark(f"{run.name}: bits per byte", f"python cli.py validate --config {config}")
    if not run.starts:
        yield Remark(
            f"{run.name}: machine and code are noted when a run starts, and this one has no such note"
        )
    if not run.metrics["samples"].records and not run.metrics["predictions"].records:
        yield Remark(f"{run.name}: samples", f"python cli.py predict --config {config}")


def _core(run: Run) -> Iterator[Remark]:
    test = f"python cli.py test --config {config_of(run)}"
    record = core_record(run)
    if record is None and not core_scores(run):
        yield Remark(f"{run.name}: CORE", test)
    elif record is None or record.number("core/metric") is None:
        lacking = record.facts.get("core/missing") if record else None
        names = ", ".join(map(str, lacking)) if isinstance(lacking, list) and lacking else "some tasks"
        yield Remark(f"{run.name}: CORE is partial, without {names}", test)


def _chat(run: Run) -> Iterator[Remark]:
    test = f"python cli.py test --config {config_of(run)}"
    scores = task_scores(run, "chat")
    if not scores:
        yield Remark(f"{run.name}: every chat task", test)
        return
    lacking = [name for name in CHAT_TASKS if name not in scores]
    if lacking:
        yield Remark(f"{run.name}: {', '.join(lacking)}", f"{test} --tasks {','.join(lacking)}")
    if chat_metric(run) is None:
        yield Remark(f"{run.name}: ChatCORE", test)
