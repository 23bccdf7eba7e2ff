"""The verbs of a stage: `fit`, `validate`, `predict` and `plan`, each from the same YAML.

    YAML + options ─► StageCLI ─► LanguageModel, PretrainData ─► preflight ─► plan ─► Trainer ─► the verb

One parser serves all verbs, without Lightning's subcommands: every verb needs the same objects. Everything that can be
refused is refused before anything is created on the disk. Callbacks with settings are sections of their own
(`checkpoint:`, `bits_per_byte:`, `samples:`), so that an overlay or an option sets one number of one of them.
"""

from __future__ import annotations

import inspect
import re
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from jsonargparse import set_parsing_settings
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from nanochat_pl.artifacts import find_artifact, is_artifact
from nanochat_pl.data import ChatData, PretrainData
from nanochat_pl.system.errors import BadInput
from nanochat_pl.system.hardware import (
    choose_precision,
    devices_in_all,
    gpu_to_plan_for,
    require_gpu,
    uses_gpu,
)
from nanochat_pl.system.parsing import Suggesting
from nanochat_pl.system.paths import is_plain_name, run_dir
from nanochat_pl.system.verb_options import DESCRIPTIONS, VERB_OPTIONS
from nanochat_pl.tokenizer.encoding import Tokenizer
from nanochat_pl.training.callbacks.bits_per_byte import ValidationBitsPerByte
from nanochat_pl.training.callbacks.chat_metric import ChatMetric
from nanochat_pl.training.callbacks.core_metric import CoreMetric
from nanochat_pl.training.callbacks.exact_resume import ExactResume
from nanochat_pl.training.callbacks.export import Export
from nanochat_pl.training.callbacks.finite_guard import FiniteGuard
from nanochat_pl.training.callbacks.fitting_rows import FittingRows
from nanochat_pl.training.callbacks.manual_gc import ManualGC
from nanochat_pl.training.callbacks.requeue import Requeue
from nanochat_pl.training.callbacks.samples import Samples
from nanochat_pl.training.callbacks.step_checkpoint import StepCheckpoint
from nanochat_pl.training.callbacks.token_budget import TokenBudget
from nanochat_pl.training.callbacks.train_log import TrainLog
from nanochat_pl.training.callbacks.watchdog import Watchdog
from nanochat_pl.training.checkpoint_io import AtomicCheckpointIO
from nanochat_pl.training.language_model import LanguageModel
from nanochat_pl.training.loggers import MetricsFiles, RunTensorBoard
from nanochat_pl.training.plan import Plan, make_plan, strategy_in_force
from nanochat_pl.training.strategies import refuse_what_sharding_cannot, strategy_name

SECTIONS = {
    "checkpoint": StepCheckpoint,
    "bits_per_byte": ValidationBitsPerByte,
    "samples": Samples,
    "core_metric": CoreMetric,
    "chat_metric": ChatMetric,
    "watchdog": Watchdog,
    "requeue": Requeue,  # after those that give way to it
}
ALWAYS_ON = (TokenBudget, FittingRows, FiniteGuard, ManualGC, ExactResume, Export)
OWN_PACKAGES = ("nanochat_pl", "lightning")
DENIED = re.compile(r"Importing '([^']+)' is not allowed")  # by jsonargparse
UNMADE = re.compile(r"Problem with given class_path '([^']+)':\s*([^\n]+)")
HINT = re.compile(r"\.? HINT: .*")  # Lightning's advice to use pip, which this environment is not made with
INSTALL = ".venv/bin/uv pip install --python .venv/bin/python PACKAGE"


class StageParser(Suggesting, LightningArgumentParser):
    """Lightning's parser with suggestions and without abbreviations."""

    further_names = tuple(
        name
        for cls in (LanguageModel, PretrainData, ChatData, Trainer, *SECTIONS.values())
        for name in inspect.signature(cls.__init__).parameters
        if name != "self"
    )

    def error(self, message: str, ex: Exception | None = None) -> None:
        """Raise a BadInput; a class that was not let in has a remedy of its own."""
        if denied := DENIED.search(message):
            raise BadInput(
                f"class_path: {denied[1]} is not of this package, and loading it would run its code\n"
                "Add --allow_external true if you trust it."
            ) from None
        super().error(message, ex)


