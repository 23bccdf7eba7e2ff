"""Likelihoods under a model of Hugging Face's, from a folder on disk, with its own tokenizer; for comparison.

Nothing is downloaded, no code of the folder is run and no pickle is opened. Rows are put before BOS as nanochat does.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nanochat_pl.evaluation.likelihood import (
    BATCH_TOKENS,
    BATCH_TOKENS_ELSEWHERE,
    NOTHING_SCORED,
    Likelihood,
    logits_chunk,
    read_logits,
)
from nanochat_pl.evaluation.row_plan import Continuation, Group, plan_batches
from nanochat_pl.evaluation.shared_prefix import NO_BRANCH, pack
from nanochat_pl.system.errors import BadInput, Failure

BOS_NAMES = ("<|bos|>", "<|endoftext|>")  # nanochat's own, GPT-2's
TOKENIZER_SUFFIXES = (".json", ".txt", ".model", ".tiktoken", ".jinja")
NO_LIMIT = sys.maxsize


class HFScorer:
    """Likelihoods under a causal language model of `transformers`.

    Args:
        folder: weights as safetensors, configuration and tokenizer.
        device: where to compute; in bf16 on CUDA, in fp32 elsewhere. Logits are read in fp32 always.
        batch_tokens: positions read at once, padding included; None chooses by device. Bounds memory.

    Attributes:
        context: ids a row may have, from the configuration; without limit where it names none.
        fingerprint: of the tokenizer's files and the library.

    Raises:
        BadInput: there is no such folder.
        Failure: `transformers` is not installed, or cannot read what is in the folder.
    """

    def __init__(
        self, folder: Path, device: str | torch.device = "cpu", *, batch_tokens: int | None = None
    ) -> None:
        if not (folder / "config.json").is_file():
            raise BadInput(f"{folder}: no model of Hugging Face's is here; give a folder with a config.json")
        self.model, self._tokenizer = _load(folder)
        self.model.to(device).eval().requires_grad_(False)
        self.device = torch.device(device)
        self.batch_tokens = batch_tokens or BATCH_TOKENS.get(self.device.type, BATCH_TOKENS_ELSEWHERE)
        self.context = _context(self.model.config)
        self.fingerprint = _fingerprint(folder)
        self.bos_id = _bos_id(self._tokenizer, folder)
        self._keeps_logits = "logits_to_keep" in inspect.signature(self.model.forward).parameters

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the ids of each text, BOS before it; names of special tokens in it are text like any other."""
        encoded = self._tokenizer(
            list(texts),
            add_special_tokens=False,
            split_special_tokens=True,
            verbose=False,  # of texts beyond the model's length, which are cut before they are scored
        )
        return [np.array([self.bos_id, *ids], np.uint32) for ids in encoded["input_ids"]]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""
        return self._tokenizer.decode(ids, clean_up_tokenization_spaces=False)

    @torch.inference_mode()
    def score(self, rows: Sequence[Continuation]) -> list[Likelihood]:
        """Return the likelihood of each continuation; rows of at most `context` ids."""
        results = [NOTHING_SCORED] * len(rows)
        for batch in plan_batches(rows, 0, self.batch_tokens):
            logits = self._logits(batch)  # (N, V)
            chunks = (part.float() for part in logits.split(logits_chunk(logits.size(-1))))
            for number, likelihood in read_logits(batch, rows, chunks):
                results[number] = likelihood
        return results

    def _logits(self, batch: Sequence[Group]) -> Tensor:
        """Return the logits that are needed, row after row, (N, V)."""
        packed = pack(batch)
        ids, real, rows, columns = (
            torch.from_numpy(part).to(self.device)
            for part in (packed.ids, packed.branches != NO_BRANCH, packed.rows, packed.columns)
        )
        kept = ids.size(1) - int(packed.columns.min())  # from the first needed column on
        arguments = {"logits_to_keep": kept} if self._keeps_logits else {}
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            logits = self.model(
                input_ids=ids, attention_mask=real.long(), use_cache=False, **arguments
            ).logits  # (G, kept or T, V)
        return logits[rows, columns - (ids.size(1) - logits.size(1))]


def _load(folder: Path) -> tuple[Any, Any]:
    """Return model and tokenizer in a folder."""
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError:
        raise Failure(
            "models of Hugging Face's need the package transformers, which is not installed\n"
            "install it: python -m pip install 'transformers>=5,<6'"
        ) from None
    safely = {"local_files_only": True, "trust_remote_code": False}
    try:
        with _without_progress_bars():
            tokenizer = AutoTokenizer.from_pretrained(folder, **safely)
            model = AutoModelForCausalLM.from_pretrained(
                folder, **safely, use_safetensors=True, dtype=torch.float32
            )
    except Exception as error:  # whatever is wrong with files of others, the library says it in its own way
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise Failure(
            f"{folder}: transformers cannot read this model ({reason})\n"
            "it takes weights as safetensors, config.json and tokenizer files of an architecture it knows itself"
        ) from error
    return model, tokenizer


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    """Let transformers draw none for a while; its warnings, as of weights that are missing, stay."""
    from transformers.utils import logging

    were_shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if were_shown:
            logging.enable_progress_bar()


def _context(config: Any) -> int:
    return getattr(config.get_text_config(), "max_position_embeddings", None) or NO_LIMIT


def _bos_id(tokenizer: Any, folder: Path) -> int:
    """Return the id that begins a row: `<|bos|>` if it knows it, else `<|endoftext|>`, else its own BOS.

    Source:
        nanochat's `HuggingFaceTokenizer` (the first two).
    """
    vocabulary = tokenizer.get_vocab()
    for name in (*BOS_NAMES, tokenizer.bos_token):
        if name in vocabulary:
            return vocabulary[name]
    raise Failure(f"{folder}: its tokenizer has neither {' nor '.join(BOS_NAMES)} nor a bos_token")


def _fingerprint(folder: Path) -> str:
    """Return a sha256 (hex) over the small files of a folder and the library's version."""
    import transformers

    digest = sha256(transformers.__version__.encode())
    for path in sorted(folder.iterdir()):
        if path.suffix in TOKENIZER_SUFFIXES:
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
