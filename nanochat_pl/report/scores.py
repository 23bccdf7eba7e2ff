"""Scores of evaluations: which line counts, CORE by task beside GPT-2's, chat tasks by stage.

A run is evaluated more than once: while it trains, on some problems only, again. What counts are the lines of the
last step; of two scores of one task the one over more problems, of equal ones the later.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from nanochat_pl.report.card import EMPTY, Block, Cell, Remark, Row, Table
from nanochat_pl.report.numbers import NOTHING, count_text, number_text
from nanochat_pl.report.published import Published, published_scores
from nanochat_pl.report.read import Record, Source, as_number
from nanochat_pl.report.runs import STAGES, Run

CHAT_TASKS = ("ARC-Easy", "ARC-Challenge", "MMLU", "GSM8K", "HumanEval", "SpellingBee")  # those of ChatCORE
ABOUT_THE_WHOLE = ("metric", "metric_se", "partial", "partial_se")
PARTS = ("_se", "_n", "_centred")
OTHER_SHOTS = "core/reference_shots"  # a line that is there for comparison with nanochat's evaluator only


class Score(NamedTuple):
    """A score of one task.

    Attributes:
        value: share of right answers.
        error: its standard error.
        n: problems.
        centred: the score on a scale where chance is 0 and all right is 1.
        step: optimizer steps of the model that was asked.
    """

    value: float
    error: float | None
    n: float | None
    centred: float | None
    step: float | None
    source: Source


class Column(NamedTuple):
    """A column of a table by stage; a stage nobody trained has no run."""

    head: str
    run: Run | None


def columns_of(runs: Sequence[Run]) -> list[Column]:
    """Return one column a run, with its stage, and an empty one for a stage without run."""
    told = [run for run in runs if run.stage in STAGES]
    columns: list[Column] = []
    for stage in STAGES:
        here = [run for run in told if run.stage == stage]
        heads = [heading(run) if len(here) > 1 else stage.upper() for run in here]
        columns += map(Column, heads, here) if here else [Column(stage.upper(), None)]
    return columns + [Column(run.name, run) for run in runs if run not in told]


def heading(run: Run) -> str:
    """Return stage and name of a run."""
    return f"{run.stage.upper() or 'unknown stage'} · {run.name}"


def task_scores(run: Run, family: str) -> dict[str, Score]:
    """Return the score of every task of a family ("core" or "chat") at the last step it was evaluated at."""
    scores: dict[str, Score] = {}
    for record in _of_last_step(run, family):
        for key in record.facts:
            name = key.removeprefix(f"{family}/")
            value = record.number(key)
            if value is None or name == key or name in ABOUT_THE_WHOLE or _is_part(key, record):
                continue
            error, n, centred = (record.number(key + part) for part in PARTS)
            old = scores.get(name)
            if old is None or (n or 0) >= (old.n or 0):
                scores[name] = Score(value, error, n, centred, record.number("step"), record.source)
    return scores


def core_scores(run: Run) -> dict[str, Score]:
    """Return the score of every CORE task."""
    return task_scores(run, "core")


def _of_last_step(run: Run, family: str) -> list[Record]:
    records = [record for record in run.metrics[family].records if not record.facts.get(OTHER_SHOTS)]
    last = max((record.number("step") or 0 for record in records), default=0)
    return [record for record in records if (record.number("step") or 0) == last]


def _is_part(key: str, record: Record) -> bool:
    """Tell whether a key is a task's standard error, number of problems or centred score."""
    return any(key.endswith(part) and key.removesuffix(part) in record.facts for part in PARTS)


def core_record(run: Run) -> Record | None:
    """Return the line CORE is taken from: a whole one rather than a partial one."""
    return _most_asked(run, "core", "core/metric") or _most_asked(run, "core", "core/partial")


def chat_metric(run: Run) -> Record | None:
    """Return the line ChatCORE is taken from."""
    return _most_asked(run, "chat", "chat/metric")


def _most_asked(run: Run, family: str, key: str) -> Record | None:
    """Return the line of the last step with a number under `key`, over the most problems, of equal ones the latest."""
    records = [record for record in _of_last_step(run, family) if record.number(key) is not None]
    return max(enumerate(records), key=lambda at: (_problems(at[1]), at[0]))[1] if records else None


def _problems(record: Record) -> float:
    return sum(
        record.number(key) or 0 for key in record.facts if key.endswith("_n") and _is_part(key, record)
    )


def core_cell(run: Run | None) -> Cell:
    """Return CORE with its standard error, and a word where tasks are missing."""
    record = core_record(run) if run else None
    if record is None:
        return EMPTY
    if record.number("core/metric") is None:
        return _with_error(record, "core/partial", ["partial"])
    return _with_error(record, "core/metric", [])


