"""A checkpoint of nanochat (`model_<step>.pt` beside `meta_<step>.json`), read as this project's weights.

Only the classic network of nanochat is this project's: what it added since January 2026 (gated residuals, value
embeddings, smearing, sliding windows) cannot be expressed, and such a checkpoint is refused by what it contains.
The tokenizer beside it is a pickle and is never opened.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch

from nanochat_pl.artifacts.contents import read_object
from nanochat_pl.model.config import GPTConfig
from nanochat_pl.model.gpt import GPT
from nanochat_pl.system.errors import BadInput, Failure


class NanochatCheckpoint(NamedTuple):
    """What a checkpoint holds.

    Attributes:
        gpt: the model, fp32 on the CPU.
        step: optimizer steps taken.
    """

    gpt: GPT
    step: int


def load_nanochat_checkpoint(folder: Path, step: int | None = None) -> NanochatCheckpoint:
    """Read one checkpoint of a folder; nothing in it is executed.

    Args:
        folder: where nanochat saved its checkpoints.
        step: which one; None means the last.

    Raises:
        BadInput: there is none, or it is of another network than this project's.
        Failure: a file is missing or damaged.
    """
    step = _chosen_step(folder, step)
    config = _config(folder / f"meta_{step:06d}.json")
    path = folder / f"model_{step:06d}.pt"
    weights = {_our_name(name): value for name, value in _state_dict(path).items()}
    gpt = GPT.on_meta(config)
    if further := sorted(weights.keys() - gpt.state_dict().keys()):
        raise _other_network(path, further[0])
    for name in ("wte.weight", "lm_head.weight"):  # their rows beyond the vocabulary are padding, never used
        if name in weights:
            weights[name] = weights[name][: config.vocab_size]
    gpt.to_empty(device="cpu")
    gpt.init_buffers()
    try:
        gpt.load_state_dict(weights)  # copies, and bf16 becomes fp32 without loss
    except RuntimeError as error:
        raise Failure(
            f"{path}: the weights do not fit its meta file: {str(error).splitlines()[1].strip()}"
        ) from None
    return NanochatCheckpoint(gpt.eval(), step)


def _chosen_step(folder: Path, step: int | None) -> int:
    found = (re.fullmatch(r"model_(\d+)\.pt", path.name) for path in folder.glob("model_*.pt"))
    steps = sorted(int(match[1]) for match in found if match)
    if not steps:
        raise BadInput(f"{folder}: no checkpoint of nanochat here, no file model_<step>.pt")
    if step is None:
        return steps[-1]
    if step not in steps:
        raise BadInput(f"{folder}: no checkpoint of step {step}; there are {', '.join(map(str, steps))}")
    return step


def _config(path: Path) -> GPTConfig:
    shape = read_object(path).get("model_config")
    if not isinstance(shape, dict):
        raise Failure(f"{path}: damaged, has no model_config")
    shape = dict(shape)
    if set(str(shape.pop("window_pattern", "L"))) != {"L"}:
        raise _other_network(path, "window_pattern")
    try:
        return GPTConfig.from_dict(shape)
    except BadInput as error:
        raise Failure(f"{path}: {error}") from None


def _other_network(path: Path, what: str) -> BadInput:
    return BadInput(
        f"{path}: has {what}, which only newer networks of nanochat have\n"
        "Only the classic network (October 2025 to January 2026) can be imported."
    )


def _state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a file; a pickle that would do anything else is refused unread."""
    try:
        value: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except OSError as error:
        raise Failure(f"{path}: cannot be read: {error.strerror or error}") from None
    except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        if isinstance(error, pickle.UnpicklingError):
            reason = "it holds more than tensors, and was not run"
        raise Failure(f"{path}: no state dict of tensors ({reason})") from None
    if not isinstance(value, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in value.values()):
        raise Failure(f"{path}: no state dict of tensors (it holds a {type(value).__name__})")
    return value


def _our_name(name: str) -> str:
    """Return the name in `GPT.state_dict` of a tensor, saved from a compiled model or not."""
    plain = name.removeprefix("_orig_mod.").removeprefix("transformer.")
    return re.sub(r"^h\.", "blocks.", plain)
