"""What the model says: fixed prompts continued greedily, as text beside the curves."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from lightning.pytorch import LightningModule, Trainer

from nanochat_pl.inference.sampling import complete
from nanochat_pl.model.gpt import GPT
from nanochat_pl.training.callbacks.cadence import Periodic
from nanochat_pl.training.strategies import gpt_for_first_rank

PROMPTS = (
    "The capital of France is",
    "The chemical symbol of gold is",
    "If yesterday was Friday, then tomorrow will be",
    "The opposite of hot is",
    "The planets of the solar system are:",
    "My favorite color is",
    "If 5*x + 3 = 13, then x is",
)


class Samples(Periodic):
    """Continue a few prompts at temperature 0, on rank 0.

    Args:
        every_n_steps: optimizer steps between samplings; 0 or -1 is off.
        prompts: texts to continue; null means seven of general knowledge.
        max_new_tokens: length of each continuation.
    """

    def __init__(
        self, every_n_steps: int = 2000, prompts: Sequence[str] | None = None, max_new_tokens: int = 16
    ) -> None:
        super().__init__(every_n_steps)
        self.max_new_tokens = max_new_tokens
        self.prompts = tuple(PROMPTS if prompts is None else prompts)

    def act(self, trainer: Trainer, module: LightningModule) -> bool:
        """Sample; it takes too short a time to be broken off."""
        gpt = gpt_for_first_rank(module, module.device)
        if trainer.is_global_zero:
            module.eval()
            for prompt in self.prompts:
                self._log(trainer, prompt, self._continue(trainer, gpt, prompt))
            module.train()
        return True

    def _continue(self, trainer: Trainer, gpt: GPT, prompt: str) -> str:
        tokenizer = trainer.datamodule.tokenizer_on_disk
        ids = trainer.datamodule.prompt_ids(prompt)
        with torch.no_grad(), trainer.precision_plugin.val_step_context():
            new = complete(gpt, ids, max_new_tokens=self.max_new_tokens, stop_ids=tokenizer.stop_ids)
        return tokenizer.decode(new)

    def _log(self, trainer: Trainer, prompt: str, text: str) -> None:
        for logger in trainer.loggers:
            if hasattr(logger, "log_sample"):
                logger.log_sample(prompt, text, step=trainer.global_step)
