"""Models on disk, in two forms: the artifact, which is this project's own, and the folder of Hugging Face's
`NanoChatForCausalLM`. Either is read wherever a model is named by its folder.
"""

from nanochat_pl.artifacts.artifact import (
    Artifact,
    artifact_config,
    generation_defaults,
    load_artifact,
    save_artifact,
    save_huggingface,
    weights_digest,
)
from nanochat_pl.artifacts.find import find_artifact, is_artifact, newest_chat_artifact
from nanochat_pl.artifacts.huggingface import is_former_export
from nanochat_pl.artifacts.nanochat_checkpoint import load_nanochat_checkpoint

__all__ = [
    "Artifact",
    "artifact_config",
    "find_artifact",
    "generation_defaults",
    "is_artifact",
    "is_former_export",
    "load_artifact",
    "load_nanochat_checkpoint",
    "newest_chat_artifact",
    "save_artifact",
    "save_huggingface",
    "weights_digest",
]
