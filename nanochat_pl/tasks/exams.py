"""The tasks that chat models are examined in, by their names in metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from nanochat_pl.tasks.arc import ARC
from nanochat_pl.tasks.base import Task, require_choice
from nanochat_pl.tasks.gsm8k import GSM8K
from nanochat_pl.tasks.humaneval import HumanEval
from nanochat_pl.tasks.mmlu import MMLU
from nanochat_pl.tasks.spellingbee import SpellingBee
from nanochat_pl.tasks.world_chat import ToolSums, TownFacts, WordSpelling

CHAT_TASKS: Mapping[str, Callable[[], Task]] = MappingProxyType(
    {
        "ARC-Easy": lambda: ARC(subset="ARC-Easy", split="test"),
        "ARC-Challenge": lambda: ARC(subset="ARC-Challenge", split="test"),
        "MMLU": lambda: MMLU(subset="all", split="test"),
        "GSM8K": lambda: GSM8K(split="test"),
        "HumanEval": HumanEval,
        "SpellingBee": lambda: SpellingBee(split="test"),
        "world": lambda: TownFacts(split="test"),
        "world-spelling": lambda: WordSpelling(split="test", size=300),
        "world-sums": lambda: ToolSums(split="test", size=300),
    }
)
CHATCORE_TASKS = ("ARC-Easy", "ARC-Challenge", "MMLU", "GSM8K", "HumanEval", "SpellingBee")


def chat_task(name: str) -> Task:
    """Return a task by its name in metrics.

    Raises:
        BadInput: there is no such task.
    """
    require_choice("task", name, tuple(CHAT_TASKS))
    return CHAT_TASKS[name]()
