"""Where everything that is not code lies: one variable, `NANOCHAT_BASE_DIR`, read here and nowhere else.

Functions only, evaluated at each call, so that a test or a batch job can point the whole program elsewhere.
"""

from __future__ import annotations

import os
from pathlib import Path

from nanochat_pl.system.errors import BadInput


def base_dir() -> Path:
    """Return the base directory: `$NANOCHAT_BASE_DIR`, else `~/.cache/nanochat_pl`. Not created."""
    return user_path(os.environ.get("NANOCHAT_BASE_DIR") or "~/.cache/nanochat_pl").absolute()


def user_path(given: str | Path) -> Path:
    """Return a path as somebody wrote it, `~` and `~name` replaced by that home folder.

    Raises:
        BadInput: nobody of that name has a home folder here.
    """
    try:
        return Path(given).expanduser()
    except RuntimeError:
        raise BadInput(
            f"{given}: {Path(given).parts[0]} is nobody's home folder here; write the path in full"
        ) from None


def is_plain_name(name: str) -> bool:
    """Tell whether a name is that of one folder, not a path to elsewhere."""
    return Path(name).name == name and name not in ("", "..")


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
