"""A stage made ready for a verb: built from its files, its data and tokenizer found, Lightning's chatter silenced."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from lightning.pytorch.utilities import rank_zero_only

from nanochat_pl.data.stage_data import StageData
from nanochat_pl.system.errors import Failure
from nanochat_pl.training.language_model import require_same_vocabulary
from nanochat_pl.training.lightning_cli import StageCLI


def built(verb: str, args: list[str]) -> StageCLI:
    """Build a stage and find what it starts from; nothing is read of its data."""
    quieten()
    stage = StageCLI(verb, args)
    stage.find_start()
    stage.datamodule.vocab_size = stage.model.vocab_size
    stage.model.gpt_config(stage.datamodule.sequence_len)
    return stage


def ready(verb: str, args: list[str]) -> StageCLI:
    """Build a stage and make sure its data and its tokenizer are here and fit the model."""
    stage = built(verb, args)
    data = stage.datamodule
    with completing(data):
        notes = data.preflight()
    for note in notes:
        say(note)
    require_same_vocabulary(stage.model, data.tokenizer_on_disk.vocab_size, str(data.tokenizer_folder))
    return stage


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C within the Trainer end a verb as the interruption it is; Lightning turns it into `exit(1)`."""
    try:
        yield
    except SystemExit as leaving:
        if isinstance(leaving.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise


@contextmanager
def completing(data: StageData) -> Iterator[None]:
    """Let a failure about data name the command that mends it, with the stage's own file."""
    try:
        yield
    except Failure as failure:
        meaning = data.completed(failure)
        if meaning is failure:
            raise
        raise meaning from failure


def quieten() -> None:
    """Silence what Lightning says of choices made here on purpose."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*srun.*command is available.*",
        ".*LeafSpec.*",
        ".*Trying to infer the `batch_size`.*",
        ".*args parameter is intended to run from within Python.*",
        ".*`isinstance\\(treespec, LeafSpec\\)`.*",
    ):
        warnings.filterwarnings("ignore", message)


def say(text: str) -> None:
    """Tell the person watching, once: on stderr, from rank 0."""
    if rank_zero_only.rank == 0:
        print(text, file=sys.stderr, flush=True)
