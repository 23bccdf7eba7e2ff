"""CORE against nanochat's evaluator: the same network, tokenizer, items and shots; the answers of both are compared.

    python benchmarks/core_eval.py --peer-path NANOCHAT_CLONE --bundle DIR --tokenizer DIR [--depth 4] [--problems 4]
                                   [--pairs 3] [--tasks a,b] [--full_shots]
    python benchmarks/core_eval.py --peer-path NANOCHAT_CLONE --bundle DIR --artifact DIR --problems 300 --pairs 1

nanochat's `evaluate_example` is asked item after item, as it does itself; it calls the same `GPT.forward`, and crops to
the context as it does for GPT-2. Without an artifact the model is random, none of its weights zero. The sides take
turns A B B A …; this side encodes its prompts anew each time (`cold`) and once more with the cache of the run before
(`warm`, not in the ratio). Prints one line of JSON: seconds, the median of the ratios and their spread, and every item
that was answered differently. Without a clone the peer is reported missing and only this side is measured.
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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor

from nanochat_pl.artifacts import load_artifact
from nanochat_pl.evaluation.core_bundle import Bundle, CoreTask, read_bundle
from nanochat_pl.evaluation.core_metric import CoreExam, core_exams
from nanochat_pl.evaluation.core_prompts import item_order
from nanochat_pl.evaluation.exam import chunks_of
from nanochat_pl.evaluation.likelihood import GPTScorer
from nanochat_pl.model.config import GPTConfig
from nanochat_pl.model.gpt import GPT
from nanochat_pl.tokenizer.encoding import Tokenizer

Answers = dict[str, list[bool | str]]


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


class Timed(NamedTuple):
    """One run of one side over all tasks: seconds by task, and whether each item was right."""

    seconds: dict[str, float]
    answers: Answers


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


def by_peer(peer: Any, model: PeerModel, tokenizer: PeerTokenizer, task: CoreTask, exam: CoreExam, full: bool) -> Any:
    """Let nanochat answer one item after another; an assertion of its is an answer too."""
    items = as_peer_items(task)
    data = items if full else items[: len(exam)]
    meta = {
        "task_type": task.kind,
        "num_fewshot": task.num_fewshot,
        "continuation_delimiter": task.delimiter,
    }
    answers: list[bool | str] = []
    for index in range(len(exam)):
        try:
            answers.append(bool(peer.evaluate_example(index, model, tokenizer, data, "cpu", meta)))
        except AssertionError as error:
            answers.append(f"refused: {error}")
    return answers


def by_ours(exams: Sequence[CoreExam]) -> list[bool | str]:
    """Let this evaluator answer them."""
    return [bool(r.score) for chunk in chunks_of(exams) for r in exams[chunk.exam].examine(chunk.indices)]


def timed(tasks: Sequence[str], run: Callable[[str], list[bool | str]]) -> Timed:
    """Run all tasks of one side."""
    seconds, answers = {}, {}
    for label in tasks:
        begin = time.perf_counter()
        answers[label] = run(label)
        seconds[label] = time.perf_counter() - begin
    return Timed(seconds, answers)


def differences(ours: Answers, theirs: Answers) -> list[str]:
    """Name every item that was answered differently."""
    return [
        f"{label}[{index}]: ours {a}, theirs {b}"
        for label in ours
        for index, (a, b) in enumerate(zip(ours[label], theirs[label], strict=True))
        if a != b
    ]


def total(run: Timed) -> float:
    return sum(run.seconds.values())


def measure(args: argparse.Namespace, gpt: GPT, tokenizer: Tokenizer, bundle: Bundle, cache: Path) -> dict[str, Any]:
    """Run the sides in turns; return seconds, ratios and differences."""
    exams = core_exams(GPTScorer(gpt, tokenizer), bundle, args.problems, not args.full_shots)
    by_label = {task.label: (task, exam) for task, exam in zip(bundle.tasks, exams, strict=True)}
    labels = args.tasks.split(",") if args.tasks else list(by_label)
    peer = load_peer(args.peer_path)
    model, peer_tokenizer = PeerModel(gpt), PeerTokenizer(tokenizer)

    def ours() -> Timed:
        return timed(labels, lambda label: by_ours([by_label[label][1]]))

    def cold() -> Timed:
        shutil.rmtree(cache, ignore_errors=True)
        return ours()

    def theirs() -> Timed:
        return timed(
            labels, lambda label: by_peer(peer, model, peer_tokenizer, *by_label[label], args.full_shots)
        )

    a, b, warm = [], [], []
    for pair in range(args.pairs):
        for side in ("AB", "BA")[pair % 2]:
            if side == "A":
                a.append(cold())
                warm.append(ours())
            elif peer is not None:
                b.append(theirs())
    result: dict[str, Any] = {
        "items": sum(map(len, a[0].answers.values())),
        "right": sum(answer is True for answers in a[0].answers.values() for answer in answers),
        "cropped_prompts": None,
        "seconds": round(statistics.median(map(total, a)), 3),
        "seconds_warm": round(statistics.median(map(total, warm)), 3),
    }
    if peer is None:
        return result
    ratios = [total(slow) / total(fast) for fast, slow in zip(a, b, strict=True)]
    return result | {
        "peer_seconds": round(statistics.median(map(total, b)), 3),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "ratio_by_task": {label: round(b[0].seconds[label] / a[0].seconds[label], 2) for label in labels},
        "right_by_task": {label: sum(x is True for x in a[0].answers[label]) for label in labels},
        "answers_equal": all(run.answers == b[0].answers for run in (*a, *b, *warm)),
        "differences": differences(a[0].answers, b[0].answers),
    }


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
    parser.add_argument("--full_shots", action="store_true", help="draw shots from all items in both")
    for name, default in (("depth", 4), ("sequence_len", 2048), ("problems", 4), ("pairs", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    if args.artifact is None:
        tokenizer = Tokenizer.load(args.tokenizer)
        gpt = random_gpt(
            GPTConfig.from_depth(args.depth, vocab_size=tokenizer.vocab_size, sequence_len=args.sequence_len)
        )
    else:
        gpt, tokenizer, _, _ = load_artifact(args.artifact)
    bundle = read_bundle(args.bundle)
    load, wall, cpu = os.getloadavg()[0], time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as base:
        os.environ["NANOCHAT_BASE_DIR"] = base
        measured = measure(args, gpt, tokenizer, bundle, Path(base))
    busy = (time.process_time() - cpu) / (time.perf_counter() - wall) / torch.get_num_threads()
    result = {
        "benchmark": "core_eval",
        "peer": "missing" if args.peer_path is None else "nanochat",
        **measured,
        "contended": load / (os.cpu_count() or 1) > 1.2 or busy < 0.9,
        "model": gpt.config.to_dict(),
        "trained": args.artifact is not None,
        "problems": args.problems,
        "shots": "full" if args.full_shots else "reference",
        "cpu": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
