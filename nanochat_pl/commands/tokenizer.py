"""`tokenizer train | show`: a corpus becomes a tokenizer, and a conversation its tokens. What training means stands
in `tokenizer/train.py`; nothing here imports torch.
"""

from __future__ import annotations

import os
import sys
import time
from difflib import get_close_matches
from pathlib import Path

from nanochat_pl.system.assets import CORPORA
from nanochat_pl.system.errors import BadInput, Failure
from nanochat_pl.system.paths import base_dir, corpus_dir, is_plain_name, run_dir, tokenizer_dir, user_path

EXAMPLE_STAGE = "configs/d20_base.yaml"


def train(
    corpus: str, vocab_size: int = 65536, max_chars: int = 2_000_000_000, name: str | None = None
) -> None:
    """Train a byte-level BPE on the training split of a corpus.

    Args:
        corpus: a corpus by name (`data list` shows them), or a folder of text files.
        vocab_size: number of ids, the nine special tokens included.
        max_chars: stop reading after this many characters.
        name: what to call the tokenizer; the corpus's name if not given. One of that name is replaced.
    """
    root = _corpus_folder(corpus)
    folder = tokenizer_dir(_plain_name(name) if name is not None else root.absolute().name)

    from nanochat_pl.system.corpus import iter_texts, open_corpus
    from nanochat_pl.tokenizer.train import train_tokenizer

    opened = open_corpus(root)
    for note in opened.notes:
        print(f"note: {note}", file=sys.stderr)
    start = time.perf_counter()
    tokenizer = train_tokenizer(iter_texts(opened.train), vocab_size, max_chars=max_chars)
    tokenizer.trained_on |= {"corpus": str(root), "corpus_fingerprint": opened.fingerprint}
    tokenizer.save(folder)
    seconds = time.perf_counter() - start
    read = tokenizer.trained_on
    print(
        f"{tokenizer.vocab_size:,} ids from {read['characters']:,} characters of {read['documents']:,} documents "
        f"in {seconds:.1f} s -> {folder}"
    )


def show(
    file: str,
    tokenizer: str | None = None,
    conversations: int = 3,
    max_tokens: int | None = None,
    ids: bool = False,
) -> None:
    """Print conversations as tokens: what a model learns in green, what it only reads in red.

    Args:
        file: JSON lines with a conversation each, a list of messages or an object with a list `messages`.
        tokenizer: a tokenizer or a run by its name, or the folder of one; null means the only tokenizer here.
        conversations: how many.
        max_tokens: what a row can hold; null means all.
        ids: write each token's id behind it.
    """
    from nanochat_pl.tasks.jsonl import CustomJSON
    from nanochat_pl.tokenizer.conversation import render
    from nanochat_pl.tokenizer.encoding import Tokenizer
    from nanochat_pl.tokenizer.view import view

    if conversations < 1:
        raise BadInput(f"--conversations={conversations}: give 1 or more")
    loaded = Tokenizer.load(tokenizer_folder(tokenizer))
    color = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for conversation in CustomJSON(file, stop=conversations):
        rendered = render(loaded, conversation, max_tokens)
        print(view(loaded, rendered, color=color, with_ids=ids))
        cut = ", cut off here" if rendered.truncated else ""
        print(f"  {len(rendered.ids)} tokens, {sum(rendered.mask)} learned{cut}\n")


def tokenizer_folder(name: str | None) -> Path:
    """Return the folder of a tokenizer given by its name, a run's, or its path.

    Raises:
        BadInput: there is none, or several and no name.
    """
    here = sorted(path.parent.name for path in tokenizer_dir("").glob("*/meta.json"))
    if name is None and len(here) == 1:
        name = here[0]
    folders = [tokenizer_dir(name), run_dir(name) / "artifact", user_path(name)] if name else []
    for folder in folders:
        if (folder / "meta.json").is_file() or (folder / "tokenizer.json").is_file():
            return folder
    wrong = (
        f"--tokenizer {name}: no tokenizer and no finished run of this name"
        if name
        else "--tokenizer is missing"
    )
    raise BadInput(f"{wrong}\nChoose one of: {', '.join(here) or 'none is here; train one first'}")


def _corpus_folder(corpus: str) -> Path:
    """Return the folder of a corpus given by its name or by its path.

    Raises:
        BadInput: no corpus has this name and there is no such folder.
        Failure: the corpus is known but not here.
    """
    is_name = is_plain_name(corpus)
    if is_name and corpus_dir(corpus).is_dir():
        return corpus_dir(corpus)
    if corpus and user_path(corpus).is_dir():
        return user_path(corpus)
    if corpus in CORPORA:
        obtain = CORPORA[corpus].obtain.format(config=EXAMPLE_STAGE)
        raise Failure(f"{corpus_dir(corpus)}: the corpus {corpus} is not here\nGet it: {obtain}")
    if not is_name:
        raise BadInput(f"--corpus {corpus}: there is no such folder")
    here = base_dir() / "data"
    known = {*CORPORA, *(path.name for path in here.glob("*") if path.is_dir())}
    near = get_close_matches(corpus, known, n=1)
    hint = (
        f"Did you mean {near[0]}?"
        if near
        else f"Choose one of: {', '.join(sorted(known))}, or give a folder."
    )
    raise BadInput(f"--corpus {corpus}: no corpus of this name, nor such a folder\n{hint}")


def _plain_name(name: str) -> str:
    """Return the name of a folder, or refuse one that would lead elsewhere.

    Raises:
        BadInput: it is empty or contains a separator.
    """
    if not is_plain_name(name):
        raise BadInput(
            f"--name {name!r} must be one plain name; it becomes a folder below {tokenizer_dir('')}"
        )
    return name
