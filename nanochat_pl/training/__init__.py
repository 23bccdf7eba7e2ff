"""Floor 6, the Lightning floor: modules, plan, checkpoints, callbacks, and the command line of a stage."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nanochat_pl.training.language_model import LanguageModel

__all__ = ["LanguageModel"]


def __getattr__(name: str) -> Any:
    """Import the module when it is asked for: the plan beside it needs no Lightning, which takes seconds to import."""
    if name == "LanguageModel":
        return import_module("nanochat_pl.training.language_model").LanguageModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
