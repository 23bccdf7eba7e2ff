"""The quick help says what the classes themselves say."""

from __future__ import annotations

import inspect

import pytest

from nanochat_pl.commands.stage_help import SECTIONS, TRAINER, parameters, stage_help
from nanochat_pl.data import ChatData, PretrainData
from nanochat_pl.training.callbacks.bits_per_byte import ValidationBitsPerByte
from nanochat_pl.training.callbacks.chat_metric import ChatMetric
from nanochat_pl.training.callbacks.core_metric import CoreMetric
from nanochat_pl.training.callbacks.samples import Samples
from nanochat_pl.training.callbacks.step_checkpoint import StepCheckpoint
from nanochat_pl.training.callbacks.watchdog import Watchdog
from nanochat_pl.training.language_model import LanguageModel
from nanochat_pl.training.lightning_cli import Trainer

CLASSES = [
    LanguageModel,
    PretrainData,
    ChatData,
    StepCheckpoint,
    ValidationBitsPerByte,
    Samples,
    CoreMetric,
    ChatMetric,
    Watchdog,
]


@pytest.mark.parametrize(
    ("section", "cls"), [*zip(SECTIONS, CLASSES, strict=True)], ids=lambda value: getattr(value, "prefix", "")
)
def test_every_parameter_is_explained_with_its_default(section, cls):
    signature = list(inspect.signature(cls.__init__).parameters.values())[1:]
    found = parameters(section)
    assert [p.name for p in found] == [p.name for p in signature]
    for parameter, real in zip(found, signature, strict=True):
        assert parameter.meaning
        assert real.default == _value(parameter.default)


def _value(default: str):
    """What a default as written stands for."""
    if default == "":
        return inspect.Parameter.empty
    return None if default == "null" else eval(default)


def test_trainer_options_exist():
    assert set(TRAINER) <= set(inspect.signature(Trainer.__init__).parameters)


@pytest.mark.parametrize("verb", ["fit", "validate", "predict", "plan"])
def test_help_shows_every_option(verb):
    text = stage_help(verb)
    assert "--model.init_args.depth" in text
    assert ("--fresh" in text) == (verb == "fit")
    assert max(map(len, text.splitlines())) <= 110
