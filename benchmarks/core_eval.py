"""CORE against nanochat's evaluator: the same network, tokenizer, items and shots; the answers of both are compared.

    python benchmarks/core_eval.py --peer-path NANOCHAT_CLONE --bundle DIR --tokenizer DIR [--depth 4] [--problems 4]
                                   [--vocab_size 65536] [--pairs 2] [--tasks a,b] [--reference_shots]
    python benchmarks/core_eval.py --peer-path NANOCHAT_CLONE --bundle DIR --artifact DIR --problems 300 --pairs 1

nanochat's `evaluate_example` is asked item after item, as it does itself; it calls the same `GPT.forward`, and crops to
the context as it does for GPT-2. Without an artifact the model is random, none of its weights zero. The sides take
turns within each task, A B and then B A; this side encodes its prompts anew each time, and once more with the cache
just written (`seconds_warm`, not in the ratio). Prints one line of JSON: seconds on the clock and of the processor, the
median of their ratios and the spread, and every item that was answered differently. Without a clone the peer is
reported missing and only this side is measured.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor

from nanochat_pl.artifacts import load_artifact
from nanochat_pl.evaluation.core_bundle import CoreTask, read_bundle
from nanochat_pl.evaluation.core_metric import CoreExam, core_exams
from nanochat_pl.evaluation.core_prompts import item_order
from nanochat_pl.evaluation.exam import ItemRecord, chunks_of
from nanochat_pl.evaluation.likelihood import GPTScorer
from nanochat_pl.model.config import GPTConfig
from nanochat_pl.model.gpt import GPT
from nanochat_pl.tokenizer.encoding import Tokenizer


class PeerModel:
    """Our network as nanochat's evaluator calls one."""

    def __init__(self, gpt: GPT) -> None:
        self.gpt, self.max_seq_len = gpt, gpt.config.sequence_len

    def __call__(self, ids: Tensor) -> Tensor:
        return self.gpt(ids)