class StageCLI(LightningCLI):
    """The objects of one stage, built from its configuration.

    Args:
        verb: what will be done with them.
        args: the command line after the verb.
    """

    def __init__(self, verb: str, args: list[str]) -> None:
        self.verb = verb
        refuse_foreign_classes(args)
        super().__init__(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            run=False,
            args=args,
            parser_class=StageParser,
            parser_kwargs={"prog": f"cli.py {verb}", "description": DESCRIPTIONS[verb]},
            save_config_callback=None,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            seed_everything_default=42,
        )
        self.datamodule.config_path = str(self.config.config[0])

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the callbacks' sections and the verb's own options."""
        for name, callback in SECTIONS.items():
            parser.add_lightning_class_args(callback, name)
        parser.add_argument(
            "--run", type=str | None, help="Name of the run (default: stem of the first --config)."
        )
        parser.add_argument(
            "--allow_external", type=bool, default=False, help="Accept class_path of any package."
        )
        for option, settings in VERB_OPTIONS.get(self.verb, {}).items():
            parser.add_argument(option, **settings)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse; a command line without any configuration is told what to add."""
        if not {"--config", "-h", "--help"} & {arg.split("=")[0] for arg in args}:
            raise BadInput(
                f"{self.verb} needs a stage: no --config was given\n"
                f"python cli.py {self.verb} --config configs/demo_base.yaml"
            )
        self.config = parser.parse_args(args)

    def instantiate_classes(self) -> None:
        """Make the objects.

        Raises:
            BadInput: one could not be made, as where a logger's package is not installed.
        """
        try:
            super().instantiate_classes()
        except ValueError as error:
            if not (unmade := UNMADE.search(str(error))):
                raise
            raise BadInput(
                f"{unmade[1]}: {HINT.sub('', unmade[2])}\n"
                f"Leave it out (TensorBoard and metrics/*.jsonl are always written), or install that: {INSTALL}"
            ) from error

    def before_instantiate_classes(self) -> None:
        """Name the run and settle precision and compilation by what the machine can do."""
        self.run = self.config.run or Path(str(self.config.config[0])).stem
        if not is_plain_name(self.run) or self.run.startswith("."):
            raise BadInput(f"--run {self.run!r}: give a name, not a path; runs lie in {run_dir('')}")
        self.config.run = self.run
        self.run_dir = run_dir(self.run)
        choice = choose_precision(self.config.trainer.accelerator)
        if self.verb == "test" and not uses_gpu(self.config.trainer.accelerator):
            choice = choice._replace(precision="32-true", reason="without a GPU a test computes in fp32")
        self.precision_reason = choice.reason if self.config.trainer.precision is None else "as asked"
        self.precision = self.config.trainer.precision or choice.precision
        self.compile_default = choice.compile_default

    def instantiate_trainer(self, **kwargs: Any) -> Trainer | None:
        """Build the Trainer, except for a plan."""
        if self.verb == "plan":
            return None
        require_gpu(self.config.trainer.accelerator)
        section_names = self.parser.callback_keys
        config = dict(self.config_init.trainer)
        log = TrainLog()
        refuse_what_is_derived(config)
        self.config_init["requeue"].max_time_s = seconds_of(config["max_time"])
        config |= {
            "max_time": None,  # Lightning would stop in the middle of a step, without a save
            "default_root_dir": str(self.run_dir),
            "precision": self.precision,
            "strategy": self._strategy(config),
            "max_epochs": -1,  # the plan ends the run
            "limit_val_batches": 0 if self.verb == "fit" else config["limit_val_batches"],
            "num_sanity_val_steps": 0,
            "use_distributed_sampler": False,  # the data deals documents to ranks itself
            "enable_progress_bar": False,  # `loggers.Console` shows progress
            "enable_model_summary": False,
            "plugins": [*(config["plugins"] or []), AtomicCheckpointIO(), *slurm_environment()],
            "callbacks": [
                self.config_init.watchdog,
                log,
                *(config["callbacks"] or []),
                *(self.config_init[name] for name in section_names if name != "watchdog"),
                *(callback() for callback in ALWAYS_ON),
                log.clock_restart,
                self.config_init.watchdog.behind,
            ],
            "log_every_n_steps": config["log_every_n_steps"] or 10,
        }
        try:
            trainer = Trainer(**config | {"logger": self._loggers(config["logger"])})
        except (MisconfigurationException, ModuleNotFoundError, RuntimeError, TypeError, ValueError) as error:
            raise BadInput(f"trainer: {HINT.sub('', ' '.join(str(error).split()))[:300]}") from error
        leave_signals_alone(trainer)
        return trainer

    def _strategy(self, trainer: dict[str, Any]) -> Strategy | str:
        """Return the strategy asked for; where none is, and there are several devices, `zero`.

        Raises:
            BadInput: it cannot do what other settings ask.
        """
        asked = trainer["strategy"]
        devices = devices_in_all(trainer["devices"], trainer["num_nodes"], trainer["accelerator"])
        name = strategy_in_force(strategy_name(self.config.trainer.strategy), devices)
        refuse_what_sharding_cannot(name, str(self.precision), trainer["gradient_clip_algorithm"])
        return name if isinstance(asked, str) else asked

    def _loggers(self, asked: Any) -> Any:
        """Return the run's own loggers and those asked for; none outside of training."""
        if self.verb != "fit":
            return False
        asked = asked if isinstance(asked, list) else [asked] if asked else []
        return [RunTensorBoard(self.run_dir), MetricsFiles(self.run_dir), *asked]

    def find_start(self) -> None:
        """Give a stage that starts from an artifact its shape and, unless another is named, its tokenizer.

        Raises:
            BadInput: there is no such artifact, or it has another depth.
        """
        if self.model.init_from is None:
            return
        own = self.run_dir / "artifact"
        if self.verb in ("validate", "predict", "test") and is_artifact(str(own)):
            folder = own  # a finished run needs nothing else
        else:
            folder = find_artifact(self.model.init_from)
        self.model.start_from(folder)
        if self.datamodule.tokenizer is None:
            self.datamodule.tokenizer = str(folder)
        else:
            self._refuse_other_tokenizer(folder)

    def _refuse_other_tokenizer(self, start: Path) -> None:
        """Refuse a tokenizer whose ids mean something else to the weights.

        Raises:
            BadInput: the tokenizer named is not the artifact's.
        """
        named = Tokenizer.load(self.datamodule.tokenizer_folder)
        if named.fingerprint != Tokenizer.load(start).fingerprint:
            raise BadInput(
                f"data.init_args.tokenizer={self.datamodule.tokenizer} is not the tokenizer of "
                f"{self.model.init_from}; its ids mean other texts\n"
                "Leave data.init_args.tokenizer out: the artifact's own is taken."
            )

    def make_plan(self, world_size: int) -> Plan:
        """Derive every number of the run for `world_size` ranks."""
        model, data, trainer = self.model, self.datamodule, self.config.trainer
        is_open = trainer.max_steps < 0 and model.target_flops is None
        return make_plan(
            model.gpt_config(data.sequence_len),
            sequence_len=data.sequence_len,
            device_batch_rows=data.device_batch_rows,
            batch_tokens=data.batch_tokens,
            world_size=world_size,
            max_steps=trainer.max_steps if trainer.max_steps >= 0 else None,
            target_flops=model.target_flops,
            data_rows=data.planned_rows() if is_open else None,
            tokens_per_parameter=model.tokens_per_parameter,
            reads_corpus=not data.is_chat,
            **model.rates,
            precision=str(self.precision),
            strategy=strategy_name(trainer.strategy),
            gpu=gpu_to_plan_for(trainer.accelerator),
        )

    def save_config(self) -> None:
        """Write the resolved configuration; running from it gives the same losses."""
        config = self.config.clone()
        config.pop("config", None)
        for option in VERB_OPTIONS["fit"]:
            config.pop(option.removeprefix("--"), None)
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self.parser.save(
            config, str(self.run_dir / "config.yaml"), skip_none=False, overwrite=True, multifile=False
        )


