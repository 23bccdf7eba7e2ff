"""What the model scores in chat tasks, while training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from lightning.pytorch import LightningModule, Trainer

from nanochat_pl.evaluation.chat_tasks import Answering, ChatExam, chat_exam
from nanochat_pl.evaluation.results import chat_metrics
from nanochat_pl.inference.engine import Engine
from nanochat_pl.model.gpt import GPT
from nanochat_pl.sandbox.calculator import calculate
from nanochat_pl.system.errors import BadInput
from nanochat_pl.tasks.exams import CHATCORE_TASKS, chat_task
from nanochat_pl.tokenizer.encoding import Tokenizer
from nanochat_pl.training.callbacks.cadence import Periodic
from nanochat_pl.training.examination import taken_now
from nanochat_pl.training.strategies import gpt_for_each_rank

QUICK = ("ARC-Easy", "MMLU")  # one row of the network a question


class ChatMetric(Periodic):
    """Log `chat/<task>` every so many steps and after the last; the verb `test` has these settings too.

    Args:
        every_n_steps: optimizer steps between evaluations; 0 or -1 is off.
        tasks: what `test` asks; null means the six of ChatCORE.
        training_tasks: what is asked while training; null means ARC-Easy and MMLU, since answers in writing take
            longer than letters.
        max_problems: items of each task asked while training; `test` asks all.
        max_new_tokens: length of a written answer.
        rows: answers written at once on one device.
    """

    def __init__(
        self,
        every_n_steps: int = 0,
        tasks: Sequence[str] | None = None,
        training_tasks: Sequence[str] | None = None,
        max_problems: int = 1024,
        max_new_tokens: int = 512,
        rows: int = 32,
    ) -> None:
        super().__init__(every_n_steps)
        self.max_problems, self.rows = max_problems, rows
        self.tasks = tuple(CHATCORE_TASKS if tasks is None else tasks)
        self.training_tasks = tuple(QUICK if training_tasks is None else training_tasks)
        for key, names in (("tasks", self.tasks), ("training_tasks", self.training_tasks)):
            if not names:
                raise BadInput(f"chat_metric.{key} is empty; name a task, or leave the key out")
        self.answering = Answering(max_new_tokens=max_new_tokens)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the tasks, so that a missing one is known before the first step."""
        if self.every_n_steps > 0:
            self._exams = self._opened(pl_module.gpt, trainer.datamodule.tokenizer_on_disk)

    @torch.no_grad()
    def act(self, trainer: Trainer, module: LightningModule) -> bool:
        """Examine."""
        module.eval()
        gpt, exams = gpt_for_each_rank(module), self._exams
        if gpt is not module.gpt:
            exams = self._opened(gpt, trainer.datamodule.tokenizer_on_disk)
        scores = taken_now(exams, trainer)
        module.train()
        if scores is None:
            return False
        for logger in trainer.loggers:
            logger.log_metrics(chat_metrics(scores), step=trainer.global_step)
        return True

    def _opened(self, gpt: GPT, tokenizer: Tokenizer) -> list[ChatExam]:
        engine = Engine(gpt, tokenizer, calculate, rows=self.rows)
        return [
            chat_exam(name, chat_task(name), engine, max_problems=self.max_problems, answering=self.answering)
            for name in self.training_tasks
        ]
