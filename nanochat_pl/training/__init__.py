"""Floor 6, the Lightning floor: modules, plan, checkpoints, callbacks, and the command line of a stage."""

from nanochat_pl.training.language_model import LanguageModel

__all__ = ["LanguageModel"]
