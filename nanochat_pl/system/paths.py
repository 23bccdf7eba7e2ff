"""Where everything that is not code lies: one variable, `NANOCHAT_BASE_DIR`, read here and nowhere else.

Functions only, evaluated at each call, so that a test or a batch job can point the whole program elsewhere.
"""

from __future__ import annotations

import os
from pathlib import Path


def base_dir() -> Path:
    """Return the base directory: `$NANOCHAT_BASE_DIR`, else `~/.cache/nanochat_pl`. Not created."""
    return (
        Path(os.environ.get("NANOCHAT_BASE_DIR") or Path.home() / ".cache" / "nanochat_pl")
        .expanduser()
        .absolute()
    )


def corpus_dir(name: str) -> Path:
    """Return the folder of a named corpus of text."""
    return base_dir() / "data" / name


def tasks_dir(name: str) -> Path:
    """Return the folder, or the file, of a named task's data."""
    return base_dir() / "tasks" / name


def tokenizer_dir(name: str) -> Path:
    """Return the folder of a named tokenizer."""
    return base_dir() / "tokenizers" / name


def run_dir(run: str) -> Path:
    """Return the folder of a run: its configuration, plan, checkpoints, logs, metrics and artifact."""
    return base_dir() / "runs" / run


def cache_dir(name: str) -> Path:
    """Return a folder of things that can be computed again; it may be removed at any time."""
    return base_dir() / "cache" / name
