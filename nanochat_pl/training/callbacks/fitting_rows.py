"""A micro-batch that does not fit on the GPU is halved before the first step, and the accumulation doubled."""

from __future__ import annotations

import gc
import sys
from dataclasses import replace
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from nanochat_pl.system.files import write_json
from nanochat_pl.training.failures import out_of_memory

MOST_HALVINGS = 4


class FittingRows(Callback):
    """Rehearse the largest moment of a step on every rank, and halve the rows of a micro-batch until it fits.

    The rehearsal runs forward and backward on rows of one token, beside as many bytes as the optimizer will keep: what
    the memory needs depends on shapes alone. Nothing is learned and no random number is drawn. A step keeps its tokens.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Settle the rows of a micro-batch before the loaders are made; all ranks decide together."""
        if not rehearses(trainer):
            return
        asked = pl_module.plan.device_batch_rows
        for _ in range(MOST_HALVINGS + 1):
            if not self._any_rank_is_out_of_memory(trainer, pl_module):
                break
            self._halve(trainer, pl_module)
        else:
            raise out_of_memory(trainer, pl_module.plan)
        rows = pl_module.plan.device_batch_rows
        if rows != asked and trainer.is_global_zero:
            print(
                f"warning: {asked} rows of a micro-batch do not fit in memory; {rows} do, with accumulation "
                f"{pl_module.plan.accumulation}: the same tokens a step\n"
                f"Keep it: --data.init_args.device_batch_rows {rows}",
                file=sys.stderr,
                flush=True,
            )

    def _any_rank_is_out_of_memory(self, trainer: Trainer, module: LightningModule) -> bool:
        short = torch.tensor(float(not fits(trainer, module)), device=trainer.strategy.root_device)
        return (
            bool(trainer.strategy.reduce(short, reduce_op="max")) if trainer.world_size > 1 else bool(short)
        )

    def _halve(self, trainer: Trainer, module: LightningModule) -> None:
        """Halve the rows and double the accumulation, wherever they were noted.

        Raises:
            Failure: there is one row already, or an odd number that leaves none to drop.
        """
        plan = module.plan
        if plan.device_batch_rows % 2:
            raise out_of_memory(trainer, plan)
        rows, accumulation = plan.device_batch_rows // 2, plan.accumulation * 2
        module.plan = replace(plan, device_batch_rows=rows, accumulation=accumulation)
        trainer.datamodule.device_batch_rows = rows
        trainer.accumulate_grad_batches = accumulation
        if trainer.is_global_zero:
            write_json(Path(trainer.default_root_dir) / "plan.json", module.plan.to_dict())


def rehearses(trainer: Trainer) -> bool:
    """Tell whether running out of memory is an error here that one can go on from: on a GPU."""
    return trainer.strategy.root_device.type == "cuda"


def fits(trainer: Trainer, module: LightningModule) -> bool:
    """Tell whether a micro-batch fits beside the optimizer's state; nothing of the attempt remains."""
    try:
        rehearse(trainer, module)
    except torch.OutOfMemoryError:
        return False
    finally:
        module.zero_grad(set_to_none=True)
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
    return True


def rehearse(trainer: Trainer, module: LightningModule) -> None:
    """Run forward and backward on rows of one and the same token.

    Raises:
        torch.OutOfMemoryError: they do not fit.
    """
    plan, device = module.plan, trainer.strategy.root_device
    state = torch.empty(plan.memory_bytes["optimizer"], dtype=torch.uint8, device=device)
    ids = torch.zeros(plan.device_batch_rows, plan.sequence_len, dtype=torch.int64, device=device)
    with trainer.precision_plugin.train_step_context():
        loss = module.gpt(ids, ids)
    loss.backward()
    del state
