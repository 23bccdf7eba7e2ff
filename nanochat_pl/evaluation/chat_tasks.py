"""How many problems of a task a model solves: prompts in, completions marked by the task."""

from __future__ import annotations

from typing import NamedTuple

from nanochat_pl.inference.engine import Engine
from nanochat_pl.inference.sampling import SamplingSettings
from nanochat_pl.tasks.base import Task
from nanochat_pl.tokenizer.conversation import render_for_completion


class TaskScore(NamedTuple):
    """How a model did.

    Attributes:
        task: the task's name.
        solved: problems solved.
        n: problems asked.
    """

    task: str
    solved: int
    n: int

    @property
    def score(self) -> float:
        """Share of the problems that were solved."""
        return self.solved / self.n


def score_generative(
    engine: Engine, task: Task, *, max_problems: int | None = None, max_new_tokens: int = 256
) -> TaskScore:
    """Ask the problems of a generative task, each once and without chance.

    Args:
        engine: the model.
        task: of kind "generative".
        max_problems: the first so many; None means all.
        max_new_tokens: length of an answer at most.
    """
    n = len(task) if max_problems is None else min(max_problems, len(task))
    conversations = [task[index] for index in range(n)]
    prompts = [render_for_completion(engine.tokenizer, conversation) for conversation in conversations]
    completions = engine.generate(prompts, SamplingSettings(temperature=0.0, max_new_tokens=max_new_tokens))
    solved = sum(
        task.evaluate(conversation, completion.text)
        for conversation, completion in zip(conversations, completions, strict=True)
    )
    return TaskScore(task.name, solved, n)
