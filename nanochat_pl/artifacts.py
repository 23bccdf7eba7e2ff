"""An artifact: everything needed to use a model, and nothing more.

    model.safetensors   fp32 weights under the names of `GPT.state_dict`
    config.json         GPTConfig
    tokenizer files     as `Tokenizer.save` writes them
    generation.json     defaults for sampling
    provenance.json     run, step, tokens seen, versions: where this came from; sha256 of the weights

A folder is complete or absent: it is filled beside its place and renamed. What is needed to resume training stays
in the run's checkpoints.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from nanochat_pl.model.config import GPTConfig
from nanochat_pl.model.gpt import GPT
from nanochat_pl.system.errors import BadInput, Failure
from nanochat_pl.system.files import force_to_disk, replace_folder, sha256_of, temporary_beside, write_json
from nanochat_pl.system.paths import run_dir
from nanochat_pl.tokenizer.encoding import Tokenizer

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
GENERATION = "generation.json"
PROVENANCE = "provenance.json"
WEIGHTS_SHA256 = "weights_sha256"
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
        provenance: JSON-ready facts about its origin; the sha256 of the weights is added.

    Raises:
        Failure: the disk refuses; what was there stays.
    """
    new = temporary_beside(folder)
    shutil.rmtree(new, ignore_errors=True)
    try:
        new.mkdir(parents=True)
        _write_files(new, gpt, tokenizer, provenance)
        replace_folder(new, folder)
    except (OSError, SafetensorError) as error:
        raise Failure(
            f"{folder}: could not be written: {getattr(error, 'strerror', None) or error}"
        ) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _write_files(folder: Path, gpt: GPT, tokenizer: Tokenizer, provenance: Mapping[str, Any]) -> None:
    """Fill `folder` and force it to the disk."""
    weights = {name: value.detach().float().cpu().contiguous() for name, value in gpt.state_dict().items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    tokenizer.save(folder)
    write_json(folder / CONFIG, gpt.config.to_dict())
    write_json(folder / GENERATION, GENERATION_DEFAULTS)
    write_json(folder / PROVENANCE, dict(provenance) | {WEIGHTS_SHA256: sha256_of(folder / WEIGHTS)})
    for path in (*folder.iterdir(), folder):
        force_to_disk(path)


def load_artifact(folder: Path, device: str | torch.device = "cpu") -> Artifact:
    """Read a model from `folder`.

    Raises:
        Failure: a file is missing or damaged, or weights, configuration and tokenizer do not belong together.
    """
    config = artifact_config(folder)
    provenance = _read_object(folder / PROVENANCE)
    weights = _read_weights(folder / WEIGHTS, provenance.get(WEIGHTS_SHA256), device)
    gpt = _fill(GPT.on_meta(config), weights, folder, device)
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
        Failure: the file is missing or damaged.
    """
    try:
        return GPTConfig.from_dict(_read_object(folder / CONFIG))
    except BadInput as error:
        raise Failure(f"{folder / CONFIG}: {error}") from None


def weights_digest(folder: Path) -> str:
    """Return the sha256 an artifact's provenance gives for its weights, without reading them.

    Raises:
        Failure: the provenance is missing or damaged.
    """
    return str(_read_object(folder / PROVENANCE).get(WEIGHTS_SHA256))


def _read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Failure(f"{path}: {_reason(error)}, so there is no complete artifact here") from None
    if not isinstance(value, dict):
        raise Failure(f"{path}: damaged, holds no JSON object")
    return value


def _read_weights(path: Path, digest: str | None, device: str | torch.device) -> dict[str, torch.Tensor]:
    """Return the tensors in a file that must have this sha256, where one is known."""
    try:
        is_whole = digest is None or sha256_of(path) == digest
        if is_whole:
            return load_file(path, device=str(device))
    except (OSError, SafetensorError) as error:
        raise Failure(f"{path}: {_reason(error)}, so there is no complete artifact here") from None
    raise Failure(f"{path}: damaged or altered; its sha256 is not the one in {PROVENANCE}")


def _reason(error: Exception) -> str:
    return "is missing" if isinstance(error, FileNotFoundError) else f"damaged ({str(error).splitlines()[0]})"


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


def find_artifact(source: str) -> Path:
    """Return the artifact folder named by `source`: a run's name, or a folder that is one or holds one.

    Raises:
        BadInput: neither a run nor a folder of this name has an artifact.
    """
    folders = _places(source)
    for folder in folders:
        if (folder / CONFIG).is_file():
            return folder
    raise BadInput(
        f"no artifact called {source!r} (looked in {folders[0]} and {folders[1]})\n"
        f"Train it first: python cli.py fit --config configs/{Path(source).name}.yaml"
    )


def newest_chat_artifact() -> Path:
    """Return the artifact of the chat stage that finished last.

    Raises:
        Failure: there is none.
    """
    finished: list[tuple[float, Path]] = []
    for provenance in run_dir("").glob(f"*/artifact/{PROVENANCE}"):
        with suppress(Failure):  # a damaged one is its own run's trouble
            facts = _read_object(provenance)
            if facts.get("is_chat"):
                finished.append((facts.get("time", 0.0), provenance.parent))
    if not finished:
        raise Failure(
            f"{run_dir('')}: no model that can chat is here\n"
            "Make a small one in minutes: python cli.py demo    or name one: --from RUN|DIR"
        )
    return max(finished)[1]


def generation_defaults(folder: Path) -> dict[str, Any]:
    """Return how an artifact's model is sampled unless told otherwise."""
    return _read_object(folder / GENERATION)


def is_artifact(source: str) -> bool:
    """Tell whether `find_artifact` would find one."""
    return any((folder / CONFIG).is_file() for folder in _places(source))


def _places(source: str) -> tuple[Path, ...]:
    return run_dir(source) / "artifact", Path(source), Path(source) / "artifact"
