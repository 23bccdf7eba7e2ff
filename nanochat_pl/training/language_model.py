"""LanguageModel: the LightningModule of pretraining, midtraining and SFT.

It translates between the Trainer and a pure `GPT`, and does no work of its own: which rows are read and which
targets count is the DataModule's business, how long and how large is `plan.py`'s, everything on the side is a
callback's. The stages differ in their data and their YAML only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from nanochat_pl.artifacts import artifact_config, load_artifact, weights_digest
from nanochat_pl.data.batch import Batch
from nanochat_pl.evaluation.bits_per_byte import BitsPerByte
from nanochat_pl.evaluation.exam import Chunk
from nanochat_pl.model.config import GPTConfig
from nanochat_pl.model.gpt import GPT
from nanochat_pl.model.loss import IGNORED
from nanochat_pl.optim.muon_adamw import MuonAdamW
from nanochat_pl.optim.schedule import Schedule, apply_schedule
from nanochat_pl.system.errors import BadInput
from nanochat_pl.training.examination import Examination
from nanochat_pl.training.param_groups import param_groups
from nanochat_pl.training.plan import Plan
from nanochat_pl.training.same_start import require_same_step, require_same_weights
from nanochat_pl.training.strategies import sharding_of


class LanguageModel(LightningModule):
    """A GPT learning to predict the next token.

    Args:
        init_from: run or folder of the artifact a later stage starts from; its shape is taken, `depth` must be its.
        depth: number of layers, the one dial; width, heads, horizon and rates follow from it.
        vocab_size: number of ids, specials included; must be the tokenizer's.
        aspect_ratio: width per layer; the width is rounded up to whole heads.
        head_dim: width of one attention head.
        n_kv_head: key and value heads; null means as many as query heads.
        tokens_per_parameter: training tokens per parameter; used where neither `--trainer.max_steps` nor
            `target_flops` is given.
        target_flops: total training FLOPs; takes precedence over `tokens_per_parameter`.
        embedding_lr: AdamW's rate of the token embedding at width 768.
        unembedding_lr: AdamW's rate of the output matrix at width 768.
        matrix_lr: Muon's rate of all other matrices.
        lr_fraction: factor on the three rates, for stages that go on from trained weights.
        weight_decay: decoupled decay of Muon's matrices.
        warmup_steps: steps over which the rates rise linearly from 0.
        warmdown_ratio: last share of the steps over which they fall linearly.
        final_lr_fraction: what they fall to, as a fraction.
        momentum_ramp_steps: steps over which Muon's momentum rises to 0.95; 0 begins with it.
        compile: whether to compile the training step; null means where a compiler is found.
    """

    def __init__(
        self,
        depth: int = 20,
        vocab_size: int = 65536,
        aspect_ratio: int = 64,
        head_dim: int = 128,
        n_kv_head: int | None = None,
        tokens_per_parameter: float = 20.0,
        target_flops: float | None = None,
        embedding_lr: float = 0.2,
        unembedding_lr: float = 0.004,
        matrix_lr: float = 0.02,
        lr_fraction: float = 1.0,
        weight_decay: float = 0.0,
        warmup_steps: int = 0,
        warmdown_ratio: float = 0.2,
        final_lr_fraction: float = 0.0,
        momentum_ramp_steps: int = 300,
        compile: bool | None = None,
        init_from: str | None = None,
    ) -> None:
        super().__init__()
        if not lr_fraction > 0:
            raise BadInput(f"model.init_args.lr_fraction={lr_fraction}: give more than 0")
        self.init_from, self.lr_fraction = init_from, lr_fraction
        self.depth, self.vocab_size = depth, vocab_size
        self.aspect_ratio, self.head_dim, self.n_kv_head = aspect_ratio, head_dim, n_kv_head
        self.tokens_per_parameter, self.target_flops = tokens_per_parameter, target_flops
        self.rates = {
            "embedding_lr": lr_fraction * embedding_lr,
            "unembedding_lr": lr_fraction * unembedding_lr,
            "matrix_lr": lr_fraction * matrix_lr,
        }
        self.weight_decay, self.warmup_steps = weight_decay, warmup_steps
        self.warmdown_ratio, self.final_lr_fraction = warmdown_ratio, final_lr_fraction
        self.momentum_ramp_steps = momentum_ramp_steps
        self.compiles = compile
        self.gpt: GPT | None = None
        self.plan: Plan | None = None
        self.schedule: Schedule | None = None
        self.examination: Examination | None = None
        self._start: Path | None = None
        self.start_digest: str | None = None
        self._step_targets: Tensor | None = None  # over all ranks, from a step's first batch to its end

    def start_from(self, artifact: Path) -> None:
        """Begin with the weights, and have the shape, of an artifact.

        Raises:
            BadInput: it has another depth.
            Failure: it is not complete.
        """
        config = artifact_config(artifact)
        if config.n_layer != self.depth:
            raise BadInput(
                f"model.init_args.depth={self.depth}, but {self.init_from} has {config.n_layer} layers\n"
                f"Set depth to {config.n_layer}, or name another init_from."
            )
        self._start, self._start_config, self.vocab_size = artifact, config, config.vocab_size
        self.start_digest = weights_digest(artifact)

    def require_whole_start(self) -> None:
        """Read the weights to start from, if there are any, and leave them.

        Raises:
            Failure: they are damaged.
        """
        if self._start is not None:
            load_artifact(self._start)

    def gpt_config(self, sequence_len: int) -> GPTConfig:
        """Return the shape of the network for rows of `sequence_len` tokens.

        Raises:
            BadInput: the artifact to start from has a shorter context.
        """
        if self._start is not None:
            if sequence_len > self._start_config.sequence_len:
                raise BadInput(
                    f"data.init_args.sequence_len={sequence_len} is more than the {self._start_config.sequence_len} "
                    f"tokens of context that {self.init_from} was trained with"
                )
            return self._start_config
        return GPTConfig.from_depth(
            self.depth,
            vocab_size=self.vocab_size,
            sequence_len=sequence_len,
            aspect_ratio=self.aspect_ratio,
            head_dim=self.head_dim,
            n_kv_head=self.n_kv_head,
        )

    def follow(self, plan: Plan) -> None:
        """Take the horizon from `plan`; rates, momentum and decay become functions of the step."""
        self.plan = plan
        self.schedule = Schedule(
            steps=plan.steps,
            warmup_steps=self.warmup_steps,
            warmdown_ratio=self.warmdown_ratio,
            final_lr_fraction=self.final_lr_fraction,
            momentum_ramp_steps=self.momentum_ramp_steps,
        )

    def configure_model(self) -> None:
        """Build the network where it will live, once; a model that was given one keeps it."""
        device = self.trainer.strategy.root_device
        if self.gpt is None and self._start is not None:
            self.gpt = load_artifact(self._start, device).gpt.train()
        elif self.gpt is None:
            config = self.gpt_config(self.trainer.datamodule.sequence_len)
            self.gpt = GPT.materialized(config, device=device)
        if self.trainer.world_size > 1:
            require_same_weights(self.gpt)
        if self.compiles and self.trainer.training:
            self.gpt.compile(dynamic=False)  # in place: the names in the state dict stay as they are

    def on_train_start(self) -> None:
        """Make sure that all ranks go on from the same step."""
        require_same_step(self.trainer.global_step)

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits (B, T, V) for ids (B, T)."""
        return self.gpt.forward(ids)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the mean loss over the scored targets, weighted so that each of the step's counts the same."""
        loss = self.gpt(batch.inputs, batch.targets)
        return loss if batch.step_targets is None else loss * self._weight(batch)

    def _weight(self, batch: Batch) -> Tensor:
        """Return the scored targets of this batch / the mean of all batches of the step on all ranks."""
        if self._step_targets is None:
            mine = torch.tensor(float(batch.step_targets), device=self.device)
            self._step_targets = self.trainer.strategy.reduce(mine, reduce_op="sum")
        batches = self.trainer.accumulate_grad_batches * self.trainer.world_size
        return (batch.targets != IGNORED).sum() * (batches / self._step_targets)

    def on_validation_epoch_start(self) -> None:
        """Start counting nats and bytes from zero."""
        tokenizer = self.trainer.datamodule.tokenizer_on_disk
        self.bits_per_byte = BitsPerByte(tokenizer.token_bytes).to(self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add one batch to bits per byte."""
        self.bits_per_byte.update(self.gpt.token_losses(batch.inputs, batch.targets), batch.targets)

    def on_validation_epoch_end(self) -> None:
        """Log bits per byte over all ranks."""
        self.log("val/bpb", self.bits_per_byte.compute(), rank_zero_only=True)

    def test_dataloader(self) -> DataLoader:
        """Return this rank's share of the examination."""
        return self.examination.loader(self.trainer.global_rank, self.trainer.world_size)

    def test_step(self, chunk: Chunk, batch_idx: int) -> None:
        """Take the exam of a few items."""
        self.examination.examine(chunk)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the one optimizer; its schedule is applied in `on_before_optimizer_step`."""
        groups = param_groups(
            self.gpt,
            **self.rates,
            weight_decay=self.weight_decay,
        )
        return MuonAdamW(groups, sharding=sharding_of(self.trainer))

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Set rate, momentum and decay of the step about to be taken: functions of its number, nothing to save."""
        apply_schedule(optimizer, self.schedule, self.trainer.global_step)
        self._step_targets = None

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Have the optimizer clip by the norm over all ranks, which it alone knows under every strategy."""
        if gradient_clip_algorithm == "value":
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        else:
            optimizer.clip_norm = gradient_clip_val or 0.0

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Drop what Lightning would save and nobody restores: the loaders' own state is a batch ahead."""
        checkpoint["loops"]["fit_loop"]["state_dict"].pop("combined_loader", None)


def require_same_vocabulary(model: LanguageModel, vocab_size: int, where: str) -> None:
    """Refuse a tokenizer of another size than the model.

    Raises:
        BadInput: the sizes differ.
    """
    if model.vocab_size != vocab_size:
        raise BadInput(
            f"model.init_args.vocab_size={model.vocab_size}, but the tokenizer {where} has {vocab_size} ids\n"
            f"Add --model.init_args.vocab_size {vocab_size}, or train a tokenizer of {model.vocab_size} ids:\n"
            f"python cli.py tokenizer train --corpus NAME|DIR --vocab_size {model.vocab_size}"
        )
