"""The plan of a run: every number that follows from depth, data and world size, each with its source.

    shape ─► parameters, FLOPs per token ─► horizon ─► steps, tokens, FLOPs, shards, time
    rows, sequence, ranks ─► accumulation, memory

Pure arithmetic: neither torch nor a GPU nor any data is needed. How a network's costs are counted is in
`model/accounting.py`, what a GPU can do in `system/hardware.py`.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from nanochat_pl.model import accounting
from nanochat_pl.model.config import GPTConfig
from nanochat_pl.optim.schedule import learning_rates
from nanochat_pl.system.errors import BadInput
from nanochat_pl.system.hardware import GPUS, Gpu

DEVICES_PER_NODE = 8
# Of the dense bf16 peak. Published: 50.9 % for the d32 on 8 x H100, 66 % for the d20 on 8 x A100.
ASSUMED_UTILIZATION = 0.5
CHARS_PER_TOKEN = 4.8  # FineWeb-Edu, 65,536 ids
CHARS_PER_SHARD = 250e6
CROPPED_SHARE = 0.35  # of all tokens, by best-fit rows of 2,048 (the reference's measurement)
SHOWN_GPUS = ("A100 80GB", "H100 SXM", "H200", "RTX 4090", "RTX 5090")

Sources = dict[str, "str | dict[str, str]"]


@dataclass(frozen=True)
class Plan:
    """Every derived number of a run.

    Args:
        parameters: weights of the network.
        flops_per_token: of forward and backward.
        steps: optimizer steps.
        batch_tokens: tokens of one step over all ranks.
        tokens: of the whole run.
        total_flops: of the whole run.
        device_batch_rows: rows of one micro-batch on one device.
        accumulation: micro-batches of one step on each rank.
        world_size: ranks, one device each.
        sequence_len: tokens of a row.
        learning_rates: initial rate of each parameter group.
        memory_bytes: of one device, by component, and their total.
        time_s: of all steps; None where the device's peak is unknown.
        node_hours: the same in hours of nodes; None where unknown.
        shards: of the corpus, for reading no document twice.
        sources: formula or origin of each of the above.
    """

    parameters: int
    flops_per_token: float
    steps: int
    batch_tokens: int
    tokens: int
    total_flops: float
    device_batch_rows: int
    accumulation: int
    world_size: int
    sequence_len: int
    learning_rates: dict[str, float]
    memory_bytes: dict[str, int]
    time_s: float | None
    node_hours: float | None
    shards: int
    sources: Sources

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain data, keys in the order above."""
        return asdict(self)

    def table(self) -> str:
        """Return the plan for people: one line a number, its source behind it."""
        lines = []
        for key, value in self.to_dict().items():
            if key == "sources":
                continue
            source = self.sources[key]
            if isinstance(value, dict):
                lines += [(f"{key}.{part}", _shown(key, value[part]), source[part]) for part in value]
            else:
                lines.append((key, _shown(key, value), source))
        return "\n".join([*_aligned(lines, right=1), "", *self._devices_table()])

    def _devices_table(self) -> list[str]:
        """Return what the run would take on GPUs people have."""
        lines = [(f"on {self.world_size} x", "memory", "hours", "node-hours")]
        for gpu in (gpu for gpu in GPUS if gpu.name in SHOWN_GPUS):
            span = _duration(self.total_flops, self.world_size, gpu.peak_flops_per_s)
            fits = "fits" if self.memory_bytes["total"] <= gpu.memory_bytes else "too small"
            lines.append((gpu.name, fits, f"{span.time_s / 3600:,.1f}", f"{span.node_hours:,.1f}"))
        return _aligned(lines)


