"""The files of a model's folder, one by one: whole, or a Failure that names the one at fault."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from nanochat_pl.system.errors import Failure
from nanochat_pl.system.files import sha256_of

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
PROVENANCE = "provenance.json"
WEIGHTS_SHA256 = "weights_sha256"


def require_digest(path: Path, digest: str | None, remedy: str) -> None:
    """Compare a file with the sha256 known of it; a missing one is not this function's trouble.

    Raises:
        Failure: it is another; `remedy`, of two lines at most, says what to do.
    """
    if digest is not None and path.is_file() and sha256_of(path) != digest:
        raise Failure(f"{path}: damaged or altered; its sha256 is not the one in {PROVENANCE}\n{remedy}")


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        Failure: the file is missing or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Failure(f"{path}: {_reason(error)}, so there is no complete artifact here") from None
    if not isinstance(value, dict):
        raise Failure(f"{path}: damaged, holds no JSON object")
    return value


def read_tensors(path: Path, device: str | torch.device) -> dict[str, torch.Tensor]:
    """Return the tensors in a file.

    Raises:
        Failure: the file is missing or damaged.
    """
    try:
        return load_file(path, device=str(device))
    except (OSError, SafetensorError) as error:
        raise Failure(f"{path}: {_reason(error)}, so there is no complete artifact here") from None


def _reason(error: Exception) -> str:
    return "is missing" if isinstance(error, FileNotFoundError) else f"damaged ({str(error).splitlines()[0]})"
