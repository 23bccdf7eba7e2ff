"""Floor 4, text out of a model: an engine, how it samples, and what it gives."""

from nanochat_pl.inference.engine import Engine
from nanochat_pl.inference.row import Completion
from nanochat_pl.inference.sampling import SamplingSettings
from nanochat_pl.inference.transcript import Piece

__all__ = ["Completion", "Engine", "Piece", "SamplingSettings"]