def make_plan(
    config: GPTConfig,
    *,
    sequence_len: int,
    device_batch_rows: int,
    batch_tokens: int,
    world_size: int,
    embedding_lr: float,
    unembedding_lr: float,
    matrix_lr: float,
    max_steps: int | None = None,
    target_flops: float | None = None,
    data_rows: int | None = None,
    tokens_per_parameter: float = 20.0,
    reads_corpus: bool = True,
    precision: str = "bf16-mixed",
    strategy: str = "auto",
    gpu: Gpu | None = None,
) -> Plan:
    """Derive every number of a run.

    Args:
        config: shape of the network.
        sequence_len: tokens of a row.
        device_batch_rows: rows of one micro-batch on one device.
        batch_tokens: tokens of one optimizer step over all ranks.
        world_size: ranks, one device each.
        embedding_lr: AdamW's rate of the token embedding at width 768.
        unembedding_lr: AdamW's rate of the output matrix at width 768.
        matrix_lr: Muon's rate.
        max_steps: the horizon, before all others.
        target_flops: the horizon where `max_steps` is None.
        data_rows: rows of the epochs asked for, the horizon where both are None.
        tokens_per_parameter: the horizon where all are None.
        reads_corpus: whether the tokens come from shards of text; tasks have none.
        precision: Lightning's word for it; activations have 2 bytes unless it is "32-true".
        strategy: as in the YAML; what a device holds follows from it.
        gpu: the device it will run on, None where unknown; then there is no time.

    Raises:
        BadInput: a number is out of range, or the batch does not divide into micro-batches.
    """
    accumulation = _accumulation(device_batch_rows, sequence_len, world_size, batch_tokens)
    parameters = accounting.parameters(config)
    flops_per_token = accounting.flops_per_token(config, sequence_len)
    steps, steps_source = horizon(
        parameters=parameters,
        flops_per_token=flops_per_token,
        batch_tokens=batch_tokens,
        max_steps=max_steps,
        target_flops=target_flops,
        data_rows=data_rows,
        sequence_len=sequence_len,
        tokens_per_parameter=tokens_per_parameter,
    )
    tokens = steps * batch_tokens
    held = _held(config, world_size, strategy_in_force(strategy, world_size), accumulation)
    memory = _memory(config, device_batch_rows, sequence_len, precision, held)
    duration = _duration(flops_per_token * tokens, world_size, gpu and gpu.peak_flops_per_s)
    rates = {"embedding_lr": embedding_lr, "unembedding_lr": unembedding_lr, "matrix_lr": matrix_lr}
    return Plan(
        parameters=parameters,
        flops_per_token=flops_per_token,
        steps=steps,
        batch_tokens=batch_tokens,
        tokens=tokens,
        total_flops=flops_per_token * tokens,
        device_batch_rows=device_batch_rows,
        accumulation=accumulation,
        world_size=world_size,
        sequence_len=sequence_len,
        learning_rates=learning_rates(config.n_embd, **rates),
        memory_bytes={part: amount.bytes for part, amount in memory.items()},
        time_s=duration.time_s,
        node_hours=duration.node_hours,
        shards=_shards(tokens) if reads_corpus else 0,
        sources=_sources(config)
        | {
            "steps": steps_source,
            "learning_rates": _rate_sources(config.n_embd, **rates),
            "memory_bytes": {part: amount.source for part, amount in memory.items()},
            "time_s": _time_source(gpu),
        }
        | ({} if reads_corpus else {"shards": "reads tasks, no corpus"}),
    )


def _shards(tokens: int) -> int:
    """Return how many shards of FineWeb-Edu hold the documents of so many tokens in rows, and the validation shard."""
    return math.ceil(tokens * CHARS_PER_TOKEN / (1 - CROPPED_SHARE) / CHARS_PER_SHARD) + 1


class Horizon(NamedTuple):
    """How long a run is, and what said so."""

    steps: int
    source: str


