"""What a failed training step meant, in three lines for whoever has to mend it.

torch reports a full GPU, a rank that died and a port in use as errors of its own, with long texts and a traceback.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch
from lightning.pytorch import Trainer

from nanochat_pl.system.errors import Failure, RunAgain
from nanochat_pl.system.receipts import receipts
from nanochat_pl.training.lost_rank import Loss, LostRank
from nanochat_pl.training.plan import Plan

NO_MEMORY = re.compile(r"out of memory|can't allocate memory|CUBLAS_STATUS_ALLOC_FAILED", re.IGNORECASE)
LOST_CONNECTION = re.compile(
    r"gloo|nccl|connection (closed|reset|refused)|socket|broken pipe|watchdog|heartbeat", re.IGNORECASE
)
LOST_WORKER = re.compile(r"DataLoader worker .*(killed by signal|exited unexpectedly)")
PORT_IN_USE = re.compile(r"EADDRINUSE|address already in use", re.IGNORECASE)
WAIT_FOR_A_DEATH_S = 3.0
SHOWN_PARTS = 3


def explained(error: Exception, trainer: Trainer, plan: Plan, ranks: LostRank) -> Exception:
    """Return the error to raise instead: one that says what to do, or the same where nothing better is known.

    Args:
        error: what ended the training.
        trainer: in which.
        plan: of the run.
        ranks: made before they were started.
    """
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, Failure) or not isinstance(error, RuntimeError | MemoryError):
        return error
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or NO_MEMORY.search(text):
        return out_of_memory(trainer, plan)
    if LOST_WORKER.search(text):
        return lost_worker(trainer)
    if PORT_IN_USE.search(text):
        return port_in_use()
    if isinstance(error, torch.distributed.DistError) or LOST_CONNECTION.search(text):
        return lost_rank(error, trainer, ranks)
    return error


def out_of_memory(trainer: Trainer, plan: Plan) -> Failure:
    """Return what to say of a device, or a machine, whose memory was not enough."""
    parts = sorted((size, name) for name, size in plan.memory_bytes.items() if name != "total")[::-1]
    largest = ", ".join(f"{name} {size / 1e9:.2f} GB" for size, name in parts[:SHOWN_PARTS])
    rows = plan.device_batch_rows
    fewer = f"{rows // 2} instead of {rows}" if rows > 1 else "1 is the least"
    return Failure(
        f"out of memory at step {trainer.global_step}{_peak(trainer)}; the largest parts by the plan: {largest}\n"
        f"Lower --data.init_args.device_batch_rows ({fewer}; a step keeps its tokens) or --data.init_args.sequence_len "
        f"(now {plan.sequence_len}), or use more devices with --trainer.strategy fsdp2\n{continues(trainer)}"
    )


def _peak(trainer: Trainer) -> str:
    device = trainer.strategy.root_device
    if device.type != "cuda":
        return ""
    total = torch.cuda.get_device_properties(device).total_memory
    peak = torch.cuda.max_memory_allocated(device)
    return f" on {device}: peak {peak / 1e9:.1f} of {total / 1e9:.1f} GB"


def port_in_use() -> Failure:
    """Return what to say where the ranks cannot meet because somebody else listens there."""
    place = f"{os.environ.get('MASTER_ADDR', 'localhost')}:{os.environ.get('MASTER_PORT', '?')}"
    return Failure(
        f"the ranks cannot meet at {place}: the port is in use by another process\n"
        "unset MASTER_PORT for a free one, or export MASTER_PORT=$((20000 + RANDOM % 10000)) before the command"
    )


def lost_rank(error: Exception, trainer: Trainer, ranks: LostRank) -> Exception:
    """Return what to say where a rank is gone; a rank whose rank 0 lives says nothing, and leaves it to that.

    Raises:
        SystemExit: this rank is to be silent.
    """
    gone = ranks.gone(WAIT_FOR_A_DEATH_S)
    if gone is None and trainer.global_rank > 0:
        raise SystemExit(RunAgain.exit_code) from error
    gone = gone or Loss(f"another rank is gone ({' '.join(str(error).split())[:150]})", True)
    kind = RunAgain if gone.may_run_again else Failure
    return kind(f"{gone.words}; a run cannot go on without one of its ranks\n{continues(trainer)}")


def lost_worker(trainer: Trainer) -> Exception:
    """Return what to say where the process that makes the batches was killed."""
    return RunAgain(
        "the process that makes the batches was killed, as the out-of-memory killer does\n"
        f"Should it happen again: more memory (sbatch --mem), or --data.init_args.num_workers 0\n{continues(trainer)}"
    )


def continues(trainer: Trainer) -> str:
    """Return what happens if the command is given again."""
    newest = next(iter(receipts(Path(trainer.default_root_dir) / "checkpoints")), None)
    return f"The same command continues from {f'step {newest.step}' if newest else 'the beginning'}."
