"""`plan` the short way: a stage's numbers without Lightning, whose import takes longer than the plan.

    YAML + options ─► settings, defaults from the sources ─► make_plan

The stage's own parser (`training/lightning_cli.py`) stays the judge of what a command line means: whatever is not
plainly understood here, every mistake among it, is handed to it. A test holds the two to the same plans.
"""

from __future__ import annotations

import ast
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from nanochat_pl.commands.stage_help import SECTIONS, parameters
from nanochat_pl.model.config import GPTConfig
from nanochat_pl.system.errors import BadInput
from nanochat_pl.system.hardware import Gpu, choose_precision, devices_in_all, gpu_to_plan_for
from nanochat_pl.training.plan import Plan, make_plan

CLASSES = {"model": ("LanguageModel",), "data": ("PretrainData", "ChatData")}
PACKAGES = {"model": "nanochat_pl.training.", "data": "nanochat_pl.data."}
KINDS: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}
FLAGS = ("--json",)
OWN_OPTIONS = ("devices", "run")


class Request(NamedTuple):
    """What a command line asks for.

    Attributes:
        stage: the settings of all files and options, merged.
        devices: as asked; None means this machine's.
        as_json: whether to print JSON.
    """

    stage: dict[str, Any]
    devices: int | None
    as_json: bool


class Machine(NamedTuple):
    """What a plan is made for: ranks, Lightning's word for the precision, and the GPU, None where unknown."""

    world_size: int
    precision: str
    gpu: Gpu | None


ANY_MACHINE = Machine(1, "32-true", None)  # where only what is the same everywhere is asked for


class _NotPlain(Exception):
    """The short way does not understand this; the stage's parser will."""


def plan(args: list[str]) -> int:
    """Print the plan as a table or as JSON."""
    try:
        request = _request(args)
        made = _planned(request)
    except _NotPlain:
        from nanochat_pl.training.verbs import plan as plan_by_the_stages_parser

        return plan_by_the_stages_parser(args)
    print(json.dumps(made.to_dict(), indent=1) if request.as_json else made.table())
    return 0


def planned_shards(config: str) -> int:
    """Return how many shards of its corpus a base stage needs, the one of validation among them.

    Raises:
        BadInput: that does not follow from the stage's file alone.
    """
    try:
        return _planned_on(ANY_MACHINE, _request(["--config", config]).stage).shards
    except _NotPlain:
        raise BadInput(
            f"--for {config}: its shards cannot be counted without building it\nSay how many: --shards N"
        ) from None


def _planned(request: Request) -> Plan:
    return _planned_on(_machine_of(request), request.stage)


def _planned_on(machine: Machine, stage: dict[str, Any]) -> Plan:
    """Derive every number, as `StageCLI.make_plan` does."""
    data_class = _class_of(stage, "data")
    model = _with_defaults(stage, "model.init_args", "LanguageModel")
    data = _with_defaults(stage, "data.init_args", data_class)
    trainer = _trainer_of(stage)
    max_steps = trainer["max_steps"]
    is_chat = data_class == "ChatData"
    is_open = max_steps < 0 and model["target_flops"] is None
    if model["init_from"] is not None or (is_chat and is_open) or not model["lr_fraction"] > 0:
        raise _NotPlain  # an artifact's shape, or the rows of the data, are needed
    if not isinstance(trainer["strategy"], str) or "." in trainer["strategy"]:
        raise _NotPlain  # a class
    shape = ("depth", "vocab_size", "aspect_ratio", "head_dim", "n_kv_head")
    config = GPTConfig.from_depth(**{key: model[key] for key in shape}, sequence_len=data["sequence_len"])
    rates = ("embedding_lr", "unembedding_lr", "matrix_lr")
    return make_plan(
        config,
        sequence_len=data["sequence_len"],
        device_batch_rows=data["device_batch_rows"],
        batch_tokens=data["batch_tokens"],
        world_size=machine.world_size,
        max_steps=max_steps if max_steps >= 0 else None,
        target_flops=model["target_flops"],
        tokens_per_parameter=model["tokens_per_parameter"],
        reads_corpus=not is_chat,
        **{key: model["lr_fraction"] * model[key] for key in rates},
        precision=machine.precision,
        strategy=trainer["strategy"],
        gpu=machine.gpu,
    )


def _machine_of(request: Request) -> Machine:
    """Return what a request is planned for: this machine, where it does not say otherwise."""
    trainer = _trainer_of(request.stage)
    accelerator = trainer["accelerator"]
    return Machine(
        request.devices or devices_in_all(trainer["devices"], trainer["num_nodes"], accelerator),
        str(trainer["precision"] or choose_precision(accelerator).precision),
        gpu_to_plan_for(accelerator),
    )


