"""What `fit`, `validate`, `predict` and `plan` do with the objects of a stage.

`fit` refuses before it creates: configuration, data, tokenizer, plan and checkpoint are all looked at first.
Then the run folder appears, and the same command finds its way back into it.
"""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_only

from nanochat_pl.artifacts import is_artifact
from nanochat_pl.data.stage_data import refuse_other_ranks
from nanochat_pl.inference.engine import Engine
from nanochat_pl.inference.sampling import SamplingSettings
from nanochat_pl.model import accounting
from nanochat_pl.sandbox.calculator import calculate
from nanochat_pl.system import signals, slurm
from nanochat_pl.system.environment import environment, record_start
from nanochat_pl.system.errors import BadInput
from nanochat_pl.system.files import append_json_line, move_aside
from nanochat_pl.system.hardware import devices_in_all, has_unseen_gpu
from nanochat_pl.system.paths import user_path
from nanochat_pl.system.receipts import Receipt
from nanochat_pl.system.run_lock import RunLock, hold_lock, lock_path
from nanochat_pl.system.run_state import reason_of_stop, recorded
from nanochat_pl.training.callbacks.requeue import Requeue
from nanochat_pl.training.checkpoint_io import require_free_space
from nanochat_pl.training.failures import explained
from nanochat_pl.training.lightning_cli import StageCLI
from nanochat_pl.training.loggers import Console, MetricsFiles
from nanochat_pl.training.lost_rank import LostRank
from nanochat_pl.training.readiness import completing, interruptible, quieten, ready, say
from nanochat_pl.training.stacks import forget_request
from nanochat_pl.training.trained import load_model, resume_point


def fit(args: list[str]) -> int:
    """Train the stage, or continue where a former start of the same run stopped."""
    stage = ready("fit", args)
    world_size = stage.trainer.num_devices * stage.trainer.num_nodes
    with completing(stage.datamodule):
        plan = stage.make_plan(world_size)
    stage.model.follow(plan)
    stage.datamodule.elastic = stage.config.elastic
    stage.lock = _lock(stage)  # held until the process ends
    receipt = None if stage.config.fresh else resume_point(stage)
    if receipt and receipt.step >= plan.steps and (stage.run_dir / "artifact" / "config.json").exists():
        say(f"{stage.run} is finished: {receipt.step} steps, artifact in {stage.run_dir / 'artifact'}")
        say("Add --fresh to start over; the old run is moved aside, not deleted.")
        return 0
    if receipt:
        _refuse_another_run(stage, receipt, plan.steps, world_size)
    _refuse_what_would_fail(stage)
    if stage.config.fresh:
        _start_over(stage.run_dir)
    say(plan.table())
    if shortage := stage.datamodule.shortage(plan.shards):
        say(shortage)
    say(f"precision {stage.precision}: {stage.precision_reason}; compile: {_set_compile(stage)}")
    if has_unseen_gpu():
        say("warning: this machine has a GPU that torch does not see\nWhat is wrong: python cli.py doctor")
    if signals.ends_with_connection():
        say("note: if this SSH session ends, the run saves and stops; in tmux, or with nohup, it would go on")
    _prepare(stage, plan.steps, world_size)
    again = _arguments_to_go_on(args)
    if rank_zero_only.rank != 0:
        return _train(stage, receipt, again)
    forget_request(stage.run_dir)
    with recorded(stage.run_dir, str(stage.config.config[0]), again) as record:
        record.exit_code = _train(stage, receipt, again)
        record.reason = reason_of_stop(_stopped_by(stage)) if record.exit_code else ""
    return record.exit_code


def _prepare(stage: StageCLI, steps: int, world_size: int) -> None:
    """Write down what this start is, and tell the Trainer's parts what they need to know of it."""
    if rank_zero_only.rank == 0:
        stage.save_config()
        device_type = stage.trainer.strategy.root_device.type
        record_start(stage.run_dir / "environment.json", environment(device_type, world_size))
    stage.trainer.loggers.append(Console(steps))
    _be_deterministic(stage)
    stage.trainer.strategy.checkpoint_io.facts = {
        "model": stage.model.gpt_config(stage.datamodule.sequence_len).to_dict(),
        "world_size": world_size,
        "start": stage.model.start_digest,
    }


def _arguments_to_go_on(args: list[str]) -> str:
    """Return the arguments of this start, quoted for a shell; without `--fresh`, which would start over again."""
    return shlex.join(arg for arg in args if arg != "--fresh")


def _refuse_another_run(stage: StageCLI, receipt: Receipt, steps: int, world_size: int) -> None:
    """Refuse to continue a run as what it never was: a shorter one, or one of another number of ranks."""
    if receipt.step > steps:
        raise BadInput(
            f"the horizon is {steps} steps, but {stage.run} is at step {receipt.step} already\n"
            "Give more steps to continue, or add --fresh to start over; the old run is moved aside, not deleted."
        )
    if not stage.config.elastic:
        refuse_other_ranks(receipt.world_size, world_size)


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


def _train(stage: StageCLI, receipt: Receipt | None, again: str) -> int:
    """Run the Trainer and translate how it ended into an exit code.

    Args:
        stage: the stage.
        receipt: of the checkpoint to continue from.
        again: arguments that continue this run.
    """
    if receipt:
        say(f"continuing {stage.run} from step {receipt.step}")
    ranks = LostRank(stage.trainer)
    checkpoint = receipt and str(receipt.path)
    try:
        with interruptible(), completing(stage.datamodule):
            stage.trainer.fit(stage.model, datamodule=stage.datamodule, ckpt_path=checkpoint)
    except Exception as error:
        meaning = explained(error, stage.trainer, stage.model.plan, ranks)
        ranks.kill_children()  # they may not even have met, and would wait for this one
        if meaning is error:
            raise
        raise meaning from error
    stopped_by = _stopped_by(stage)
    signals.ignore_stop_signals()  # all is saved: what comes now would only spoil the exit code
    if stopped_by:
        saved = "state saved" if stage.trainer.global_step else "nothing to save yet"
        say(
            f"stopped by {signals.name_of(stopped_by)} at step {stage.trainer.global_step}, {saved}; run again"
            + ("" if slurm.current_job() else f":\npython cli.py fit {again}")
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
    with interruptible(), completing(stage.datamodule):
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
    quieten()
    stage = StageCLI("plan", args)
    if stage.model.init_from is None or is_artifact(stage.model.init_from):
        stage.find_start()
    trainer = stage.config.trainer
    here = devices_in_all(trainer.devices, trainer.num_nodes, trainer.accelerator)
    with completing(stage.datamodule):
        made = stage.make_plan(here if stage.config.devices is None else stage.config.devices)
    print(json.dumps(made.to_dict(), indent=1) if stage.config.json else made.table())
    return 0


def _set_compile(stage: StageCLI) -> bool:
    if stage.model.compiles is None:
        stage.model.compiles = stage.compile_default
    return stage.model.compiles


def _start_over(folder: Path) -> None:
    """Move an old run's folder aside; only the first process of a launch does."""
    if rank_zero_only.rank == 0 and folder.exists():
        say(f"the old run is now {move_aside(folder)}")
