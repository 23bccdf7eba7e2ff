"""How a run is spread over devices: `ddp` is Lightning's own, `zero` and `fsdp2` are these.

    ddp      weights, gradients and moments on every device; gradients averaged during the backward pass
    zero     the same weights, a share of the moments; once a step gradients are averaged and weights gathered
    fsdp2    a share of everything; weights are gathered block by block when they are needed

All three are Lightning's DDP with another idea of what lies where, which is `optim/sharding.py`'s business. Their
checkpoints are the same file, and rank 0 writes it: a run can go on under another of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

from nanochat_pl.model.config import GPTConfig
from nanochat_pl.model.gpt import GPT
from nanochat_pl.optim.sharding import Replicated, Rows, ZeroRanges
from nanochat_pl.system.errors import BadInput


class ZeroStrategy(DDPStrategy):
    """Replicated weights, sharded optimizer state. Nothing is communicated before the step."""

    def configure_ddp(self) -> None:
        """Leave the module as it is: the optimizer averages the gradients."""

    def sharding(self) -> ZeroRanges:
        """Return what the optimizer is to know."""
        return ZeroRanges(self.global_rank, self.world_size)


class FSDP2Strategy(DDPStrategy):
    """Weights, gradients and optimizer state sharded by rows, each block a unit.

    Args:
        reduce_every_micro_batch: whether gradients are averaged after each micro-batch of a step, which keeps them
            sharded, instead of once a step, which communicates less.
    """

    def __init__(self, reduce_every_micro_batch: bool = False) -> None:
        super().__init__()
        self.reduce_every_micro_batch = reduce_every_micro_batch

    def configure_ddp(self) -> None:
        """Shard the network, whose weights are complete and equal on all ranks until here."""
        gpt = self.lightning_module.gpt
        mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        is_mixed = getattr(self.precision_plugin, "precision", "") == "bf16-mixed"
        # Blocks are gathered in what they compute in. The two embeddings stay fp32, as their gradient adds up many
        # products; under autocast they are rounded where they are used.
        in_bf16 = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        for block in gpt.blocks:
            fully_shard(block, mesh=mesh, mp_policy=in_bf16 if is_mixed else MixedPrecisionPolicy())
        fully_shard(gpt, mesh=mesh)
        register_fsdp_forward_method(gpt, "token_losses")

    def sharding(self) -> Rows:
        """Return what the optimizer is to know."""
        return Rows(self.global_rank, self.world_size)

    @contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Keep gradients of a micro-batch that does not end a step to this rank."""
        gpt = self.lightning_module.gpt
        gpt.set_requires_gradient_sync(self.reduce_every_micro_batch)
        try:
            yield
        finally:
            gpt.set_requires_gradient_sync(True)

    def lightning_module_state_dict(self) -> dict[str, Tensor]:
        """Return the whole weights on rank 0, in main memory; nothing on the others."""
        whole = _whole_weights(self.lightning_module.gpt, self.sharding())
        return {f"gpt.{name}": weight for name, weight in whole.items()}


SHARDED = {"zero": ZeroStrategy, "fsdp2": FSDP2Strategy}
BY_CLASS_PATH = {f"{strategy.__module__}.{strategy.__qualname__}": name for name, strategy in SHARDED.items()}
for _name, _strategy in SHARDED.items():
    StrategyRegistry.register(_name, _strategy, description=_strategy.__doc__)


def strategy_name(configured: Any) -> str:
    """Return the short name of a strategy as a YAML has it: a name, a class path, or a class path with settings."""
    path = str(getattr(configured, "class_path", configured))
    return BY_CLASS_PATH.get(path, path)


def refuse_what_sharding_cannot(name: str, precision: str, clip_algorithm: str | None) -> None:
    """Refuse what needs every gradient on every rank, where a strategy does not give that.

    Raises:
        BadInput: fp16's loss scaling, half weights, or clipping by value.
    """
    if name not in SHARDED:
        return
    if precision not in ("32-true", "64-true", "bf16-mixed"):
        raise BadInput(
            f"trainer.precision={precision} does not go with trainer.strategy={name}\n"
            "Use bf16-mixed or 32-true, or trainer.strategy ddp."
        )
    if clip_algorithm == "value":
        raise BadInput(
            f"trainer.gradient_clip_algorithm=value does not go with trainer.strategy={name}\n"
            "Clip by norm (the default), which is the norm over all ranks, or use trainer.strategy ddp."
        )


def sharding_of(trainer: Trainer) -> Replicated:
    """Return how the trainer's strategy lays out weights, gradients and moments."""
    sharding = getattr(trainer.strategy, "sharding", Replicated)
    return sharding()


def gpt_for_first_rank(module: LightningModule, device: torch.device | str) -> GPT | None:
    """Return a network that rank 0 can use alone; None on the others. All ranks must call this.

    Args:
        module: whose network it is: its own, unless that is sharded.
        device: where a copy lies.
    """
    if not isinstance(module.gpt, FSDPModule):
        return module.gpt
    weights = _whole_weights(module.gpt, sharding_of(module.trainer))
    return _filled(module.gpt.config, weights, device) if weights else None


def gpt_for_each_rank(module: LightningModule) -> GPT:
    """Return a network that every rank can use at its own pace: the module's, or a copy of a sharded one's weights."""
    if not isinstance(module.gpt, FSDPModule):
        return module.gpt
    _reshard(module.gpt)
    weights = {name: weight.detach().full_tensor() for name, weight in module.gpt.named_parameters()}
    return _filled(module.gpt.config, weights, module.device)


def _whole_weights(gpt: GPT, rows: Rows) -> dict[str, Tensor]:
    """Return, on rank 0 and in main memory, the weights of a sharded network; all ranks must call this."""
    _reshard(gpt)
    weights = {name: rows.whole(weight, rows.weight(weight)) for name, weight in gpt.named_parameters()}
    return weights if rows.rank == 0 else {}


def _reshard(gpt: GPT) -> None:
    """Let a network that has just been evaluated give back the weights it gathered."""
    for module in gpt.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def _filled(config: GPTConfig, weights: dict[str, Tensor], device: torch.device | str) -> GPT:
    copy = GPT.on_meta(config).to_empty(device=device)
    copy.load_state_dict(weights)
    copy.init_buffers()
    return copy.eval()
