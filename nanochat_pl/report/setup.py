"""What was planned, and what it ran on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from nanochat_pl.report.card import EMPTY, Block, Cell, Remark, Table, facts_table
from nanochat_pl.report.numbers import bytes_text, count_text, dollars_text, number_text, span_text
from nanochat_pl.report.read import as_number, dig
from nanochat_pl.report.runs import Run
from nanochat_pl.report.scores import heading

CHARACTERS_PER_TOKEN = 4  # nanochat's estimate for source code

PLANNED: tuple[tuple[str, tuple[str, ...], Callable[[float | None], str]], ...] = (
    ("parameters", ("parameters",), count_text),
    ("steps", ("steps",), count_text),
    ("tokens", ("tokens",), count_text),
    ("tokens per batch", ("batch_tokens",), count_text),
    ("sequence length", ("sequence_len",), count_text),
    ("rows per device", ("device_batch_rows",), count_text),
    ("accumulation", ("accumulation",), count_text),
    ("devices", ("world_size",), count_text),
    ("FLOPs per token", ("flops_per_token",), lambda value: _power(value)),
    ("FLOPs in all", ("total_flops",), lambda value: _power(value)),
    ("memory per device", ("memory_bytes", "total"), bytes_text),
    ("time", ("time_s",), span_text),
    ("node hours", ("node_hours",), number_text),
    ("shards of the corpus", ("shards",), count_text),
)


def _power(value: float | None) -> str:
    return number_text(None) if value is None else f"{value:.3e}"


def plan_section(runs: Sequence[Run]) -> tuple[Block, ...]:
    """Return the plan of every run."""
    if not any(run.plan.facts for run in runs):
        return (Remark("No plan.json is here; fit writes it when it starts."),)
    rows = [(label, [_planned(run, keys, text) for run in runs]) for label, keys, text in PLANNED]
    rates = dict.fromkeys(
        name
        for run in runs
        if isinstance(found := run.plan.facts.get("learning_rates"), dict)
        for name in map(str, found)
    )
    rows += [
        (f"rate: {name}", [_planned(run, ("learning_rates", name), number_text) for run in runs])
        for name in rates
    ]
    return (
        facts_table("What was derived before training began", [heading(run) for run in runs], rows),
        Remark("plan.json holds the formula or the origin of each under the key sources."),
    )


def _planned(run: Run, keys: tuple[str, ...], text: Callable[[float | None], str]) -> Cell:
    value = as_number(dig(run.plan.facts, *keys))
    return EMPTY if value is None else Cell(text(value), (run.plan.source,))


def environment_section(runs: Sequence[Run]) -> tuple[Block, ...]:
    """Return code, machine and versions of every run; one column where they are the same."""
    columns = [_environment(run) for run in runs]
    if not any(cell.text for column in columns for cell in column.values()):
        return (Remark("No environment.json is here; fit writes it when it starts."),)
    heads = [heading(run) for run in runs]
    if len(columns) > 1 and len({tuple(cell.text for cell in column.values()) for column in columns}) == 1:
        merged = list(zip(*(column.values() for column in columns), strict=True))
        shared = [Cell(cells[0].text, sum((cell.sources for cell in cells), ())) for cells in merged]
        columns, heads = [dict(zip(columns[0], shared, strict=True))], ["every stage"]
    rows = [(label, [column[label] for column in columns]) for label in columns[0]]
    return (_table(heads, rows),)


def _table(heads: Sequence[str], rows: list[tuple[str, list[Cell]]]) -> Table:
    return facts_table("Code, machine and versions, noted at the last start", heads, rows)


def _environment(run: Run) -> dict[str, Cell]:
    """Return the facts of a run's last start; of an older run, the versions its artifact names."""
    start: dict[str, Any] = run.starts[-1] if run.starts else {}
    document = run.environment if run.starts else run.provenance
    start = start or run.provenance.facts
    texts = {
        "commit": _commit(start),
        "message": _words(dig(start, "git", "message")),
        "code": _code(start),
        "platform": _words(start.get("platform")),
        "CPU": _cpu(start),
        "memory": bytes_text(as_number(start.get("memory_bytes"))),
        "GPUs": _gpus(start),
        "GPU memory of a node": bytes_text(as_number(start.get("gpu_memory_bytes"))),
        "CUDA": _words(start.get("cuda")),
        "computed on": _device(start),
        "assumed price": _price(start),
        **{
            label: _words(dig(start, "versions", name))
            for label, name in (
                ("Python", "python"),
                ("PyTorch", "torch"),
                ("Lightning", "lightning"),
                ("nanochat_pl", "nanochat_pl"),
            )
        },
    }
    return {label: Cell(text, (document.source,)) if text else EMPTY for label, text in texts.items()}


def _words(value: Any) -> str:
    return str(value) if isinstance(value, str | int | float) else ""


def _commit(start: dict[str, Any]) -> str:
    commit, branch = _words(dig(start, "git", "commit")), _words(dig(start, "git", "branch"))
    state = {True: "with changes", False: "clean"}.get(dig(start, "git", "dirty"), "")
    return ", ".join(filter(None, (commit, branch and f"branch {branch}", state)))


def _code(start: dict[str, Any]) -> str:
    files, lines, characters = (
        as_number(dig(start, "code", key)) for key in ("files", "lines", "characters")
    )
    if files is None or lines is None or characters is None:
        return ""
    tokens = count_text(characters / CHARACTERS_PER_TOKEN)
    return (
        f"{count_text(files)} files, {count_text(lines)} lines, {count_text(characters)} characters, "
        f"about {tokens} tokens"
    )


def _cpu(start: dict[str, Any]) -> str:
    cpus = as_number(start.get("cpus"))
    return ", ".join(filter(None, (_words(start.get("cpu")), cpus and f"{count_text(cpus)} logical cores")))


def _gpus(start: dict[str, Any]) -> str:
    if not isinstance(start.get("gpus"), list):
        return ""
    found = Counter(map(str, start["gpus"]))
    return ", ".join(f"{number} x {name}" for name, number in found.items()) or "none"


def _device(start: dict[str, Any]) -> str:
    devices = as_number(start.get("devices"))
    return f"{count_text(devices)} x {_words(start.get('device'))}" if devices is not None else ""


def _price(start: dict[str, Any]) -> str:
    price = as_number(start.get("dollars_per_gpu_hour"))
    return f"{dollars_text(price)} per GPU hour" if price is not None else ""
