"""Floor 5, numbers out of a model. No Lightning here."""
