"""The verb `test`: a stage's whole evaluation, from the same YAML that trained it.

    base            bits per byte of training and validation rows, samples, CORE
    mid, sft, rl    every chat task, and ChatCORE

Items are shared out over ranks and kept one by one, so a test that was killed continues with the same command, and
two runs can be compared item by item. What a part needs and is not here is said, and costs no other part its result.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from nanochat_pl.artifacts import is_artifact
from nanochat_pl.evaluation.chat_tasks import Answering, chat_exam
from nanochat_pl.evaluation.core_bundle import Bundle, read_bundle
from nanochat_pl.evaluation.core_metric import core_exams, core_metric
from nanochat_pl.evaluation.exam import Exam, Score, chosen, require_problems
from nanochat_pl.evaluation.likelihood import GPTScorer
from nanochat_pl.evaluation.record_files import RecordFiles
from nanochat_pl.evaluation.results import chat_metrics, chat_summary, core_metrics, core_summary, score_table
from nanochat_pl.inference.engine import Engine
from nanochat_pl.inference.sampling import SamplingSettings
from nanochat_pl.sandbox.calculator import calculate
from nanochat_pl.system.errors import BadInput, Failure
from nanochat_pl.system.run_lock import hold_lock
from nanochat_pl.system.verb_options import VERB_OPTIONS
from nanochat_pl.tasks.exams import CHAT_TASKS, chat_task
from nanochat_pl.tokenizer.encoding import Tokenizer
from nanochat_pl.training.examination import Examination
from nanochat_pl.training.lightning_cli import StageCLI
from nanochat_pl.training.loggers import MetricsFiles, RunTensorBoard
from nanochat_pl.training.readiness import built, interruptible, say
from nanochat_pl.training.trained import Loaded, load_model

BITS_PER_BYTE, SAMPLES = "bits_per_byte", "samples"
OF_BASE = ("reference_shots",)
OF_CHAT = ("num_samples", "pass_at", "temperature", "top_k", "unsafe_code")


def test(args: list[str]) -> int:
    """Measure a stage's model and print what it scores; 1 where something it takes is missing."""
    stage = built("test", args)
    _refuse_what_does_not_apply(stage)
    _find_tokenizer(stage)
    loaded = load_model(stage)
    say(f"{stage.run} step {loaded.step}; precision {stage.precision}: {stage.precision_reason}")
    with _lock(stage):
        missing = (_test_chat if stage.datamodule.is_chat else _test_base)(stage, loaded)
    for sentence in missing:
        say(f"missing: {sentence}")
    return 1 if missing else 0


def _refuse_what_does_not_apply(stage: StageCLI) -> None:
    """Refuse what would be passed over in silence, and what is wrong whatever the model is.

    Raises:
        BadInput: an option belongs to the other kind of stage, or a number is out of range.
    """
    is_chat = stage.datamodule.is_chat
    for option in OF_BASE if is_chat else OF_CHAT:
        usual = VERB_OPTIONS["test"][f"--{option}"].get("default")
        if (stage.config[option] or None) != (usual or None):
            raise BadInput(
                f"--{option} does not apply: {stage.config.config[0]} is a {'chat' if is_chat else 'base'} stage, "
                f"and it is about {'CORE of a base stage' if is_chat else 'written answers of a chat stage'}"
            )
    _answering(stage).require_sense()
    require_problems(stage.config.max_problems)
    if is_chat:
        chosen(stage.config.tasks, stage.config_init.chat_metric.tasks, tuple(CHAT_TASKS))


def _find_tokenizer(stage: StageCLI) -> None:
    """Take the tokenizer of the run's own artifact, unless another is named."""
    data, own = stage.datamodule, stage.run_dir / "artifact"
    if data.tokenizer is None and is_artifact(str(own)):
        data.tokenizer = str(own)
    data.tokenizer_on_disk = Tokenizer.load(data.tokenizer_folder)


def _lock(stage: StageCLI) -> AbstractContextManager:
    """Keep a second test of the same run out; training may go on, and the other ranks do not ask."""
    if rank_zero_only.rank != 0:
        return nullcontext()
    return hold_lock(stage.run_dir.with_name(f".{stage.run}.test.lock"))


def _test_chat(stage: StageCLI, loaded: Loaded) -> list[str]:
    """Ask every chat task; return what is missing."""
    config, metric, answering = stage.config, stage.config_init.chat_metric, _answering(stage)
    engine = Engine(stage.model.gpt, stage.datamodule.tokenizer_on_disk, calculate, rows=metric.rows)
    exams, missing = [], []
    for name in chosen(config.tasks, metric.tasks, tuple(CHAT_TASKS)):
        task = chat_task(name)
        if hasattr(task, "unsafe_code"):
            task.unsafe_code = config.unsafe_code
        try:
            exams.append(chat_exam(name, task, engine, max_problems=config.max_problems, answering=answering))
        except Failure as failure:
            missing.append(f"{name}: {_first_lines(stage, failure)}")
    scores = _taken(stage, loaded, exams)
    facts = {"chat/max_new_tokens": answering.max_new_tokens} if scores else {}
    _publish(stage, loaded, chat_metrics(scores) | facts, chat_summary(scores))
    return missing


def _answering(stage: StageCLI) -> Answering:
    """Return how questions are answered in writing."""
    config = stage.config
    return stage.config_init.chat_metric.answering._replace(
        samples=config.num_samples,
        pass_at=config.num_samples if config.pass_at is None else config.pass_at,
        temperature=config.temperature,
        top_k=config.top_k,
    )


