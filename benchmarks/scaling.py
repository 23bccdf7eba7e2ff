"""How the cost of a step grows with the world size: bytes, state and matrices of a rank, from 8 ranks to 4,096.

    python benchmarks/scaling.py [--depths 20 24 32] [--ranks 8 64 512 1024 4096] [--steps 10] [--no_gloo]

By arithmetic on the very objects that place parameters (`optim/sharding.py`, `optim/exchange.py`), for every rank;
beside it what nanochat's rule of padding each group of matrices to a multiple of the world size comes to. Then a step
of a small model is taken on 1, 2 and 4 gloo processes, from gradients whose average is the same, and its result
compared with one process's. Prints one line of JSON:

    payload_bytes   handed to reduce-scatter and all-gather, plus the larger of what the exchange of matrices sends or
                    receives on the rank where that is most; flat means at most 5 % more than at 8 ranks
    wire_bytes      the same as a ring sends it: (W - 1) / W of the two collectives, which no scheme can avoid
    state_over_ideal, fsdp2_state_over_ideal    the largest rank's moments x W / all moments
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import Tensor

from nanochat_pl.model import accounting
from nanochat_pl.model.config import GPTConfig
from nanochat_pl.model.gpt import GPT
from nanochat_pl.optim.exchange import plan_routes
from nanochat_pl.optim.muon_adamw import MuonAdamW
from nanochat_pl.optim.sharding import Replicated, Rows, ZeroRanges
from nanochat_pl.training.param_groups import param_groups

FP32 = 4
FLAT = 1.05
AVERAGED = 4  # gradients, dealt to 1, 2 or 4 processes
SMALL = GPTConfig.from_depth(4, vocab_size=4096, sequence_len=64)


def placed(depth: int, ranks: int) -> dict[str, Any]:
    """Return the figures of one model on `ranks` ranks."""
    config = GPTConfig.from_depth(depth, vocab_size=65536, sequence_len=2048)
    groups = param_groups(GPT.on_meta(config))
    zero = MuonAdamW(groups, sharding=ZeroRanges(0, ranks))
    matrices = [param for group in zero.param_groups if group["kind"] == "muon" for param in group["params"]]
    others = [param for group in zero.param_groups if group["kind"] == "adamw" for param in group["params"]]
    vectors = FP32 * sum(region.ranges.share * ranks for region in zero.sharding._regions)
    exchanged = _exchanged_bytes(zero, matrices, ranks)
    owned = [0] * ranks
    for param in matrices:
        owned[zero._owners[param]] += 1
    ideal = accounting.optimizer_bytes(config) / ranks
    return {
        "depth": depth,
        "ranks": ranks,
        "payload_bytes": 2 * vectors + max(exchanged),
        "wire_bytes": round(2 * vectors * (ranks - 1) / ranks) + max(exchanged),
        "exchange_bytes_max": max(exchanged),
        "matrices_max": max(owned),
        "matrices_min": min(owned),
        "state_bytes": _state_bytes(zero.sharding, matrices, others, range(ranks)),
        "state_over_ideal": _state_bytes(zero.sharding, matrices, others, range(ranks)) / ideal,
        "fsdp2_state_over_ideal": _state_bytes(Rows(0, ranks), matrices, others, range(ranks)) / ideal,
        "nanochat_payload_bytes": 2 * FP32 * _padded_elements(matrices, others, ranks),
    }


def _exchanged_bytes(optimizer: MuonAdamW, matrices: list[Tensor], ranks: int) -> list[int]:
    """Return what each rank sends or receives, whichever is more, there and back."""
    by_shape: dict[torch.Size, list[Tensor]] = {}
    for param in matrices:
        by_shape.setdefault(param.shape, []).append(param)
    total = [0] * ranks
    for params in by_shape.values():
        owners = [optimizer._owners[param] for param in params]
        parts = [[optimizer.sharding.part(param, rank) for rank in range(ranks)] for param in params]
        for rank in range(ranks):
            routes = plan_routes(lambda k, r, p=parts: p[k][r], owners, params[0].numel(), rank, ranks)
            if not routes.is_still:
                out = sum(size for to, size in enumerate(routes.out_sizes) if to != rank)
                into = sum(size for sender, size in enumerate(routes.in_sizes) if sender != rank)
                total[rank] += 2 * FP32 * max(out, into)
    return total


def _state_bytes(sharding: Replicated, matrices: list[Tensor], others: list[Tensor], ranks: range) -> int:
    """Return the bytes of moments of the rank that holds most."""
    return FP32 * max(
        sum(sharding.part(param, rank).size for param in matrices)
        + 2 * sum(sharding.part(param, rank).size for param in others)
        for rank in ranks
    )


def _padded_elements(matrices: list[Tensor], others: list[Tensor], ranks: int) -> int:
    """Return the elements of nanochat's stacks, each shape padded to whole matrices for every rank."""
    shapes = [param.shape for param in matrices]
    stacks = sum(-(-shapes.count(shape) // ranks) * ranks * shape.numel() for shape in set(shapes))
    return stacks + sum(param.numel() for param in others)


def measured(steps: int) -> list[dict[str, Any]]:
    """Return seconds per step and state of 1, 2 and 4 gloo processes, and their distance from one process's weights."""
    runs = []
    for ranks in (1, 2, 4):
        with tempfile.TemporaryDirectory() as folder:
            multiprocessing.spawn(_step_on_rank, (ranks, steps, folder), nprocs=ranks)
            runs.append(torch.load(f"{folder}/0.pt", weights_only=True))
    first = runs[0]["weights"]
    return [
        {
            "ranks": ranks,
            "ms_per_step": round(1000 * run["seconds"], 1),
            "state_over_ideal": run["state_bytes"] * ranks / runs[0]["state_bytes"],
            "difference": max(_difference(weight, first[name]) for name, weight in run["weights"].items()),
        }
        for ranks, run in zip((1, 2, 4), runs, strict=True)
    ]


def _difference(weight: Tensor, other: Tensor) -> float:
    """Return the largest difference relative to the largest weight of a matrix."""
    return float((weight - other).abs().max() / other.abs().max())


def _step_on_rank(rank: int, ranks: int, steps: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    gpt = GPT.materialized(SMALL, generator=torch.Generator().manual_seed(0))
    sharding = ZeroRanges(rank, ranks) if ranks > 1 else Replicated()
    optimizer = MuonAdamW(param_groups(gpt), orthogonalize_dtype=torch.float32, sharding=sharding)
    seconds = []
    for step in range(steps):
        _set_gradients(gpt, step, rank, ranks)
        dist.barrier()
        start = time.perf_counter()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    state = [value for values in optimizer.state.values() for value in values.values() if value.ndim]
    torch.save(
        {
            "weights": {name: weight.detach() for name, weight in gpt.named_parameters()},
            "seconds": statistics.median(seconds),
            "state_bytes": sum(value.nbytes for value in state),
        },
        f"{folder}/{rank}.pt",
    )
    dist.destroy_process_group()


def _set_gradients(gpt: GPT, step: int, rank: int, ranks: int) -> None:
    """Give a rank the average of its share of four random gradients."""
    mine = range(rank, AVERAGED, ranks)
    draws = [torch.Generator().manual_seed(1000 * step + number) for number in mine]
    for param in gpt.parameters():
        param.grad = sum(torch.randn(param.shape, generator=draw) for draw in draws) / len(mine)


def main() -> None:
    """Print the line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--depths", type=int, nargs="+", default=[20, 24, 32])
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 64, 512, 1024, 4096])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--no_gloo", action="store_true")
    args = parser.parse_args()
    figures = [placed(depth, ranks) for depth in args.depths for ranks in args.ranks]
    base = {f["depth"]: f for f in reversed(figures)}
    for f in figures:
        f["payload_growth"] = f["payload_bytes"] / base[f["depth"]]["payload_bytes"]
        f["wire_growth"] = f["wire_bytes"] / base[f["depth"]]["wire_bytes"]
    gloo = [] if args.no_gloo else measured(args.steps)
    line = {
        "benchmark": "scaling",
        "is_flat": all(f["payload_growth"] <= FLAT for f in figures),
        "is_state_ideal": all(f["state_over_ideal"] <= FLAT for f in figures),
        "is_equal": all(run["difference"] <= 1e-5 for run in gloo),
        "placed": [{k: round(v, 4) if isinstance(v, float) else v for k, v in f.items()} for f in figures],
        "gloo": gloo,
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, torch {torch.__version__}",
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
