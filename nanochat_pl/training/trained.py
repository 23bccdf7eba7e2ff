"""What a run has learned so far: the checkpoint it goes on from, and the weights that other verbs use."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from nanochat_pl.artifacts import Artifact, load_artifact, weights_digest
from nanochat_pl.model.gpt import GPT
from nanochat_pl.system.errors import BadInput, Failure
from nanochat_pl.system.receipts import Receipt, newest_valid, receipts
from nanochat_pl.training.checkpoint_io import refuse_other_model, refuse_other_start
from nanochat_pl.training.lightning_cli import StageCLI
from nanochat_pl.training.readiness import say


def resume_point(stage: StageCLI) -> Receipt | None:
    """Return the checkpoint to continue from, None for a new run."""
    found = newest_valid(stage.run_dir / "checkpoints")
    for sentence in found.rejected:
        say(f"warning: {sentence}; using an older checkpoint")
    if found.receipt:
        refuse_other_start(found.receipt, stage.model.start_digest)
        refuse_other_model(found.receipt, stage.model.gpt_config(stage.datamodule.sequence_len).to_dict())
    elif any(file for file in found.rejected if "finished" not in file):
        raise Failure(
            f"{stage.run_dir / 'checkpoints'}: no checkpoint is intact; nothing was overwritten\n"
            "Add --fresh to start over; the old run is moved aside, not deleted."
        )
    return found.receipt


class Loaded(NamedTuple):
    """Weights a stage was given.

    Attributes:
        step: optimizer steps they have seen.
        digest: sha256 (hex) of the file they came from.
    """

    step: int
    digest: str


def load_model(stage: StageCLI) -> Loaded:
    """Give the stage its trained weights: the artifact's, or a newer checkpoint's.

    Raises:
        Failure: there are none, or they are damaged.
    """
    artifact = _artifact_of(stage.run_dir)
    newest = next(iter(receipts(stage.run_dir / "checkpoints")), None)
    if artifact and (newest is None or newest.step <= artifact.provenance["step"]):
        _require_same_kind(stage, artifact)
        _require_same_tokenizer(stage, artifact)
        stage.model.gpt = artifact.gpt
        return Loaded(artifact.provenance["step"], weights_digest(artifact.folder))
    if newest is None:
        raise Failure(
            f"{stage.run_dir}: no trained model here\n"
            f"Train it first: python cli.py fit --config {stage.config.config[0]}"
        )
    return _load_checkpoint(stage)


def _load_checkpoint(stage: StageCLI) -> Loaded:
    receipt = resume_point(stage)
    if receipt is None:
        raise Failure(f"{stage.run_dir / 'checkpoints'}: no checkpoint is intact")
    weights = torch.load(receipt.path, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
    gpt = GPT.materialized(stage.model.gpt_config(stage.datamodule.sequence_len), device="cpu")
    gpt.load_state_dict({name.removeprefix("gpt."): value for name, value in weights.items()})
    stage.model.gpt = gpt.eval()
    return Loaded(receipt.step, receipt.sha256)


def _artifact_of(run: Path) -> Artifact | None:
    folder = run / "artifact"
    return load_artifact(folder) if folder.exists() else None


def _require_same_kind(stage: StageCLI, artifact: Artifact) -> None:
    is_chat = artifact.provenance.get("is_chat")
    if is_chat not in (None, stage.datamodule.is_chat):
        wanted, found = ("base", "chat") if is_chat else ("chat", "base")
        raise BadInput(
            f"{stage.config.config[0]} is a {wanted} stage, but {stage.run} is a {found} model\n"
            f"Give the YAML that trained it: --config {stage.run_dir / 'config.yaml'}"
        )


def _require_same_tokenizer(stage: StageCLI, artifact: Artifact) -> None:
    data = stage.datamodule
    if artifact.tokenizer.fingerprint != data.tokenizer_on_disk.fingerprint:
        raise Failure(
            f"{data.tokenizer_folder}: not the tokenizer {stage.run} was trained with; it was replaced since\n"
            f"Use the run's own: --data.init_args.tokenizer {artifact.folder}"
        )
