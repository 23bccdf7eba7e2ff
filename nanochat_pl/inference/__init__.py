"""Floor 4, text out of a model."""
