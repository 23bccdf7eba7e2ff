"""`import`: a checkpoint of nanochat becomes an artifact."""

from __future__ import annotations

from nanochat_pl.system.errors import BadInput, Failure
from nanochat_pl.system.paths import user_path


def import_checkpoint(from_: str, tokenizer: str, out: str, step: int | None = None) -> None:
    """Convert a checkpoint of nanochat into an artifact, for `chat --from`, `init_from` and `export`.

    Args:
        from_: folder with model_<step>.pt and meta_<step>.json.
        tokenizer: the tokenizer it was trained with: one by name or folder, or a file of tiktoken ranks.
        out: the artifact's folder; must not exist, or be empty.
        step: which checkpoint; null means the last.
    """
    source, folder = user_path(from_), user_path(out).resolve()
    if not source.is_dir():
        raise BadInput(f"--from {from_}: there is no such folder")
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise BadInput(f"--out {out}: is there already; give a new folder")

    from nanochat_pl import __version__
    from nanochat_pl.artifacts import load_nanochat_checkpoint, save_artifact

    found = _tokenizer(tokenizer)
    gpt, at = load_nanochat_checkpoint(source, step)
    if found.vocab_size != gpt.config.vocab_size:
        raise BadInput(
            f"--tokenizer {tokenizer}: has {found.vocab_size} ids, but the model in {from_} {gpt.config.vocab_size}"
        )
    facts = {
        "run": source.resolve().name,
        "step": at,
        "imported": "a checkpoint of nanochat",
        "tokenizer": found.fingerprint,
        "versions": {"nanochat_pl": __version__},
    }
    save_artifact(folder, gpt, found, facts, elsewhere="--out DIR")
    print(f"step {at} of {source}, {gpt.config.n_layer} layers -> {folder}")


def _tokenizer(named: str):
    """Return a tokenizer given by its name, its folder or its ranks.

    Raises:
        BadInput: there is none, or it is a pickle.
        Failure: it is damaged.
    """
    from nanochat_pl.commands.tokenizer import tokenizer_folder
    from nanochat_pl.tokenizer.encoding import Tokenizer
    from nanochat_pl.tokenizer.interchange import from_ranks_file
    from nanochat_pl.tokenizer.train import SPLIT_PATTERN

    path = user_path(named)
    if path.suffix == ".pkl" or (path / "tokenizer.pkl").is_file():
        raise BadInput(
            f"--tokenizer {named}: a pickle can run any program, so it is never opened\n"
            "Turn it into ranks where you trust it: docs/how-to/hugging-face.md, 'From nanochat'."
        )
    if not path.is_file():
        return Tokenizer.load(tokenizer_folder(named))
    try:
        return Tokenizer.from_ranks(from_ranks_file(path.read_text(encoding="ascii")), SPLIT_PATTERN)
    except (OSError, ValueError) as error:
        raise Failure(f"{path}: no file of tiktoken ranks: {error}") from None