def _trainer_of(stage: dict[str, Any]) -> dict[str, Any]:
    named = {"accelerator": "auto", "devices": "auto", "strategy": "auto"}
    return named | {"num_nodes": 1, "precision": None, "max_steps": -1} | stage.get("trainer", {})


def _request(args: list[str]) -> Request:
    """Merge the files and options of a command line, later ones over earlier ones; files come before options."""
    files: dict[str, Any] = {}
    options: dict[str, Any] = {}
    as_json = False
    words = iter(args)
    for word in words:
        if word in FLAGS:
            as_json = True
            continue
        name, has_value, value = word.partition("=")
        if not name.startswith("--"):
            raise _NotPlain
        value = value if has_value else next(words, None)
        if value is None:
            raise _NotPlain
        if name == "--config":
            _merge(files, _read(value))
        else:
            _merge(options, _nested(name.removeprefix("--").split("."), _parsed(value)))
    if not files:
        raise _NotPlain
    own = {key: options.pop(key, None) for key in OWN_OPTIONS}
    if own["devices"] is not None and not (type(own["devices"]) is int and own["devices"] > 0):
        raise _NotPlain
    _merge(files, options)
    _require_known(files)
    return Request(files, own["devices"], as_json)


def _require_known(stage: dict[str, Any]) -> None:
    """Go the long way if a key is unknown or a value not of its type."""
    known = _known(_class_of(stage, "data"))
    for key, value in _leaves(stage):
        if key not in known or not _fits(value, known[key]):
            raise _NotPlain


def _known(data_class: str) -> dict[str, str]:
    """Return every key a stage's file may have, and its type as written ("" for any)."""
    known = dict.fromkeys(("model.class_path", "data.class_path", "seed_everything", "run"), "")
    for section in SECTIONS:
        if section.prefix != "data.init_args" or section.name == data_class:
            known |= {f"{section.prefix}.{p.name}": p.annotation for p in parameters(section)}
    return known | {f"trainer.{name}": "" for name in _trainer_parameters()} | {"trainer.max_steps": "int"}


def _trainer_parameters() -> list[str]:
    """Return the names Lightning's Trainer takes, read from its source."""
    package = importlib.util.find_spec("lightning")
    if package is None or not package.submodule_search_locations:
        raise _NotPlain
    source = Path(package.submodule_search_locations[0]) / "pytorch" / "trainer" / "trainer.py"
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef) and node.name == "Trainer":
            init = next(n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__")
            return [argument.arg for argument in (*init.args.args[1:], *init.args.kwonlyargs)]
    raise _NotPlain


def _fits(value: Any, annotation: str) -> bool:
    """Tell whether a value is of a type this module knows; others are not looked at."""
    kinds = [kind.strip() for kind in annotation.split("|")]
    if value is None:
        return "None" in kinds or annotation == ""
    if any(kind not in KINDS and kind != "None" for kind in kinds):
        return True
    return any(type(value) in KINDS[kind] for kind in kinds if kind != "None")


def _class_of(stage: dict[str, Any], section: str) -> str:
    """Return the name of the class a section asks for, one of this package's."""
    path = (stage.get(section) or {}).get("class_path")
    for name in CLASSES[section]:
        if path == PACKAGES[section] + name:
            return name
    raise _NotPlain


def _with_defaults(stage: dict[str, Any], prefix: str, name: str) -> dict[str, Any]:
    """Return the settings of a class, given ones over those of its signature."""
    _class_of(stage, prefix.split(".")[0])
    section = next(section for section in SECTIONS if section.prefix == prefix and section.name == name)
    written = {p.name: p.default for p in parameters(section) if p.default}
    defaults = {key: None if text == "null" else _evaluated(text) for key, text in written.items()}
    return defaults | (stage[prefix.split(".")[0]].get("init_args") or {})


def _evaluated(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except ValueError:
        return text


def _merge(target: dict[str, Any], source: dict[str, Any]) -> None:
    """Put `source` over `target`, key by key; lists and scalars are replaced."""
    for key, value in source.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        else:
            target[key] = value


def _nested(keys: list[str], value: Any) -> dict[str, Any]:
    for key in reversed(keys):
        value = {key: value}
    return value


def _leaves(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys with their values; a list is a value."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _read(path: str) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeError, yaml.YAMLError):
        raise _NotPlain from None
    if not isinstance(settings, dict):
        raise _NotPlain
    return settings


def _parsed(value: str) -> Any:
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        raise _NotPlain from None
