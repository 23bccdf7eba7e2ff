"""A leaf: talking to a model."""
