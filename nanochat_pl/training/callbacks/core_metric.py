"""What a base model scores in CORE, while training."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer

from nanochat_pl.evaluation.core_bundle import Bundle, default_bundle, read_bundle
from nanochat_pl.evaluation.core_metric import core_exams, core_metric
from nanochat_pl.evaluation.likelihood import GPTScorer
from nanochat_pl.evaluation.results import core_metrics
from nanochat_pl.system.errors import Failure
from nanochat_pl.system.paths import user_path
from nanochat_pl.training.callbacks.cadence import Periodic
from nanochat_pl.training.examination import taken_now
from nanochat_pl.training.strategies import gpt_for_each_rank


class CoreMetric(Periodic):
    """Log CORE, estimated from some items of each task, every so many steps and after the last.

    Args:
        every_n_steps: optimizer steps between evaluations; 0 or -1 is off.
        max_problems: items of each task asked while training; the verb `test` asks all.
        path: folder with `core.yaml`; null means `tasks/core` below the base directory.
    """

    def __init__(self, every_n_steps: int = 0, max_problems: int = 500, path: str | None = None) -> None:
        super().__init__(every_n_steps)
        self.max_problems, self.path = max_problems, path
        self._bundle: Bundle | None = None

    @property
    def folder(self) -> Path:
        """Where the tasks lie."""
        return user_path(self.path) if self.path else default_bundle()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the tasks; a run goes on without them, for they change nothing of it."""
        if self.every_n_steps > 0:
            try:
                self._bundle = read_bundle(self.folder)
            except Failure as failure:
                if trainer.is_global_zero:
                    reason = trainer.datamodule.completed(failure)
                    print(f"warning: CORE is not measured in this run: {reason}", file=sys.stderr)

    def act(self, trainer: Trainer, module: LightningModule) -> bool:
        """Examine, if the tasks are here."""
        return self._bundle is None or self._examine(trainer, module, self._bundle)

    @torch.no_grad()
    def _examine(self, trainer: Trainer, module: LightningModule, bundle: Bundle) -> bool:
        module.eval()
        scorer = GPTScorer(gpt_for_each_rank(module), trainer.datamodule.tokenizer_on_disk)
        exams = core_exams(scorer, bundle, max_problems=self.max_problems)
        with trainer.precision_plugin.val_step_context():
            scores = taken_now(exams, trainer)
        module.train()
        if scores is None:
            return False
        metrics = core_metrics(scores, core_metric(scores, bundle))
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=trainer.global_step)
        return True
