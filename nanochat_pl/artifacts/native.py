"""The artifact's own form: everything needed to use a model, and nothing more.

    model.safetensors   fp32 weights under the names of `GPT.state_dict`
    config.json         GPTConfig
    tokenizer files     as `Tokenizer.save` writes them
    generation.json     defaults for sampling
    provenance.json     run, step, tokens seen, versions: where this came from; sha256 of the weights

What is needed to resume training stays in the run's checkpoints.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from nanochat_pl.artifacts.contents import (
    CONFIG,
    PROVENANCE,
    WEIGHTS,
    WEIGHTS_SHA256,
    read_object,
    read_tensors,
    require_digest,
)
from nanochat_pl.model.config import GPTConfig
from nanochat_pl.system.errors import BadInput, Failure
from nanochat_pl.system.files import sha256_of, write_json
from nanochat_pl.system.receipts import receipts
from nanochat_pl.tokenizer.encoding import Tokenizer

GENERATION = "generation.json"
GENERATION_DEFAULTS = {"temperature": 0.8, "top_k": 50, "max_new_tokens": 256}


def write(
    folder: Path,
    config: GPTConfig,
    weights: Mapping[str, torch.Tensor],
    tokenizer: Tokenizer,
    provenance: Mapping[str, Any],
) -> None:
    """Fill an empty folder; `weights` are fp32 on the CPU under the names of `GPT.state_dict`."""
    save_file(dict(weights), folder / WEIGHTS, metadata={"format": "pt"})
    tokenizer.save(folder)
    write_json(folder / CONFIG, config.to_dict())
    write_json(folder / GENERATION, GENERATION_DEFAULTS)
    write_json(folder / PROVENANCE, dict(provenance) | {WEIGHTS_SHA256: sha256_of(folder / WEIGHTS)})


def read_config(folder: Path) -> GPTConfig:
    """Return the model's shape."""
    try:
        return GPTConfig.from_dict(read_object(folder / CONFIG))
    except BadInput as error:
        raise Failure(f"{folder / CONFIG}: {error}") from None


def read_weights(folder: Path, device: str | torch.device) -> dict[str, torch.Tensor]:
    """Return the weights under the names of `GPT.state_dict`; the file must have the sha256 known of it."""
    require_digest(folder / WEIGHTS, read_provenance(folder).get(WEIGHTS_SHA256), _remedy(folder))
    return read_tensors(folder / WEIGHTS, device)


def _remedy(folder: Path) -> str:
    """Return how to have an artifact again: a run whose artifact is gone writes it from its last checkpoint."""
    if not receipts(folder.parent / "checkpoints"):
        return "Copy the folder again from where it is whole, or train the run again."
    config = shlex.quote(str(folder.parent / "config.yaml"))
    return (
        f"Write it again from the run's last checkpoint: rm -r {shlex.quote(str(folder))}\n"
        f"python cli.py fit --config {config}"
    )


def read_provenance(folder: Path) -> dict[str, Any]:
    """Return where the model came from."""
    return read_object(folder / PROVENANCE)


def read_generation(folder: Path) -> dict[str, Any]:
    """Return how the model is sampled unless told otherwise."""
    return read_object(folder / GENERATION)
