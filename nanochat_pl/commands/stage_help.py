"""The help of a stage's verb, read from the sources of the classes it configures without importing any of them.

Importing Lightning takes seconds and its own help has five hundred lines. Names, defaults and explanations below are
those of the signatures and docstrings, so they are written down once.
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from docstring_parser import parse

from nanochat_pl.system.verb_options import DESCRIPTIONS, VERB_OPTIONS

PACKAGE = Path(__file__).resolve().parent.parent
WIDTH = 110


class Configured(NamedTuple):
    """A class whose parameters a stage's file sets, and where."""

    prefix: str
    file: str
    name: str


SECTIONS = (
    Configured("model.init_args", "training/language_model.py", "LanguageModel"),
    Configured("data.init_args", "data/pretrain.py", "PretrainData"),
    Configured("data.init_args", "data/chat.py", "ChatData"),
    Configured("checkpoint", "training/callbacks/step_checkpoint.py", "StepCheckpoint"),
    Configured("bits_per_byte", "training/callbacks/bits_per_byte.py", "ValidationBitsPerByte"),
    Configured("samples", "training/callbacks/samples.py", "Samples"),
    Configured("core_metric", "training/callbacks/core_metric.py", "CoreMetric"),
    Configured("chat_metric", "training/callbacks/chat_metric.py", "ChatMetric"),
    Configured("watchdog", "training/callbacks/watchdog.py", "Watchdog"),
)
TRAINER = {
    "devices": "how many devices of this machine; auto means all",
    "num_nodes": "machines of a cluster",
    "strategy": "how devices share the work: auto, ddp, …",
    "accelerator": "auto, cpu, cuda, …",
    "precision": "null chooses by the hardware: bf16-mixed or 32-true",
    "max_steps": "optimizer steps, before every other horizon",
    "log_every_n_steps": "optimizer steps between lines of numbers",
}


class Parameter(NamedTuple):
    """One parameter of a class: type and default as written ("" for none), and what its docstring says."""

    name: str
    default: str
    meaning: str
    annotation: str


def stage_help(verb: str) -> str:
    """Return the help of `fit`, `validate`, `predict` or `plan`."""
    lines = [
        f"usage: python cli.py {verb} --config FILE [--config OVERLAY …] [--KEY VALUE …]",
        "",
        DESCRIPTIONS[verb],
        "",
        *_rows(_verb_options(verb)),
    ]
    for section in SECTIONS:
        lines += ["", f"{section.prefix}: {summary(section)}", ""]
        lines += _rows((f"--{section.prefix}.{p.name}", p.default, p.meaning) for p in parameters(section))
    lines += ["", "trainer: Lightning's; these are the ones mostly used", ""]
    lines += _rows((f"--trainer.{name}", "", meaning) for name, meaning in TRAINER.items())
    return "\n".join([*lines, "", f"All options, the Trainer's too: python cli.py {verb} --help all"])


def parameters(section: Configured) -> list[Parameter]:
    """Return the parameters of a class in the order of its signature."""
    node = _class(section)
    init = next(item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__")
    arguments = [*init.args.args[1:], *init.args.kwonlyargs]
    written = [ast.unparse(default) for default in (*init.args.defaults, *init.args.kw_defaults) if default]
    defaults = [""] * (len(arguments) - len(written)) + written
    meanings = {found.arg_name: found.description for found in parse(ast.get_docstring(node) or "").params}
    return [
        Parameter(
            argument.arg,
            "null" if default == "None" else default,
            meanings[argument.arg] or "",
            ast.unparse(argument.annotation) if argument.annotation else "",
        )
        for argument, default in zip(arguments, defaults, strict=True)
    ]


def summary(section: Configured) -> str:
    """Return the first line of a class's docstring."""
    return (ast.get_docstring(_class(section)) or "").splitlines()[0]


def _class(section: Configured) -> ast.ClassDef:
    tree = ast.parse((PACKAGE / section.file).read_text(encoding="utf-8"))
    return next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == section.name)


def _verb_options(verb: str) -> Iterator[tuple[str, str, str]]:
    yield "--config", "", "a stage's file, then overlays; later ones win key by key"
    yield "--run", "", "name of the run; the stem of the first --config if left out"
    yield "--allow_external", "False", "accept class_path of any package"
    for option, settings in VERB_OPTIONS.get(verb, {}).items():
        yield option, str(settings.get("default", "")), settings["help"]


def _rows(rows: Iterator[tuple[str, str, str]]) -> Iterator[str]:
    """Yield options with their meaning beside or below them, and the default behind."""
    for option, default, meaning in rows:
        text = " ".join(meaning.split()) + (f" (default: {default})" if default else "")
        first, *rest = textwrap.wrap(text, WIDTH - 38)
        yield f"  {option:<35} {first}" if len(option) <= 35 else f"  {option}\n  {'':<35} {first}"
        yield from (f"  {'':<35} {line}" for line in rest)
