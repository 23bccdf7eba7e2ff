"""Floor 3, problems and worlds: what a model is asked, never the model itself."""
