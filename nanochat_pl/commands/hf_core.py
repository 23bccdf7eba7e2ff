"""`test --hf DIR`: CORE of a model of Hugging Face's, from disk, beside those trained here."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from nanochat_pl.evaluation.core_bundle import default_bundle, read_bundle
from nanochat_pl.evaluation.core_metric import core_exams, core_metric
from nanochat_pl.evaluation.exam import chosen
from nanochat_pl.evaluation.hf_scorer import HFScorer
from nanochat_pl.evaluation.record_files import RecordFiles
from nanochat_pl.evaluation.results import core_metrics, core_summary, score_table
from nanochat_pl.system.errors import Failure, Unfetched
from nanochat_pl.system.files import append_json_line, sha256_of
from nanochat_pl.system.paths import run_dir, user_path
from nanochat_pl.system.run_lock import hold_lock
from nanochat_pl.training.examination import Examination


def hf_core(
    hf: str,
    tasks: str | None = None,
    max_problems: int | None = None,
    reference_shots: bool = False,
    fresh: bool = False,
    bundle: str | None = None,
    device: str | None = None,
) -> None:
    """Take CORE with a model of transformers, on one device; a test that was killed continues.

    Args:
        hf: folder with config.json, safetensors and tokenizer, such as GPT-2's; results lie in `runs/hf_<folder>`.
        tasks: some tasks of CORE only, by name, with commas between.
        max_problems: the first so many items of each task.
        reference_shots: draw examples from the items asked, as nanochat does, not from all.
        fresh: examine anew what has been examined already.
        bundle: folder with `core.yaml`; `tasks/core` below the base directory if left out.
        device: where to compute; a GPU if there is one.
    """
    import torch

    try:
        core = read_bundle(user_path(bundle) if bundle else default_bundle())
    except Unfetched as failure:
        raise failure.for_stage("configs/d20_base.yaml --shards 1") from failure  # any base stage brings it
    labels = chosen(tasks, core.labels, core.labels)
    folder = user_path(hf)
    scorer = HFScorer(folder, device or ("cuda" if torch.cuda.is_available() else "cpu"))
    exams = [
        exam
        for exam in core_exams(scorer, core, max_problems, reference_shots)
        if exam.name.removeprefix("core/") in labels
    ]
    metrics = run_dir(f"hf_{folder.resolve().name}") / "metrics"
    files = RecordFiles(metrics / "items", {"weights": _digests(folder), "device": scorer.device.type})
    with hold_lock(metrics.parent.with_name(f".{metrics.parent.name}.test.lock")):
        for exam in exams if fresh else ():
            files.forget(exam)
        examination = Examination(exams, files)
        for chunk in examination.chunks:
            examination.examine(chunk)
        examination.conclude(torch.device("cpu"))
    print(score_table(examination.scores, examination.cropped))
    if examination.scores:
        result = core_metric(examination.scores, core)
        print(core_summary(result))
        facts = {"step": 0, "time": time.time()} | core_metrics(examination.scores, result)
        append_json_line(metrics / "core.jsonl", facts)
    absent = [missing for missing in core.missing if missing.label in labels]
    for missing in absent:
        print(f"missing: {missing.label}: {missing.reason}", file=sys.stderr)
    if absent:
        raise Failure(f"{len(absent)} of the {len(labels)} tasks asked for are not here")


def _digests(folder: Path) -> list[str]:
    """Return the sha256 (hex) of the files of weights."""
    return [sha256_of(path) for path in sorted(folder.glob("*.safetensors"))]