def slurm_environment() -> list[SLURMEnvironment]:
    """Return what tells Lightning of SLURM's ranks, without its requeueing, which saves in the middle of a step."""
    return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []


def leave_signals_alone(trainer: Trainer) -> None:
    """Keep Lightning from handling SIGTERM, with a broadcast in the middle of anything, and from asking the other
    ranks in every micro-batch whether it came; `signals.py` and `Requeue` do it at the end of a step.
    """
    trainer._signal_connector.register_signal_handlers = lambda: None
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None


def seconds_of(max_time: str | dict[str, int] | timedelta | None) -> float | None:
    """Return a limit of time in seconds.

    Raises:
        BadInput: it is no duration.
    """
    if max_time is None:
        return None
    try:
        return Timer(max_time).time_remaining()
    except (MisconfigurationException, TypeError) as error:
        raise BadInput(f"trainer.max_time={max_time}: give DD:HH:MM:SS, such as 00:11:30:00") from error


def refuse_foreign_classes(args: list[str]) -> None:
    """Let nothing outside of this package and Lightning be imported because a configuration names it.

    jsonargparse asks before every import of a name it was given, in whatever form and from whatever file it came, and
    once more for where the object found is defined. Only the command line can allow more: a configuration that
    brings foreign classes must not allow them itself. What was refused once stays refused in this process.
    """
    if not _allows_external(args):
        set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=list(OWN_PACKAGES))


def _allows_external(args: list[str]) -> bool:
    """Tell whether the last `--allow_external` of a command line says true."""
    said = [
        value if has_value else after
        for arg, after in pairwise([*args, ""])
        for name, has_value, value in [arg.partition("=")]
        if name == "--allow_external"
    ]
    return bool(said) and said[-1].lower() == "true"


def refuse_what_is_derived(trainer: dict[str, Any]) -> None:
    """Refuse Trainer settings that the plan derives; accepting them would have no effect or a silent one.

    Raises:
        BadInput: such a setting was given.
    """
    instead = {
        "accumulate_grad_batches": (1, "data.init_args.batch_tokens and data.init_args.device_batch_rows"),
        "max_epochs": (None, "trainer.max_steps, model.init_args.tokens_per_parameter or target_flops"),
        "val_check_interval": (None, "bits_per_byte.every_n_steps"),
        "default_root_dir": (None, "--run NAME and NANOCHAT_BASE_DIR"),
    }
    for key, (default, remedy) in instead.items():
        if trainer.get(key) not in (default, None):
            raise BadInput(f"trainer.{key}={trainer[key]} has no effect here; set {remedy}")
