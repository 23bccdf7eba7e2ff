"""Floor 3, problems and worlds: what a model is asked and how its answer is marked, never the model itself."""

from nanochat_pl.tasks.world_chat import ToolSums, TownFacts, WordSpelling, WorldTexts

__all__ = ["ToolSums", "TownFacts", "WordSpelling", "WorldTexts"]
