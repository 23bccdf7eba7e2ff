"""An artifact: everything needed to use a model, and nothing more.

    model.safetensors   fp32 weights under the names of `GPT.state_dict`
    config.json         GPTConfig
    tokenizer files     as `Tokenizer.save` writes them
    generation.json     defaults for sampling
    provenance.json     run, step, tokens seen, versions: where this came from

A folder is complete or absent: it is filled beside its place and renamed. What is needed to resume training stays
in the run's checkpoints.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from nanochat_pl.model.config import GPTConfig
from nanochat_pl.model.gpt import GPT
from nanochat_pl.system.errors import BadInput, Failure
from nanochat_pl.system.files import force_to_disk, write_json
from nanochat_pl.system.paths import run_dir
from nanochat_pl.tokenizer.encoding import Tokenizer

GENERATION_DEFAULTS = {"temperature": 0.8, "top_k": 50, "max_new_tokens": 256}


class Artifact(NamedTuple):
    """A model ready for use."""

    gpt: GPT
    tokenizer: Tokenizer
    provenance: dict[str, Any]
    folder: Path


def save_artifact(folder: Path, gpt: GPT, tokenizer: Tokenizer, provenance: Mapping[str, Any]) -> None:
    """Write a model to `folder`, replacing what is there once the new one is complete.

    Args:
        folder: the artifact's folder; its parent is created.
        gpt: the model; weights are stored in fp32 on the CPU.
        tokenizer: the tokenizer it was trained with.
        provenance: JSON-ready facts about its origin.
    """
    new = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    weights = {name: value.detach().float().cpu().contiguous() for name, value in gpt.state_dict().items()}
    save_file(weights, new / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(new)
    write_json(new / "config.json", gpt.config.to_dict())
    write_json(new / "generation.json", GENERATION_DEFAULTS)
    write_json(new / "provenance.json", dict(provenance))
    for path in (*new.iterdir(), new):
        force_to_disk(path)
    _replace_folder(new, folder)


def _replace_folder(new: Path, folder: Path) -> None:
    """Put `new` in the place of `folder`; folders cannot be swapped in one step, so the old one steps aside."""
    old = folder.with_name(f".{folder.name}.old.{os.getpid()}.tmp")
    if folder.exists():
        os.replace(folder, old)
    os.replace(new, folder)
    force_to_disk(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def load_artifact(folder: Path, device: str | torch.device = "cpu") -> Artifact:
    """Read a model from `folder`.

    Raises:
        Failure: a file is missing or damaged, or weights, configuration and tokenizer do not belong together.
    """
    try:
        config = GPTConfig.from_dict(json.loads((folder / "config.json").read_text()))
        provenance = json.loads((folder / "provenance.json").read_text())
        weights = load_file(folder / "model.safetensors", device=str(device))
    except (OSError, ValueError, SafetensorError) as error:
        raise Failure(f"{folder}: not a complete artifact ({error})") from None
    gpt = _fill(GPT.on_meta(config), weights, folder, device)
    tokenizer = Tokenizer.load(folder)
    if tokenizer.vocab_size != config.vocab_size:
        raise Failure(
            f"{folder}: the model has {config.vocab_size} ids but its tokenizer {tokenizer.vocab_size}; "
            "the files of two artifacts were mixed"
        )
    return Artifact(gpt, tokenizer, provenance, folder)


def _fill(gpt: GPT, weights: dict[str, torch.Tensor], folder: Path, device: str | torch.device) -> GPT:
    """Give a model on the meta device its weights and its computed buffers."""
    gpt.to_empty(device=device)
    gpt.init_buffers()
    try:
        gpt.load_state_dict(weights)
    except RuntimeError as error:
        raise Failure(f"{folder}: weights do not fit config.json: {str(error).splitlines()[1].strip()}") from None
    return gpt.eval()


def find_artifact(source: str) -> Path:
    """Return the artifact folder named by `source`: a run's name, or a folder that is one or holds one.

    Raises:
        BadInput: neither a run nor a folder of this name has an artifact.
    """
    folders = [run_dir(source) / "artifact", Path(source), Path(source) / "artifact"]
    for folder in folders:
        if (folder / "config.json").is_file():
            return folder
    raise BadInput(
        f"init_from: no artifact called {source!r} (looked in {folders[0]} and {folders[1]})\n"
        f"Train it first: python cli.py fit --config configs/{Path(source).name}.yaml"
    )

