"""Floor 3, problems and worlds: what a model is asked and how its answer is marked, never the model itself."""

from nanochat_pl.tasks.arc import ARC
from nanochat_pl.tasks.base import Mixture, Task
from nanochat_pl.tasks.gsm8k import GSM8K
from nanochat_pl.tasks.humaneval import HumanEval
from nanochat_pl.tasks.jsonl import CustomJSON
from nanochat_pl.tasks.mmlu import MMLU
from nanochat_pl.tasks.smoltalk import SmolTalk
from nanochat_pl.tasks.spellingbee import SimpleSpelling, SpellingBee
from nanochat_pl.tasks.world_chat import ToolSums, TownFacts, WordSpelling, WorldTexts

__all__ = [
    "ARC",
    "GSM8K",
    "MMLU",
    "CustomJSON",
    "HumanEval",
    "Mixture",
    "SimpleSpelling",
    "SmolTalk",
    "SpellingBee",
    "Task",
    "ToolSums",
    "TownFacts",
    "WordSpelling",
    "WorldTexts",
]
