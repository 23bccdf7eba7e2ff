"""What `fit`, `validate`, `predict` and `plan` do with the objects of a stage.

`fit` refuses before it creates: configuration, data, tokenizer, plan and checkpoint are all looked at first.
Then the run folder appears, and the same command finds its way back into it.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_only

from nanochat_pl.artifacts import Artifact, is_artifact, load_artifact, weights_digest
from nanochat_pl.data.stage_data import refuse_other_ranks
from nanochat_pl.inference.engine import Engine
from nanochat_pl.inference.sampling import SamplingSettings
from nanochat_pl.model import accounting
from nanochat_pl.model.gpt import GPT
from nanochat_pl.sandbox.calculator import calculate
from nanochat_pl.system import signals, slurm
from nanochat_pl.system.environment import environment, record_start
from nanochat_pl.system.errors import BadInput, Failure
from nanochat_pl.system.files import append_json_line, move_aside
from nanochat_pl.system.hardware import devices_in_all
from nanochat_pl.system.paths import user_path
from nanochat_pl.system.receipts import Receipt, newest_valid, receipts
from nanochat_pl.system.run_lock import RunLock, hold_lock, lock_path
from nanochat_pl.system.run_state import reason_of_stop, recorded
from nanochat_pl.training.callbacks.requeue import Requeue
from nanochat_pl.training.checkpoint_io import refuse_other_model, refuse_other_start, require_free_space
from nanochat_pl.training.failures import explained
from nanochat_pl.training.language_model import require_same_vocabulary
from nanochat_pl.training.lightning_cli import StageCLI
from nanochat_pl.training.loggers import Console, MetricsFiles
from nanochat_pl.training.lost_rank import LostRank
from nanochat_pl.training.stacks import forget_request


def fit(args: list[str]) -> int:
    """Train the stage, or continue where a former start of the same run stopped."""
    stage = ready("fit", args)
    world_size = stage.trainer.num_devices * stage.trainer.num_nodes
    plan = stage.make_plan(world_size)
    stage.model.follow(plan)
    stage.datamodule.elastic = stage.config.elastic
    stage.lock = _lock(stage)  # held until the process ends
    receipt = None if stage.config.fresh else _resume_point(stage)
    if receipt and receipt.step >= plan.steps and (stage.run_dir / "artifact" / "config.json").exists():
        say(f"{stage.run} is finished: {receipt.step} steps, artifact in {stage.run_dir / 'artifact'}")
        say("Add --fresh to start over; the old run is moved aside, not deleted.")
        return 0
    if receipt and receipt.step > plan.steps:
        raise BadInput(
            f"the horizon is {plan.steps} steps, but {stage.run} is at step {receipt.step} already\n"
            "Give more steps to continue, or add --fresh to start over; the old run is moved aside, not deleted."
        )
    if receipt and not stage.config.elastic:
        refuse_other_ranks(receipt.world_size, world_size)
    _refuse_what_would_fail(stage)
    if stage.config.fresh:
        _start_over(stage.run_dir)
    say(plan.table())
    say(f"precision {stage.precision}: {stage.precision_reason}; compile: {_set_compile(stage)}")
    if signals.ends_with_connection():
        say("note: if this SSH session ends, the run saves and stops; in tmux, or with nohup, it would go on")
    if rank_zero_only.rank == 0:
        stage.save_config()
        device_type = stage.trainer.strategy.root_device.type
        record_start(stage.run_dir / "environment.json", environment(device_type, world_size))
    stage.trainer.loggers.append(Console(plan.steps))
    _be_deterministic(stage)
    stage.trainer.strategy.checkpoint_io.facts = {
        "model": stage.model.gpt_config(stage.datamodule.sequence_len).to_dict(),
        "world_size": world_size,
        "start": stage.model.start_digest,
    }
    if rank_zero_only.rank != 0:
        return _train(stage, receipt)
    forget_request(stage.run_dir)
    with recorded(stage.run_dir, str(stage.config.config[0]), _arguments_to_go_on(args)) as record:
        record.exit_code = _train(stage, receipt)
        record.reason = reason_of_stop(_stopped_by(stage)) if record.exit_code else ""
    return record.exit_code


def _arguments_to_go_on(args: list[str]) -> str:
    """Return the arguments of this start, quoted for a shell; without `--fresh`, which would start over again."""
    return shlex.join(arg for arg in args if arg != "--fresh")


def _refuse_what_would_fail(stage: StageCLI) -> None:
    """Find out before the run has a folder what else would end it in its first step.

    Raises:
        Failure: the weights to start from are damaged, or two checkpoints would not fit.
    """
    if rank_zero_only.rank != 0:
        return
    stage.model.require_whole_start()
    config = stage.model.gpt_config(stage.datamodule.sequence_len)
    size = accounting.weight_bytes(config) + accounting.optimizer_bytes(config)  # however they are spread
    require_free_space(stage.run_dir / "checkpoints", size)


def _be_deterministic(stage: StageCLI) -> None:
    """Let equal runs on a CPU be equal to the last bit: compiled, the embedding's gradient is otherwise added up in
    the order in which threads happen to come.
    """
    if stage.trainer.strategy.root_device.type == "cpu" and stage.config.trainer.deterministic is None:
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # a check, and slow


def _lock(stage: StageCLI) -> RunLock | None:
    """Keep a second start of the same run out; the other ranks of this one do not ask."""
    if rank_zero_only.rank != 0:
        return None
    return hold_lock(lock_path(stage.run_dir))


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C within the Trainer end a verb as the interruption it is; Lightning turns it into `exit(1)`."""
    try:
        yield
    except SystemExit as leaving:
        if isinstance(leaving.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise


def _train(stage: StageCLI, receipt: Receipt | None) -> int:
    """Run the Trainer and translate how it ended into an exit code."""
    if receipt:
        say(f"continuing {stage.run} from step {receipt.step}")
    ranks = LostRank(stage.trainer)
    checkpoint = receipt and str(receipt.path)
    try:
        with interruptible():
            stage.trainer.fit(stage.model, datamodule=stage.datamodule, ckpt_path=checkpoint)
    except Exception as error:
        meaning = explained(error, stage.trainer, stage.model.plan, ranks)
        if meaning is error:
            raise
        raise meaning from error
    stopped_by = _stopped_by(stage)
    signals.ignore_stop_signals()  # all is saved: what comes now would only spoil the exit code
    if stopped_by:
        saved = "state saved" if stage.trainer.global_step else "nothing to save yet"
        say(
            f"stopped by {signals.name_of(stopped_by)} at step {stage.trainer.global_step}, {saved}; run again"
        )
        return signals.exit_code(stopped_by) if rank_zero_only.rank == 0 or slurm.current_job() else 0
    say(
        f"{stage.run} is finished: {stage.trainer.global_step} steps, artifact in {stage.run_dir / 'artifact'}"
    )
    return 0


def _stopped_by(stage: StageCLI) -> int:
    """Return the number of the signal that stopped the training, 0 if none did."""
    requeue = next(c for c in stage.trainer.callbacks if isinstance(c, Requeue))
    return requeue.stopped_by if stage.trainer.should_stop else 0


def validate(args: list[str]) -> int:
    """Print bits per byte of the run's model and append it to `metrics/val.jsonl`."""
    stage = ready("validate", args)
    step = load_model(stage).step
    with interruptible():
        (metrics,) = stage.trainer.validate(stage.model, datamodule=stage.datamodule, verbose=False)
    if rank_zero_only.rank == 0:
        MetricsFiles(stage.run_dir).log_metrics({"val/bpb": metrics["val/bpb"]}, step=step)
        print(f"{stage.run} step {step}: val/bpb {metrics['val/bpb']:.4f}")
    return 0


def predict(args: list[str]) -> int:
    """Print each prompt with its continuation or answer and append it to `metrics/predictions.jsonl`."""
    stage = ready("predict", args)
    step = load_model(stage).step
    data = stage.datamodule
    engine = Engine(stage.model.gpt, data.tokenizer_on_disk, calculate if data.is_chat else None, rows=1)
    settings = SamplingSettings(temperature=0.0, max_new_tokens=stage.config.max_new_tokens)
    lines = stage.run_dir / "metrics" / "predictions.jsonl"
    for prompt in _prompts(stage):
        (completion,) = engine.generate([data.prompt_ids(prompt)], settings)
        print(f"{prompt}|{completion.text}", flush=True)
        facts = {"step": step, "time": time.time(), "prompt": prompt, "text": completion.text}
        append_json_line(lines, facts)
    return 0


def _prompts(stage: StageCLI) -> list[str]:
    """Return the prompts of the file asked for, else those of the `samples` section."""
    if stage.config.prompts is None:
        return list(stage.config_init.samples.prompts)
    try:
        lines = user_path(stage.config.prompts).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise BadInput(f"--prompts {stage.config.prompts}: {error.strerror}") from None
    except UnicodeError:
        raise BadInput(f"--prompts {stage.config.prompts}: is no text in UTF-8, one prompt a line") from None
    prompts = [line for line in lines if line.strip()]
    if not prompts:
        raise BadInput(f"--prompts {stage.config.prompts}: the file has no prompt, one a line")
    return prompts


def plan(args: list[str]) -> int:
    """Print the plan as a table or as JSON."""
    _quieten()
    stage = StageCLI("plan", args)
    if stage.model.init_from is None or is_artifact(stage.model.init_from):
        stage.find_start()
    trainer = stage.config.trainer
    here = devices_in_all(trainer.devices, trainer.num_nodes, trainer.accelerator)
    made = stage.make_plan(here if stage.config.devices is None else stage.config.devices)
    print(json.dumps(made.to_dict(), indent=1) if stage.config.json else made.table())
    return 0


def built(verb: str, args: list[str]) -> StageCLI:
    """Build a stage and find what it starts from; nothing is read of its data."""
    _quieten()
    stage = StageCLI(verb, args)
    stage.datamodule.config_path = str(stage.config.config[0])
    stage.find_start()
    stage.model.gpt_config(stage.datamodule.sequence_len)
    return stage


def ready(verb: str, args: list[str]) -> StageCLI:
    """Build a stage and make sure its data and its tokenizer are here and fit the model."""
    stage = built(verb, args)
    data = stage.datamodule
    for note in data.preflight():
        say(note)
    require_same_vocabulary(stage.model, data.tokenizer_on_disk.vocab_size, str(data.tokenizer_folder))
    return stage


def _set_compile(stage: StageCLI) -> bool:
    if stage.model.compiles is None:
        stage.model.compiles = stage.compile_default
    return stage.model.compiles


def _resume_point(stage: StageCLI) -> Receipt | None:
    """Return the checkpoint to continue from, None for a new run."""
    found = newest_valid(stage.run_dir / "checkpoints")
    for sentence in found.rejected:
        say(f"warning: {sentence}; using an older checkpoint")
    if found.receipt:
        refuse_other_start(found.receipt, stage.model.start_digest)
        refuse_other_model(found.receipt, stage.model.gpt_config(stage.datamodule.sequence_len).to_dict())
    elif any(file for file in found.rejected if "finished" not in file):
        raise Failure(
            f"{stage.run_dir / 'checkpoints'}: no checkpoint is intact; nothing was overwritten\n"
            "Add --fresh to start over; the old run is moved aside, not deleted."
        )
    return found.receipt


def _start_over(folder: Path) -> None:
    """Move an old run's folder aside; only the first process of a launch does."""
    if rank_zero_only.rank == 0 and folder.exists():
        say(f"the old run is now {move_aside(folder)}")


class Loaded(NamedTuple):
    """Weights a stage was given.

    Attributes:
        step: optimizer steps they have seen.
        digest: sha256 (hex) of the file they came from.
    """

    step: int
    digest: str


def load_model(stage: StageCLI) -> Loaded:
    """Give the stage its trained weights: the artifact's, or a newer checkpoint's.

    Raises:
        Failure: there are none, or they are damaged.
    """
    artifact = _artifact_of(stage.run_dir)
    newest = next(iter(receipts(stage.run_dir / "checkpoints")), None)
    if artifact and (newest is None or newest.step <= artifact.provenance["step"]):
        _require_same_kind(stage, artifact)
        _require_same_tokenizer(stage, artifact)
        stage.model.gpt = artifact.gpt
        return Loaded(artifact.provenance["step"], weights_digest(artifact.folder))
    if newest is None:
        raise Failure(
            f"{stage.run_dir}: no trained model here\n"
            f"Train it first: python cli.py fit --config {stage.config.config[0]}"
        )
    return _load_checkpoint(stage)


def _load_checkpoint(stage: StageCLI) -> Loaded:
    receipt = _resume_point(stage)
    if receipt is None:
        raise Failure(f"{stage.run_dir / 'checkpoints'}: no checkpoint is intact")
    weights = torch.load(receipt.path, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
    gpt = GPT.materialized(stage.model.gpt_config(stage.datamodule.sequence_len), device="cpu")
    gpt.load_state_dict({name.removeprefix("gpt."): value for name, value in weights.items()})
    stage.model.gpt = gpt.eval()
    return Loaded(receipt.step, receipt.sha256)


def _artifact_of(run: Path) -> Artifact | None:
    folder = run / "artifact"
    return load_artifact(folder) if folder.exists() else None


def _require_same_kind(stage: StageCLI, artifact: Artifact) -> None:
    is_chat = artifact.provenance.get("is_chat")
    if is_chat not in (None, stage.datamodule.is_chat):
        wanted, found = ("base", "chat") if is_chat else ("chat", "base")
        raise BadInput(
            f"{stage.config.config[0]} is a {wanted} stage, but {stage.run} is a {found} model\n"
            f"Give the YAML that trained it: --config {stage.run_dir / 'config.yaml'}"
        )


def _require_same_tokenizer(stage: StageCLI, artifact: Artifact) -> None:
    data = stage.datamodule
    if artifact.tokenizer.fingerprint != data.tokenizer_on_disk.fingerprint:
        raise Failure(
            f"{data.tokenizer_folder}: not the tokenizer {stage.run} was trained with; it was replaced since\n"
            f"Use the run's own: --data.init_args.tokenizer {artifact.folder}"
        )


def _quieten() -> None:
    """Silence what Lightning says of choices made here on purpose."""
    import logging

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
