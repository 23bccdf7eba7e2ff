"""Callbacks: one concern each, each a name in the YAML or always on; see `lightning_cli.py` for which."""
