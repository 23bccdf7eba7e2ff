"""What Lightning costs: the Trainer with this suite's callbacks against a plain loop, the same module and batches.

    python benchmarks/train_step.py [--depth 4] [--sequence_len 512] [--rows 2] [--vocab_size 65536]
                                    [--steps 20] [--pairs 3] [--compile]

The two sides run in the order A B B A A B …; every run starts from the same weights and reads the same random rows.
Prints one line of JSON: the median of the loop's seconds per step divided by the Trainer's (1 means Lightning costs
nothing), the spread over pairs, and whether all losses were equal to the last bit.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from torch.utils.data import DataLoader, Dataset

from nanochat_pl.data.batch import Batch
from nanochat_pl.model.gpt import GPT
from nanochat_pl.optim.schedule import apply_schedule
from nanochat_pl.system.hardware import choose_precision
from nanochat_pl.training.callbacks.exact_resume import ExactResume
from nanochat_pl.training.callbacks.finite_guard import FiniteGuard
from nanochat_pl.training.callbacks.manual_gc import ManualGC
from nanochat_pl.training.callbacks.token_budget import TokenBudget
from nanochat_pl.training.callbacks.train_log import TrainLog
from nanochat_pl.training.language_model import LanguageModel
from nanochat_pl.training.loggers import MetricsFiles
from nanochat_pl.training.plan import make_plan

WARM_UP_STEPS = 5


class Timed(NamedTuple):
    """One run: seconds of each step after the warm-up, and the loss of every step."""

    seconds: list[float]
    losses: list[str]

    @property
    def step_s(self) -> float:
        return statistics.median(self.seconds)


class RandomRows(Dataset):
    """Batches of random ids, a function of their number."""

    def __init__(self, steps: int, rows: int, sequence_len: int, vocab_size: int) -> None:
        self.steps, self.shape, self.vocab_size = steps, (rows, sequence_len + 1), vocab_size

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, number: int) -> Batch:
        ids = torch.randint(self.vocab_size, self.shape, generator=torch.Generator().manual_seed(number))
        return Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())


class RandomData(LightningDataModule):
    """What the Trainer reads."""

    def __init__(self, rows: RandomRows, sequence_len: int) -> None:
        super().__init__()
        self.rows, self.sequence_len = rows, sequence_len

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.rows, batch_size=None)


class Stopwatch(Callback):
    """Note the time and the loss at the end of every step."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.losses: list[torch.Tensor] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.times.append(time.perf_counter())
        self.losses.append(outputs["loss"].detach())


def prepared(args: argparse.Namespace) -> LanguageModel:
    """Return the module with its plan; its weights are made from the same seed each time."""
    torch.manual_seed(42)
    model = LanguageModel(depth=args.depth, vocab_size=args.vocab_size, compile=args.compile)
    config = model.gpt_config(args.sequence_len)
    plan = make_plan(
        config,
        sequence_len=args.sequence_len,
        device_batch_rows=args.rows,
        batch_tokens=args.rows * args.sequence_len,
        world_size=1,
        max_steps=WARM_UP_STEPS + args.steps,
        **model.rates,
        precision=args.precision,
    )
    model.follow(plan)
    model.gpt = GPT.materialized(config)
    return model


def by_trainer(args: argparse.Namespace, rows: RandomRows, folder: Path) -> Timed:
    """Train with the Trainer, set up as `cli.py fit` sets it up, without checkpoints and validation."""
    stopwatch, log = Stopwatch(), TrainLog()
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        precision=args.precision,
        max_epochs=-1,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=folder,
        logger=[MetricsFiles(folder)],
        log_every_n_steps=10,
        callbacks=[
            log,
            TokenBudget(),
            FiniteGuard(),
            ManualGC(),
            ExactResume(),
            stopwatch,
            log.clock_restart,
        ],
    )
    trainer.fit(prepared(args), datamodule=RandomData(rows, args.sequence_len))
    return _timed(stopwatch.times, stopwatch.losses)


def by_loop(args: argparse.Namespace, rows: RandomRows) -> Timed:
    """Train with a loop anyone would write."""
    model = prepared(args)
    optimizer = model.configure_optimizers()
    if args.compile:
        model.gpt.compile(dynamic=False)
    times, losses = [], []
    for step, batch in enumerate(DataLoader(rows, batch_size=None)):
        with torch.autocast("cpu", torch.bfloat16, enabled=args.precision == "bf16-mixed"):
            loss = model.gpt(batch.inputs, batch.targets)
        loss.backward()
        apply_schedule(optimizer, model.schedule, step)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        times.append(time.perf_counter())
        losses.append(loss.detach())
    return _timed(times, losses)


def _timed(times: list[float], losses: list[torch.Tensor]) -> Timed:
    seconds = [after - before for before, after in pairwise(times)]
    return Timed(seconds[WARM_UP_STEPS - 1 :], [float(loss).hex() for loss in losses])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (("depth", 4), ("sequence_len", 512), ("rows", 2), ("vocab_size", 65536)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--precision", default=None, help="default: what this machine's hardware suggests")
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    args.precision = args.precision or choose_precision("cpu").precision
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")

    rows = RandomRows(WARM_UP_STEPS + args.steps, args.rows, args.sequence_len, args.vocab_size)
    loop, trainer = [], []
    load, wall, cpu = os.getloadavg()[0], time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        for pair in range(args.pairs):
            for side in ("AB", "BA")[pair % 2]:
                if side == "A":
                    trainer.append(by_trainer(args, rows, Path(folder)))
                else:
                    loop.append(by_loop(args, rows))
    busy = (time.process_time() - cpu) / (time.perf_counter() - wall) / torch.get_num_threads()
    ratios = [b.step_s / a.step_s for a, b in zip(trainer, loop, strict=True)]
    result = {
        "benchmark": "train_step",
        "ratio": round(statistics.median(ratios), 4),
        "ratios": [round(ratio, 4) for ratio in ratios],
        "losses_equal": len({tuple(run.losses) for run in (*loop, *trainer)}) == 1,
        "loop_step_s": round(statistics.median(run.step_s for run in loop), 4),
        "trainer_step_s": round(statistics.median(run.step_s for run in trainer), 4),
        "contended": load / (os.cpu_count() or 1) > 1.2 or busy < 0.9,
        "depth": args.depth,
        "sequence_len": args.sequence_len,
        "rows": args.rows,
        "vocab_size": args.vocab_size,
        "precision": args.precision,
        "compile": args.compile,
        "cpu": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
