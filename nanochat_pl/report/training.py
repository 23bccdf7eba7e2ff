"""What training did: its curves, where they ended, how long it took and what that costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import median
from typing import NamedTuple

from nanochat_pl.report.card import EMPTY, Block, Cell, Curve, Curves, Remark, Series, Table, facts_table
from nanochat_pl.report.numbers import (
    NOTHING,
    count_text,
    dollars_text,
    moment_text,
    number_text,
    share_text,
    span_text,
)
from nanochat_pl.report.read import Lines, Record, Source, as_number
from nanochat_pl.report.runs import Run
from nanochat_pl.report.scores import heading

Text = Callable[[float | None], str]
KNOWN = {"train/loss", "train/tokens_per_s", "train/mfu", "train/eta_s"}
FURTHER_CURVES = 6  # of numbers this card does not know, such as a reward


def curves_of(run: Run) -> Curves:
    """Return a run's curves, those that have a point."""
    train, val = run.metrics["train"], run.metrics["val"]
    keys = sorted({key for record in train.records for key in record.facts})
    further = [key for key in keys if key.startswith("train/") and key not in KNOWN][:FURTHER_CURVES]
    rates = [key for key in keys if key.startswith("lr/")]
    curves = [
        Curve("loss, nats per token", _series(train, "train/loss"), train.source, is_noisy=True),
        Curve("bits per byte", _series(val, "val/bpb", "train/bpb"), val.source),
        Curve("tokens per second", _series(train, "train/tokens_per_s"), train.source, from_zero=True),
        Curve("MFU, share of peak", _series(train, "train/mfu"), train.source, from_zero=True),
        Curve("learning rate", _series(train, *rates), train.source, is_log=True),
        *(Curve(key.removeprefix("train/"), _series(train, key), train.source) for key in further),
    ]
    for family, title in (("core", "CORE"), ("chat", "ChatCORE")):
        lines = run.metrics[family]
        series = _series(lines, f"{family}/metric")
        if any(len(line.points) > 1 for line in series):
            curves.append(Curve(f"{title} while training", series, lines.source))
    return Curves(heading(run), tuple(curve for curve in curves if curve.series))


def _series(lines: Lines, *keys: str) -> tuple[Series, ...]:
    """Return a line for each key that has values; after a restart a step's later value counts."""
    series = []
    for key in keys:
        points = {record.number("step"): record.number(key) for record in lines.with_key(key)}
        kept = sorted(
            (step, value) for step, value in points.items() if step is not None and value is not None
        )
        if kept:
            series.append(Series(key.removeprefix("lr/"), tuple(kept)))
    return tuple(series)


def results_table(runs: Sequence[Run]) -> Table:
    """Return where the curves of each run ended."""
    rows = (
        ("steps taken", [_steps(run) for run in runs]),
        ("tokens trained on", [_of(run.provenance, "tokens") for run in runs]),
        ("loss, first logged", [_at(run.metrics["train"], "train/loss", 0) for run in runs]),
        ("loss, last logged", [_at(run.metrics["train"], "train/loss", -1) for run in runs]),
        ("bits per byte, first", [_at(run.metrics["val"], "val/bpb", 0) for run in runs]),
        ("bits per byte, last", [bits_per_byte_cell(run) for run in runs]),
        ("bits per byte, lowest", [_lowest(run.metrics["val"], "val/bpb") for run in runs]),
        ("bits per byte of training text", [_at(run.metrics["val"], "train/bpb", -1) for run in runs]),
        (
            "tokens/s, median",
            [_median(run.metrics["train"], "train/tokens_per_s", count_text) for run in runs],
        ),
        ("MFU, median", [_median(run.metrics["train"], "train/mfu", share_text) for run in runs]),
    )
    return facts_table("Where training ended", [heading(run) for run in runs], rows)


def bits_per_byte_cell(run: Run) -> Cell:
    """Return the last bits per byte on the validation split."""
    return _at(run.metrics["val"], "val/bpb", -1)


def _steps(run: Run) -> Cell:
    planned = run.plan.number("steps")
    note = f"of {count_text(planned)}" if planned is not None else ""
    file = run.provenance.source if run.is_finished else run.metrics["train"].source
    return Cell(count_text(run.steps_done), (file, run.plan.source) if note else (file,), note)


def _of(document: NamedTuple, key: str) -> Cell:
    value = document.number(key)
    return EMPTY if value is None else Cell(count_text(value), (document.source,))


def _at(lines: Lines, key: str, place: int) -> Cell:
    """Return the first (0) or the last (-1) value, with its step."""
    records = lines.with_key(key)
    return _cell(records[place], key) if records else EMPTY


def _lowest(lines: Lines, key: str) -> Cell:
    finite = [record for record in lines.with_key(key) if abs(record.number(key) or 0) < float("inf")]
    return _cell(min(finite, key=lambda record: record.number(key)), key) if finite else EMPTY


def _cell(record: Record, key: str) -> Cell:
    step = record.number("step")
    note = f"step {count_text(step)}" if step is not None else ""
    return Cell(number_text(record.number(key)), (record.source,), note)


def _median(lines: Lines, key: str, text: Text) -> Cell:
    values = [record.number(key) for record in lines.with_key(key)]
    finite = [value for value in values if value is not None and math.isfinite(value)]
    lost = len(values) - len(finite)
    note = f"without {count_text(lost)} not finite" if lost else ""
    if finite:
        return Cell(text(median(finite)), (lines.source,), note)
    return Cell("no finite value", (lines.source,)) if values else EMPTY