class PeerTokenizer:
    """Our tokenizer's ids from tiktoken, which is what nanochat encodes with."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        import tiktoken

        ranks = {token: rank for rank, token in enumerate(tokenizer.tokens)}
        self._encoding = tiktoken.Encoding(
            "ours", pat_str=tokenizer.pattern, mergeable_ranks=ranks, special_tokens=tokenizer.special_ids
        )
        self._bos = tokenizer.bos_id

    def get_bos_token_id(self) -> int:
        return self._bos

    def __call__(self, texts: list[str], prepend: int) -> list[list[int]]:
        return [[prepend, *ids] for ids in self._encoding.encode_ordinary_batch(texts, num_threads=8)]


def random_gpt(config: GPTConfig) -> GPT:
    """Return a model none of whose weights is zero."""
    gpt, generator = GPT.on_meta(config).to_empty(device="cpu"), torch.Generator().manual_seed(1)
    gpt.init_buffers()
    with torch.no_grad():
        for name, weight in gpt.named_parameters():
            weight.normal_(0, 1.0 if name == "wte.weight" else weight.size(1) ** -0.5, generator=generator)
    return gpt.requires_grad_(False)


def as_peer_items(task: CoreTask) -> list[dict[str, Any]]:
    """Return the items in the order of asking and in the form of the files."""
    items = [task.items[number] for number in item_order(len(task.items))]
    if task.kind == "multiple_choice":
        return [{"query": c[0], "choices": list(o), "gold": gold} for c, o, gold in items]
    if task.kind == "schema":
        return [{"context_options": list(c), "continuation": o[0], "gold": gold} for c, o, gold in items]
    return [{"context": c[0], "continuation": o[0]} for c, o, _ in items]


class Sides:
    """Both evaluators of one task.

    Args:
        peer: nanochat's `core_eval`, or None.
        gpt: the network of both.
        tokenizer: ours.
        cache: of our prompts.
        full_shots: draw shots from all items.
    """

    def __init__(self, peer: Any, gpt: GPT, tokenizer: Tokenizer, cache: Path, full_shots: bool) -> None:
        self.peer, self.cache, self.full_shots = peer, cache, full_shots
        self.model, self.peer_tokenizer = PeerModel(gpt), PeerTokenizer(tokenizer)

    def ours_anew(self, task: CoreTask, exam: CoreExam) -> list[ItemRecord]:
        """Answer with nothing encoded yet."""
        shutil.rmtree(self.cache, ignore_errors=True)
        return self.ours(task, exam)

    def ours(self, task: CoreTask, exam: CoreExam) -> list[ItemRecord]:
        return [record for chunk in chunks_of([exam]) for record in exam.examine(chunk.indices)]

    def theirs(self, task: CoreTask, exam: CoreExam) -> list[float | str]:
        """Let nanochat answer one item after another; an assertion of its is an answer too."""
        items = as_peer_items(task)
        data = items if self.full_shots else items[: len(exam)]
        meta = {"task_type": task.kind, "num_fewshot": task.num_fewshot}
        meta["continuation_delimiter"] = task.delimiter
        answers: list[float | str] = []
        for index in range(len(exam)):
            try:
                is_right = self.peer.evaluate_example(
                    index, self.model, self.peer_tokenizer, data, "cpu", meta
                )
                answers.append(float(is_right))
            except AssertionError as error:
                answers.append(f"refused: {error}")
        return answers


class TaskResult(NamedTuple):
    """One task, each side once.

    Attributes:
        label: the task's.
        seconds: ours with nothing encoded yet.
        seconds_warm: ours once more.
        peer_seconds: nanochat's.
        cpu_seconds: ours with nothing encoded yet; a neighbour on the machine changes these less.
        peer_cpu_seconds: nanochat's.
        records: ours.
        differences: items that were answered differently.
    """

    label: str
    seconds: float
    seconds_warm: float
    peer_seconds: float
    cpu_seconds: float
    peer_cpu_seconds: float
    records: list[ItemRecord]
    differences: list[str]


class Timed(NamedTuple):
    """Seconds on the clock, seconds of the processor, and what came out."""

    wall: float
    cpu: float
    result: list[Any]


def timed(run: Callable[[], list[Any]]) -> Timed:
    wall, cpu = time.perf_counter(), time.process_time()
    result = run()
    return Timed(time.perf_counter() - wall, time.process_time() - cpu, result)


def measure_task(sides: Sides, task: CoreTask, exam: CoreExam, order: str) -> TaskResult:
    """Run both sides in this order, ours twice."""
    anew = warm = theirs = Timed(0.0, 0.0, [])
    for side in order:
        if side == "A":
            anew = timed(lambda: sides.ours_anew(task, exam))
            warm = timed(lambda: sides.ours(task, exam))
            assert warm.result == anew.result, "encoded prompts read back differ"
        elif sides.peer is not None:
            theirs = timed(lambda: sides.theirs(task, exam))
    differences = [
        f"{task.label}[{record.index}]: ours {record.score}, theirs {answer}"
        for record, answer in zip(anew.result, theirs.result, strict=sides.peer is not None)
        if record.score != answer
    ]
    found = f"{task.label}: {anew.wall:.2f} s, nanochat {theirs.wall:.2f} s"
    print(found, *differences, sep="\n  ", file=sys.stderr, flush=True)
    return TaskResult(
        task.label, anew.wall, warm.wall, theirs.wall, anew.cpu, theirs.cpu, anew.result, differences
    )


def summary(pairs: list[list[TaskResult]], has_peer: bool) -> dict[str, Any]:
    """Return seconds, ratios and differences."""
    records = [record for task in pairs[0] for record in task.records]
    result: dict[str, Any] = {
        "items": len(records),
        "right": sum(record.score for record in records),
        "cropped_items": sum(record.cropped > 0 for record in records),
        "seconds": median_of(pairs, "seconds"),
        "seconds_warm": median_of(pairs, "seconds_warm"),
    }
    if not has_peer:
        return result
    ratios = [total(pair, "peer_seconds") / total(pair, "seconds") for pair in pairs]
    cpu_ratios = [total(pair, "peer_cpu_seconds") / total(pair, "cpu_seconds") for pair in pairs]
    differences = sorted({line for pair in pairs for task in pair for line in task.differences})
    return result | {
        "peer_seconds": median_of(pairs, "peer_seconds"),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "cpu_seconds": median_of(pairs, "cpu_seconds"),
        "peer_cpu_seconds": median_of(pairs, "peer_cpu_seconds"),
        "cpu_ratio": round(statistics.median(cpu_ratios), 3),
        "cpu_ratios": [round(ratio, 3) for ratio in cpu_ratios],
        "cpu_ratio_by_task": {
            task.label: round(task.peer_cpu_seconds / task.cpu_seconds, 2) for task in pairs[0]
        },
        "right_by_task": {task.label: sum(record.score for record in task.records) for task in pairs[0]},
        "answers_equal": not differences,
        "differences": differences,
    }


def total(pair: list[TaskResult], key: str) -> float:
    return sum(getattr(task, key) for task in pair)


def median_of(pairs: list[list[TaskResult]], key: str) -> float:
    return round(statistics.median(total(pair, key) for pair in pairs), 3)


def load_peer(path: Path | None) -> Any:
    """Return nanochat's evaluator, or None where it is not to be had."""
    if path is None or not (path / "nanochat" / "core_eval.py").is_file():
        return None
    sys.path.insert(0, str(path))
    return importlib.import_module("nanochat.core_eval")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer-path", type=Path, default=None, help="a clone of nanochat")
    parser.add_argument("--bundle", type=Path, required=True, help="the folder with core.yaml")
    parser.add_argument("--artifact", type=Path, default=None, help="a model; else a random one")
    parser.add_argument("--tokenizer", type=Path, default=None, help="of the random model")
    parser.add_argument("--tasks", default="", help="labels with commas; all if not given")
    parser.add_argument("--reference_shots", action="store_true", help="draw shots from the problems only")
    for name, default in (("depth", 4), ("vocab_size", 65536), ("sequence_len", 2048)):
        parser.add_argument(f"--{name}", type=int, default=default, help="of the random model")
    for name, default in (("problems", 4), ("pairs", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    if args.artifact is None:
        tokenizer = Tokenizer.load(args.tokenizer)
        vocab_size = max(args.vocab_size, tokenizer.vocab_size)
        gpt = random_gpt(
            GPTConfig.from_depth(args.depth, vocab_size=vocab_size, sequence_len=args.sequence_len)
        )
    else:
        gpt, tokenizer, _, _ = load_artifact(args.artifact)
    bundle, peer = read_bundle(args.bundle), load_peer(args.peer_path)
    load, wall, cpu = os.getloadavg()[0], time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as base:
        os.environ["NANOCHAT_BASE_DIR"] = base
        exams = core_exams(GPTScorer(gpt, tokenizer), bundle, args.problems, args.reference_shots)
        sides = Sides(peer, gpt, tokenizer, Path(base) / "cache", not args.reference_shots)
        wanted = args.tasks.split(",") if args.tasks else bundle.labels
        chosen = [(t, e) for t, e in zip(bundle.tasks, exams, strict=True) if t.label in wanted]
        pairs = [
            [measure_task(sides, task, exam, ("AB", "BA")[pair % 2]) for task, exam in chosen]
            for pair in range(args.pairs)
        ]
    busy = (time.process_time() - cpu) / (time.perf_counter() - wall) / torch.get_num_threads()
    result = {
        "benchmark": "core_eval",
        "peer": "missing" if peer is None else "nanochat",
        **summary(pairs, peer is not None),
        "contended": load / (os.cpu_count() or 1) > 1.2 or busy < 0.9,
        "model": gpt.config.to_dict(),
        "trained": args.artifact is not None,
        "problems": args.problems,
        "reference_shots": args.reference_shots,
        "cpu": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