def _test_base(stage: StageCLI, loaded: Loaded) -> list[str]:
    """Measure bits per byte, draw samples, take CORE; return what is missing."""
    parts = {BITS_PER_BYTE: _bits_per_byte, SAMPLES: _samples}
    asked, missing = stage.config.tasks, []
    try:
        bundle = read_bundle(stage.config_init.core_metric.folder)
    except Failure as failure:
        if asked and not parts.keys() >= {name.strip() for name in asked.split(",")}:
            raise stage.datamodule.completed(failure) from failure
        bundle = None
        missing = [f"CORE: {_first_lines(stage, failure)}"] if asked is None else []
    known = [*parts, *(bundle.labels if bundle else ())]
    names = chosen(asked, known, known)
    for name in (name for name in names if name in parts):
        missing += _attempted(name, parts[name], stage, loaded)
    if bundle and (labels := set(names) - parts.keys()):
        missing += _core(stage, loaded, bundle, labels)
    return missing


def _attempted(
    name: str, part: Callable[[StageCLI, Loaded], list[str]], stage: StageCLI, loaded: Loaded
) -> list[str]:
    """Do a part; return what it lacks."""
    try:
        return part(stage, loaded)
    except Failure as failure:
        return [f"{name}: {_first_lines(stage, failure)}"]


def _bits_per_byte(stage: StageCLI, loaded: Loaded) -> list[str]:
    """Measure bits per byte of both splits, over equally many tokens."""
    data, values = stage.datamodule, {}
    for note in data.preflight():
        say(note)
    for split in ("train", "val"):
        data.eval_split = split
        with interruptible():
            (metrics,) = stage.trainer.validate(stage.model, datamodule=data, verbose=False)
        values[f"{split}/bpb"] = metrics["val/bpb"]
    data.eval_split = "val"
    values = {"val/bpb": values["val/bpb"], "train/bpb": values["train/bpb"]}
    text = f"bits per byte: {values['train/bpb']:.4f} training rows, {values['val/bpb']:.4f} validation rows"
    _publish(stage, loaded, values, text)
    return []


def _samples(stage: StageCLI, loaded: Loaded) -> list[str]:
    """Continue the stage's prompts."""
    samples, data = stage.config_init.samples, stage.datamodule
    engine = Engine(stage.model.gpt, data.tokenizer_on_disk, rows=len(samples.prompts) or 1)
    settings = SamplingSettings(temperature=0.0, max_new_tokens=samples.max_new_tokens)
    completions = engine.generate([data.prompt_ids(prompt) for prompt in samples.prompts], settings)
    if rank_zero_only.rank == 0:
        print("samples:")
        for prompt, completion in zip(samples.prompts, completions, strict=True):
            print(f"  {prompt}|{' '.join(completion.text.split())}")
            for logger in _loggers(stage):
                logger.log_sample(prompt, completion.text, step=loaded.step)
    return []


def _core(stage: StageCLI, loaded: Loaded, bundle: Bundle, labels: Collection[str]) -> list[str]:
    """Take CORE, or some of its tasks; return those that are not here."""
    scorer = GPTScorer(stage.model.gpt, stage.datamodule.tokenizer_on_disk)
    exams = core_exams(
        scorer,
        bundle,
        max_problems=stage.config.max_problems,
        reference_shots=stage.config.reference_shots,
    )
    scores = _taken(stage, loaded, [exam for exam in exams if exam.name.removeprefix("core/") in labels])
    if scores:
        result = core_metric(scores, bundle)
        shots = {"core/reference_shots": True} if stage.config.reference_shots else {}
        _publish(stage, loaded, core_metrics(scores, result) | shots, core_summary(result))
    return [f"{missing.label}: {missing.reason}" for missing in bundle.missing if missing.label in labels]


def _taken(stage: StageCLI, loaded: Loaded, exams: Sequence[Exam]) -> list[Score]:
    """Let the model take exams, on all ranks; print a line for each."""
    if not exams:
        return []
    subject = {
        "weights": loaded.digest,
        "tokenizer": stage.datamodule.tokenizer_on_disk.fingerprint,
        "precision": str(stage.precision),
    }
    files = RecordFiles(stage.run_dir / "metrics" / "items", subject)
    if stage.config.fresh and rank_zero_only.rank == 0:
        for exam in exams:
            files.forget(exam)
    examination = stage.model.examination = Examination(exams, files, rank_zero_only.rank)
    total = sum(map(len, exams))
    if examination.done:
        say(f"continuing: {examination.done:,} of {total:,} items have been examined")
    if examination.chunks:
        with interruptible():
            stage.trainer.test(stage.model, verbose=False)
    examination.conclude(stage.trainer.strategy.root_device)
    if rank_zero_only.rank == 0:
        print(score_table(examination.scores, examination.cropped))
    return examination.scores


def _publish(stage: StageCLI, loaded: Loaded, metrics: Mapping[str, Any], text: str) -> None:
    """Print a result and append it to the run's metrics."""
    if rank_zero_only.rank == 0 and metrics:
        print(text, flush=True)
        for logger in _loggers(stage):
            logger.log_metrics({**metrics, "precision": str(stage.precision)}, step=loaded.step)


def _loggers(stage: StageCLI) -> list[MetricsFiles | RunTensorBoard]:
    return [MetricsFiles(stage.run_dir), RunTensorBoard(stage.run_dir)]


def _first_lines(stage: StageCLI, failure: Failure) -> str:
    """Return an error in one line, its command with the stage's file."""
    return "; ".join(str(stage.datamodule.completed(failure)).splitlines()[:2])