class Spent(NamedTuple):
    """The time of a run.

    Attributes:
        began: Unix seconds of its first start, or of its first line where starts are not noted.
        ended: when the artifact was written, or the last line.
        trained_s: seconds at work, the time between a stop and the next start left out.
        starts: how often it was started; None where that is not noted.
        devices: how many computed; None where unknown.
        dollars_per_hour: assumed price of one of them; None where it has none.
        sources: where all this stands.
    """

    began: float
    ended: float
    trained_s: float
    starts: int | None
    devices: float | None
    dollars_per_hour: float | None
    sources: tuple[Source, ...]

    @property
    def device_hours(self) -> float | None:
        """Hours of training times devices."""
        return None if self.devices is None else self.trained_s / 3600 * self.devices

    @property
    def dollars(self) -> float | None:
        """Assumed cost."""
        if self.dollars_per_hour is None or self.device_hours is None:
            return None
        return self.dollars_per_hour * self.device_hours


def spent(run: Run) -> Spent | None:
    """Return a run's time and price; None where no file tells."""
    lines = run.metrics["train"]
    made = run.provenance.number("time")
    logged = sorted(record.number("time") for record in lines.with_key("time"))
    moments = [
        moment for moment in logged if made is None or moment <= made
    ]  # what comes later is no training
    starts = sorted(time for start in run.starts if (time := as_number(start.get("time"))) is not None)
    ends = [*moments, *([made] if made is not None else [])]
    began = [*starts, *moments][:1]
    if not ends or not began:
        return None
    borders = [*(starts or began), float("inf")]
    trained_s = sum(
        max([end for end in ends if first <= end < following], default=first) - first
        for first, following in pairwise(borders)
    )
    last = run.starts[-1] if run.starts else {}
    noted = run.environment.source if starts else run.plan.source  # which tells how many devices
    return Spent(
        began=began[0],
        ended=max(ends),
        trained_s=trained_s,
        starts=len(starts) or None,
        devices=as_number(last.get("devices")) or run.plan.number("world_size"),
        dollars_per_hour=as_number(last.get("dollars_per_gpu_hour")),
        sources=(noted, lines.source, *((run.provenance.source,) if made is not None else ())),
    )


class Total(NamedTuple):
    """The time of several runs together.

    Attributes:
        wall_s: seconds from the first start to the last end.
        trained_s: seconds at work.
        dollars: assumed cost; None where no run has a price.
    """

    wall_s: float
    trained_s: float
    dollars: float | None
    sources: tuple[Source, ...]


def total(runs: Sequence[Run]) -> Total | None:
    """Add up the runs whose time is known."""
    known = [time for run in runs if (time := spent(run))]
    if not known:
        return None
    dollars = [time.dollars for time in known if time.dollars is not None]
    return Total(
        max(time.ended for time in known) - min(time.began for time in known),
        sum(time.trained_s for time in known),
        sum(dollars) if dollars else None,
        tuple(source for time in known for source in time.sources),
    )


def time_section(runs: Sequence[Run]) -> tuple[Block, ...]:
    """Return time and cost of every run and of all."""
    times = [spent(run) for run in runs]
    everything = total(runs)
    if everything is None:
        return (Remark("No file tells when the runs were trained."),)
    rows = [
        ("began", _cells(times, lambda time: moment_text(time.began)), NOTHING),
        ("ended", _cells(times, lambda time: moment_text(time.ended)), NOTHING),
        ("starts", _cells(times, lambda time: number_text(time.starts)), NOTHING),
        ("training", _cells(times, lambda time: span_text(time.trained_s)), span_text(everything.trained_s)),
        ("wall clock", _cells(times, _wall), span_text(everything.wall_s)),
        ("devices", _cells(times, lambda time: count_text(time.devices)), NOTHING),
        ("device hours", _cells(times, lambda time: number_text(time.device_hours)), NOTHING),
        ("assumed $ per GPU hour", _cells(times, lambda time: dollars_text(time.dollars_per_hour)), NOTHING),
        (
            "assumed cost",
            _cells(times, lambda time: dollars_text(time.dollars)),
            dollars_text(everything.dollars),
        ),
    ]
    of_all = everything.sources
    columns = [*map(heading, runs), "all"]
    filled = [
        (label, [*cells, Cell(text, of_all) if text != NOTHING else EMPTY]) for label, cells, text in rows
    ]
    remarks = [
        "Training is the time between each start and its last line; wall clock runs from the first start to the end, "
        "and that of all from the first start of the first run to the end of the last. Evaluations are not counted.",
    ]
    before_rl = total([run for run in runs if run.stage != "rl"])
    if before_rl and any(run.stage == "rl" for run in runs):
        remarks.append(f"Wall clock without RL, as nanochat counts: {span_text(before_rl.wall_s)}.")
    if any(time and time.starts is None for time in times):
        remarks.append("Where starts are not noted, the time before the first line is unknown and left out.")
    remarks.append(
        "Prices are assumptions by the name of the GPU, not bills."
        if any(time and time.dollars_per_hour for time in times)
        else "No price: no run noted a GPU."
    )
    return (facts_table("Time and cost by run", columns, filled), *map(Remark, remarks))


def _wall(time: Spent) -> str:
    return span_text(time.ended - time.began)


def _cells(times: Sequence[Spent | None], text: Callable[[Spent], str]) -> list[Cell]:
    """Return a cell for each run, with its files where it has a value."""
    shown = [text(time) if time else NOTHING for time in times]
    return [
        Cell(words, time.sources) if time and words != NOTHING else EMPTY
        for words, time in zip(shown, times, strict=True)
    ]
