"""`export`: a model leaves for other programs, as a folder they read."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from nanochat_pl.system.errors import BadInput
from nanochat_pl.system.paths import user_path

FORMATS = {"hf": "Hugging Face's NanoChatForCausalLM"}


def export(from_: str, out: str, format: str = "hf") -> None:
    """Write a model as a folder that other programs read.

    Args:
        from_: run or folder of the model.
        out: the folder to write; must not exist, be empty, or hold a former export and nothing else.
        format: hf, for AutoModelForCausalLM and AutoTokenizer of transformers 5 without remote code.
    """
    _require_format(format)

    from nanochat_pl.artifacts import find_artifact, load_artifact, save_huggingface

    source, folder = find_artifact(from_), user_path(out).resolve()
    _require_free(folder, out)
    artifact = load_artifact(source)
    save_huggingface(folder, artifact.gpt, artifact.tokenizer, artifact.provenance, elsewhere="--out DIR")
    print(f"{FORMATS[format]}, {artifact.gpt.config.n_layer} layers, in fp32 -> {folder}")


def _require_format(format: str) -> None:
    if format not in FORMATS:
        near = get_close_matches(format.lower(), [*FORMATS, "huggingface", "hugging_face"], n=1)
        known = "; ".join(f"{name} ({what})" for name, what in FORMATS.items())
        raise BadInput(
            f"--format {format}: no such format; known: {known}"
            + ("\nDid you mean --format hf?" if near else "")
        )


def _require_free(folder: Path, out: str) -> None:
    """Refuse to replace anything but a former export.

    Raises:
        BadInput: something else is there.
    """
    from nanochat_pl.artifacts import is_former_export

    if folder.exists() and not folder.is_dir():
        raise BadInput(f"--out {out}: is a file; give a folder")
    if folder.is_dir() and any(folder.iterdir()) and not is_former_export(folder):
        raise BadInput(
            f"--out {out}: holds other things than an export, or one that was changed; nothing was replaced\n"
            "Give a new folder, or remove this one yourself."
        )
