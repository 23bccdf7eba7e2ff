"""A model ready for use, and its way to the disk and back.

A folder has one of two forms, `native.py`'s or `huggingface.py`'s; the two modules have the same functions. Either is
complete or absent: it is filled beside its place and renamed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError

from nanochat_pl.artifacts import huggingface, native
from nanochat_pl.artifacts.contents import CONFIG, WEIGHTS, WEIGHTS_SHA256
from nanochat_pl.model.config import GPTConfig
from nanochat_pl.model.gpt import GPT
from nanochat_pl.system.errors import Failure, unwritable
from nanochat_pl.system.files import complete_folder
from nanochat_pl.tokenizer.encoding import Tokenizer


class Artifact(NamedTuple):
    """A model ready for use."""

    gpt: GPT
    tokenizer: Tokenizer
    provenance: dict[str, Any]
    folder: Path


def save_artifact(
    folder: Path, gpt: GPT, tokenizer: Tokenizer, provenance: Mapping[str, Any], elsewhere: str = ""
) -> None:
    """Write a model to `folder`, replacing what is there once the new one is complete.

    Args:
        folder: the artifact's folder; its parent is created.
        gpt: the model; weights are stored in fp32 on the CPU.
        tokenizer: the tokenizer it was trained with.
        provenance: JSON-ready facts about its origin; the sha256 of the weights is added.
        elsewhere: what a user adds to name another folder, such as `--out DIR`; for the message.

    Raises:
        Failure: the disk refuses; what was there stays.
    """
    _save(native, folder, gpt, tokenizer, provenance, elsewhere)


def save_huggingface(
    folder: Path, gpt: GPT, tokenizer: Tokenizer, provenance: Mapping[str, Any], elsewhere: str = ""
) -> None:
    """Write a model as a folder of Hugging Face's `NanoChatForCausalLM`; otherwise as `save_artifact`."""
    _save(huggingface, folder, gpt, tokenizer, provenance, elsewhere)


def _save(
    form: ModuleType,
    folder: Path,
    gpt: GPT,
    tokenizer: Tokenizer,
    provenance: Mapping[str, Any],
    elsewhere: str,
) -> None:
    weights = {name: value.detach().float().cpu().contiguous() for name, value in gpt.state_dict().items()}
    try:
        with complete_folder(folder) as new:
            form.write(new, gpt.config, weights, tokenizer, provenance)
    except OSError as error:
        raise unwritable(folder, error, elsewhere) from error
    except SafetensorError as error:
        raise unwritable(folder, _of_the_system(error), elsewhere) from error


def _of_the_system(error: SafetensorError) -> OSError:
    """Return what the system refused safetensors, which tells it in its text only: `… (os error 28)`."""
    number = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error))


def load_artifact(folder: Path, device: str | torch.device = "cpu") -> Artifact:
    """Read a model from `folder`.

    Raises:
        BadInput: it is a model of another program, which cannot be read.
        Failure: a file is missing or damaged, or weights, configuration and tokenizer do not belong together.
    """
    form = _form(folder)
    config, provenance = form.read_config(folder), form.read_provenance(folder)
    gpt = _fill(GPT.on_meta(config), form.read_weights(folder, device), folder, device)
    tokenizer = Tokenizer.load(folder)
    if tokenizer.vocab_size != config.vocab_size:
        raise Failure(
            f"{folder}: the model has {config.vocab_size} ids but its tokenizer {tokenizer.vocab_size}; "
            "the files of two artifacts were mixed"
        )
    return Artifact(gpt, tokenizer, provenance, folder)


def artifact_config(folder: Path) -> GPTConfig:
    """Return the shape of an artifact's model without reading its weights.

    Raises:
        BadInput: it is a model of another program, which cannot be read.
        Failure: the file is missing or damaged.
    """
    return _form(folder).read_config(folder)


def weights_digest(folder: Path) -> str:
    """Return the sha256 of an artifact's weights, from its provenance where that gives it.

    Raises:
        Failure: the provenance is missing or damaged.
    """
    digest = _form(folder).read_provenance(folder).get(WEIGHTS_SHA256)
    return str(digest)


def generation_defaults(folder: Path) -> dict[str, Any]:
    """Return how an artifact's model is sampled unless told otherwise."""
    return _form(folder).read_generation(folder)


def _form(folder: Path) -> ModuleType:
    return huggingface if huggingface.is_here(folder) else native


def _fill(gpt: GPT, weights: dict[str, torch.Tensor], folder: Path, device: str | torch.device) -> GPT:
    """Give a model on the meta device its weights and its computed buffers."""
    gpt.to_empty(device=device)
    gpt.init_buffers()
    try:
        gpt.load_state_dict(weights)
    except RuntimeError as error:
        raise Failure(
            f"{folder / WEIGHTS}: the weights do not fit {CONFIG}: {str(error).splitlines()[1].strip()}"
        ) from None
    return gpt.eval()