def horizon(
    *,
    parameters: int,
    flops_per_token: float,
    batch_tokens: int,
    max_steps: int | None,
    target_flops: float | None,
    data_rows: int | None,
    sequence_len: int,
    tokens_per_parameter: float,
) -> Horizon:
    """Return the steps of a run: `max_steps`, else by `target_flops`, `data_rows` or `tokens_per_parameter`.

    Raises:
        BadInput: there would be no step at all.
    """
    if max_steps is not None:
        steps, asked, source = max_steps, f"trainer.max_steps={max_steps}", "trainer.max_steps"
    elif target_flops is not None:
        steps = round(target_flops / (flops_per_token * batch_tokens))
        asked = f"model.target_flops={target_flops:g}"
        source = f"{target_flops:g} target_flops / (flops_per_token x batch_tokens), rounded"
    elif data_rows is not None:
        steps = math.ceil(data_rows * sequence_len / batch_tokens)
        asked = f"data.epochs, {data_rows} rows,"
        source = f"data.epochs: about {data_rows:,} rows x sequence_len / batch_tokens, rounded up"
    else:
        steps = int(tokens_per_parameter * parameters // batch_tokens)
        asked = f"model.tokens_per_parameter={tokens_per_parameter:g}"
        source = f"{tokens_per_parameter:g} tokens_per_parameter x parameters // batch_tokens"
    if steps < 1:
        raise BadInput(f"{asked} gives {steps} steps of {batch_tokens} tokens; at least 1 is needed")
    return Horizon(steps, source)


def _accumulation(rows: int, sequence_len: int, world_size: int, batch_tokens: int) -> int:
    """Return the micro-batches of a step.

    Raises:
        BadInput: the batch is not a whole number of micro-batches, or a number is not positive.
    """
    for key, value in (
        ("data.device_batch_rows", rows),
        ("data.sequence_len", sequence_len),
        ("data.batch_tokens", batch_tokens),
        ("devices", world_size),
    ):
        if value < 1:
            raise BadInput(f"{key}={value} is less than 1")
    unit = rows * sequence_len * world_size
    if batch_tokens % unit == 0:
        return batch_tokens // unit
    ranks = f"{world_size} rank" + "s" * (world_size > 1)
    shape = f"{unit} tokens ({rows} rows x {sequence_len} tokens x {ranks})"
    if batch_tokens > unit:
        nearest = round(batch_tokens / unit) * unit
        raise BadInput(f"data.batch_tokens={batch_tokens} is not a multiple of {shape}; try {nearest}")
    remedy = f"try {unit}"
    if batch_tokens % (sequence_len * world_size) == 0:
        remedy += f", or data.device_batch_rows={batch_tokens // (sequence_len * world_size)}"
    raise BadInput(f"data.batch_tokens={batch_tokens} is less than one micro-batch of {shape}; {remedy}")


class Amount(NamedTuple):
    """Bytes, and what they are."""

    bytes: int
    source: str


def strategy_in_force(asked: str, world_size: int) -> str:
    """Return what a strategy's name in a YAML comes to: `auto` is `zero` on several devices."""
    return "zero" if asked == "auto" and world_size > 1 else asked


def _held(config: GPTConfig, world_size: int, strategy: str, accumulation: int) -> dict[str, Amount]:
    """Return what a device holds of weights, gradients and moments under a strategy."""
    weights, gradients = accounting.weight_bytes(config), accounting.gradient_bytes(config)
    moments = accounting.optimizer_bytes(config)
    what = "1 momentum of matrices, 2 moments of embeddings"
    held = {
        "weights": Amount(weights, "fp32"),
        "gradients": Amount(gradients, "fp32"),
        "optimizer": Amount(moments, f"fp32: {what}"),
    }
    if world_size == 1:
        return held
    if strategy not in ("zero", "fsdp2"):
        return held | {"gradients": Amount(2 * gradients, "fp32, twice: DDP's buckets")}
    held["optimizer"] = Amount(-(-moments // world_size), f"fp32, a share of {what}")
    if strategy == "fsdp2":
        part = accounting.parameters_by_part(config)
        gathered = 4 * (part["embedding"] + part["unembedding"]) + 2 * 4 * part["matrices"] // config.n_layer
        shares = -(-weights // world_size) + gathered
        held["weights"] = Amount(shares, "fp32, a share, and the embeddings and two blocks gathered")
        if accumulation == 1:
            held["gradients"] = Amount(shares, "fp32, a share, and those of the embeddings and two blocks")
        else:
            held["gradients"] = Amount(gradients, "fp32, whole until the step's last micro-batch")
    return held


def _memory(
    config: GPTConfig, rows: int, sequence_len: int, precision: str, held: dict[str, Amount]
) -> dict[str, Amount]:
    """Return the memory of one device by component, and in all."""
    bytes_per_value = 4 if precision.startswith("32") else 2
    memory = held | {
        "activations": Amount(
            accounting.activation_bytes(config, rows, sequence_len, bytes_per_value),
            f"{rows} rows x {sequence_len} tokens, "
            + ("fp32" if bytes_per_value == 4 else "bf16, with copies of matrices"),
        ),
        "logits": Amount(
            accounting.logits_bytes(config, rows, sequence_len, bytes_per_value),
            "fp32, one chunk of the loss, and the gradients it keeps",
        ),
    }
    return memory | {"total": Amount(sum(part.bytes for part in memory.values()), "the sum")}


class Duration(NamedTuple):
    """How long a run takes; None where nobody knows."""

    time_s: float | None
    node_hours: float | None


def _duration(total_flops: float, world_size: int, peak_flops_per_s: float | None) -> Duration:
    """Return the time of all steps on `world_size` devices, and its product with the nodes they fill."""
    if peak_flops_per_s is None:
        return Duration(None, None)
    time_s = total_flops / (world_size * peak_flops_per_s * ASSUMED_UTILIZATION)
    return Duration(time_s, time_s / 3600 * math.ceil(world_size / DEVICES_PER_NODE))


def _sources(config: GPTConfig) -> Sources:
    """Return the sources that do not depend on how the run was asked for."""
    part = accounting.parameters_by_part(config)
    return {
        "parameters": " + ".join(f"{count:,} {name}" for name, count in part.items()),
        "flops_per_token": "6 x (parameters - embedding) + 12 x layers x width x sequence_len",
        "batch_tokens": "data.batch_tokens",
        "tokens": "steps x batch_tokens",
        "total_flops": "flops_per_token x tokens",
        "device_batch_rows": "data.device_batch_rows",
        "accumulation": "batch_tokens / (device_batch_rows x sequence_len x world_size)",
        "world_size": "devices x nodes",
        "sequence_len": "data.sequence_len",
        "node_hours": f"time_s / 3600 x nodes of {DEVICES_PER_NODE} devices",
        "shards": (
            f"tokens x {CHARS_PER_TOKEN} characters / {1 - CROPPED_SHARE:g} not cropped"
            f" / {CHARS_PER_SHARD / 1e6:g}M characters + 1 of validation"
        ),
    }


def _rate_sources(
    n_embd: int, *, embedding_lr: float, unembedding_lr: float, matrix_lr: float
) -> dict[str, str]:
    scale = f"x ({n_embd}/768)^-0.5, AdamW"
    return {
        "embedding": f"{embedding_lr:g} {scale}",
        "unembedding": f"{unembedding_lr:g} {scale}",
        "matrix": f"{matrix_lr:g}, Muon",
    }


def _time_source(gpu: Gpu | None) -> str:
    if gpu is None:
        return "the device's peak FLOP/s is not known; `fit` shows tokens per second"
    return (
        f"total_flops / (world_size x {gpu.peak_flops_per_s:g} FLOP/s of {gpu.name}"
        f" x {ASSUMED_UTILIZATION:g} assumed utilization)"
    )


def _shown(key: str, value: float | None) -> str:
    """Return a number as people read it."""
    if value is None:
        return "unknown"
    if key == "memory_bytes":
        return f"{value / 1e9:,.2f} GB" if value >= 1e8 else f"{value / 1e6:,.1f} MB"
    if key == "learning_rates":
        return f"{value:.6g}"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.6e}" if value >= 1e7 else f"{value:,.1f}"


def _aligned(lines: list[tuple[str, ...]], right: int = -1) -> list[str]:
    """Return lines with their columns aligned; the column `right` to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            text.rjust(width) if i == right else text.ljust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