def chat_core_cell(run: Run | None) -> Cell:
    """Return ChatCORE with its standard error."""
    record = chat_metric(run) if run else None
    return EMPTY if record is None else _with_error(record, "chat/metric", [])


def _with_error(record: Record, key: str, notes: list[str]) -> Cell:
    error = record.number(f"{key}_se")
    notes = [*notes, *([f"± {number_text(error)}"] if error is not None else [])]
    return Cell(number_text(record.number(key)), (record.source,), ", ".join(notes))


def score_cell(score: Score | None) -> Cell:
    """Return a task's score with its standard error and number of problems."""
    if score is None:
        return EMPTY
    notes = [f"± {number_text(score.error)}"] if score.error is not None else []
    notes += [f"n {count_text(score.n)}"] if score.n is not None else []
    return Cell(number_text(score.value), (score.source,), ", ".join(notes))


def chat_rows(columns: Sequence[Column]) -> list[Row]:
    """Return a row for each chat task: those of ChatCORE in nanochat's order, the rest by name, ChatCORE last."""
    by_column = [task_scores(column.run, "chat") if column.run else {} for column in columns]
    seen = {name for scores in by_column for name in scores}
    names = [name for name in CHAT_TASKS if name in seen] + sorted(seen - set(CHAT_TASKS))
    rows = [Row(name, tuple(score_cell(scores.get(name)) for scores in by_column)) for name in names]
    return [*rows, Row("ChatCORE", tuple(chat_core_cell(column.run) for column in columns), is_total=True)]


def chat_section(runs: Sequence[Run]) -> tuple[Block, ...]:
    """Return the chat tasks by stage."""
    columns = columns_of(runs)
    rows = chat_rows(columns)
    if len(rows) == 1 and all(cell == EMPTY for cell in rows[0].cells):
        return (Remark("No chat task has been evaluated."),)
    heads = ("Task", *(column.head for column in columns))
    table = Table("Share of right answers by task and stage", heads, tuple(rows))
    return (table, *map(Remark, _definitions(runs)))


def _definitions(runs: Sequence[Run]) -> list[str]:
    """Say what ChatCORE is the mean of, once for all runs that agree in it."""
    found: dict[str, list[str]] = {}
    for run in runs:
        record = chat_metric(run)
        tasks = record.facts.get("chat/metric_tasks") if record else None
        if record and isinstance(tasks, list):
            version = f"ChatCORE, version {record.facts.get('chat/metric_version')}"
            text = f"{version}, is the mean centred score of {', '.join(map(str, tasks))}."
            found.setdefault(text, []).append(run.name)
    return [text if len(found) == 1 else f"{', '.join(names)}: {text}" for text, names in found.items()]


def core_section(runs: Sequence[Run], base: Path) -> tuple[Block, ...]:
    """Return a table of CORE by task for every run that has been evaluated on it."""
    published = published_scores(base)
    tables = tuple(_core_table(run, published) for run in runs if core_scores(run))
    return tables or (Remark("CORE has not been evaluated."),)


def _core_table(run: Run, published: Sequence[Published]) -> Table:
    scores = core_scores(run)
    step = next(iter(scores.values())).step
    heads = ("Task", "n", "Accuracy", "±", "Centred", *(model.name for model in published))
    rows = [_core_row(name, score, published) for name, score in scores.items()]
    others = (_published_cell(model, "CORE") for model in published)
    whole = Row("CORE", (EMPTY, EMPTY, EMPTY, core_cell(run), *others), is_total=True)
    beside = ", beside the published centred scores of GPT-2" if published else ""
    caption = (
        f"CORE by task: {run.name} at step {count_text(step)}{beside}. Centred: 0 is chance, 1 all right"
    )
    return Table(
        caption,
        heads,
        (*rows, whole),
        f"●\N{NO-BREAK SPACE}{run.name}" + (" ○\N{NO-BREAK SPACE}GPT-2" if published else ""),
    )


def _core_row(name: str, score: Score, published: Sequence[Published]) -> Row:
    source = (score.source,)
    return Row(
        name,
        (
            Cell(count_text(score.n), source if score.n is not None else ()),
            Cell(number_text(score.value), source),
            Cell(number_text(score.error), source if score.error is not None else ()),
            Cell(number_text(score.centred), source if score.centred is not None else ()),
            *(_published_cell(model, name) for model in published),
        ),
        _dots(score.centred, [model.centred.get(name) for model in published]),
    )


def _dots(own: float | None, others: Sequence[float | None]) -> tuple[float, ...]:
    """Return what is drawn of centred scores: the model's own first; nothing without it, and finite ones only."""
    finite = [value for value in (own, *others) if value is not None and math.isfinite(value)]
    return tuple(finite) if own is not None and math.isfinite(own) else ()


def _published_cell(model: Published, name: str) -> Cell:
    value = as_number(model.centred.get(name))
    return Cell(NOTHING) if value is None else Cell(number_text(value), (model.source,))
