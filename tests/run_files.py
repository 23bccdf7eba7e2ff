"""Files of runs as this program leaves them, written without training anything: for tests of what reads them."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

CLASSES = {
    "base": ("nanochat_pl.training.LanguageModel", "nanochat_pl.data.PretrainData"),
    "mid": ("nanochat_pl.training.LanguageModel", "nanochat_pl.data.ChatData"),
    "sft": ("nanochat_pl.training.LanguageModel", "nanochat_pl.data.ChatData"),
    "rl": ("nanochat_pl.training.Reinforce", "nanochat_pl.data.PromptData"),
}
HOUR = 3600.0
BEGAN = 1_780_000_000.0
CORE = {
    "hellaswag_zeroshot": (0.44, 0.25),
    "arc_easy": (0.61, 0.48),
    "boolq": (0.55, -0.18),
    "copa": (0.7, 0.4),
}
CHAT = {
    "ARC-Easy": (0.42, 2376),
    "ARC-Challenge": (0.31, 1172),
    "MMLU": (0.33, 14042),
    "GSM8K": (0.05, 1319),
    "HumanEval": (0.07, 164),
    "SpellingBee": (0.98, 256),
}
GPT2 = {
    "openai-community-gpt2": 0.114,
    "openai-community-gpt2-large": 0.199,
    "openai-community-gpt2-xl": 0.257,
}


def write_lines(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Write JSON lines, as `metrics/*.jsonl` hold them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_run(
    base: Path,
    name: str,
    stage: str,
    *,
    init_from: str | None = None,
    began: float = BEGAN,
    hours: float = 2.0,
    steps: int = 1000,
) -> Path:
    """Write a finished run and return its folder."""
    folder = base / "runs" / name
    (folder / "artifact").mkdir(parents=True)
    model, data = CLASSES[stage]
    config = {
        "model": {"class_path": model, "init_args": {"depth": 20, "init_from": init_from}},
        "data": {"class_path": data, "init_args": {}},
        "run": name,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "plan.json").write_text(json.dumps(plan(steps)))
    ended = began + hours * HOUR
    (folder / "environment.json").write_text(json.dumps({"starts": [start(began)]}))
    provenance = {"run": name, "step": steps, "tokens": steps * 524288, "init_from": init_from, "time": ended}
    (folder / "artifact" / "provenance.json").write_text(json.dumps(provenance))
    write_metrics(folder / "metrics", steps, began, ended)
    return folder


def plan(steps: int) -> dict[str, Any]:
    """Return a plan, whose figures need not fit together."""
    return {
        "parameters": 560_988_160,
        "steps": steps,
        "tokens": steps * 524288,
        "batch_tokens": 524288,
        "world_size": 8,
        "flops_per_token": 3491758080.0,
        "total_flops": 3.918e19,
        "learning_rates": {"embedding": 0.2, "matrix": 0.02},
        "memory_bytes": {"total": 41 * 2**30},
        "time_s": None,
    }


def start(moment: float) -> dict[str, Any]:
    """Return what `fit` notes when it starts on eight H100."""
    return {
        "time": moment,
        "git": {"commit": "abc1234", "branch": "main", "message": "Say it", "dirty": False},
        "code": {"files": 226, "lines": 27870, "characters": 1109738},
        "platform": "Linux 6.8 x86_64",
        "cpu": "Some CPU",
        "cpus": 208,
        "memory_bytes": 2**40,
        "device": "cuda",
        "devices": 8,
        "gpus": ["NVIDIA H100 80GB HBM3"] * 8,
        "gpu_memory_bytes": 8 * 80 * 10**9,
        "cuda": "13.2",
        "dollars_per_gpu_hour": 3.0,
        "versions": {"python": "3.11.7", "torch": "2.15.0", "lightning": "2.6.6", "nanochat_pl": "0.1.0"},
    }


def write_metrics(folder: Path, steps: int, began: float, ended: float) -> None:
    """Write what training logs: a loss that falls, with noise."""
    draw = random.Random(steps)
    every = max(1, steps // 500)

    def moment(step: int) -> float:
        return began + (ended - began) * step / steps

    write_lines(
        folder / "train.jsonl",
        (
            {
                "step": step,
                "time": moment(step),
                "train/loss": 2.7 + 8 * math.exp(-12 * step / steps) + draw.gauss(0, 0.05),
                "train/tokens_per_s": 1_050_000 + draw.gauss(0, 9000),
                "train/mfu": 0.47 + draw.gauss(0, 0.004),
                "train/eta_s": ended - moment(step),
                "lr/embedding": 0.2 * min(1, 5 * (1 - step / steps)),
                "lr/matrix": 0.02 * min(1, 5 * (1 - step / steps)),
            }
            for step in range(every, steps + 1, every)
        ),
    )
    write_lines(
        folder / "val.jsonl",
        (
            {"step": step, "time": moment(step), "val/bpb": 0.8 + 2.4 * math.exp(-9 * step / steps)}
            for step in range(0, steps + 1, max(1, steps // 20))
        ),
    )
    write_lines(
        folder / "samples.jsonl",
        (
            {"step": step, "time": moment(step), "prompt": prompt, "text": f" {prompt.lower()} at {step} …"}
            for step in range(steps // 4, steps + 1, steps // 4)
            for prompt in ("The capital of France is", "The opposite of hot is")
        ),
    )


def core_line(step: int, **changes: Any) -> dict[str, Any]:
    """Return a line of `core.jsonl`."""
    tasks = {
        f"core/{name}{part}": value
        for name, (accuracy, centred) in CORE.items()
        for part, value in (("", accuracy), ("_se", 0.0123), ("_n", 1000), ("_centred", centred))
    }
    whole = {"core/metric": 0.2219, "core/metric_se": 0.004, "core/is_partial": False, "core/missing": []}
    return {"step": step, "time": BEGAN, **whole, **tasks, **changes}


def partial_core_line(
    step: int, value: float = 0.9, missing: Sequence[str] = ("squad", "coqa")
) -> dict[str, Any]:
    """Return a line of `core.jsonl` where tasks were missing: the mean of the others has another name."""
    whole = core_line(step)
    del whole["core/metric"], whole["core/metric_se"]
    partial = {"core/partial": value, "core/partial_se": 0.01, "core/is_partial": True}
    return whole | partial | {"core/missing": list(missing)}


def chat_line(step: int, gain: float = 0.0, **changes: Any) -> dict[str, Any]:
    """Return a line of `chat.jsonl`."""
    tasks = {
        f"chat/{name}{part}": value
        for name, (accuracy, n) in CHAT.items()
        for part, value in (("", min(1.0, accuracy + gain)), ("_se", 0.0101), ("_n", n))
    }
    whole = {"chat/metric": 0.2442 + gain, "chat/metric_se": 0.005, "chat/metric_version": "six-tasks"}
    return {"step": step, "time": BEGAN, **whole, "chat/metric_tasks": list(CHAT), **tasks, **changes}


def write_published(base: Path) -> None:
    """Write GPT-2's scores, in the form of the evaluation bundle."""
    folder = base / "tasks" / "core" / "reference"
    folder.mkdir(parents=True)
    for name, core in GPT2.items():
        rows = [f"{task:<35}, {0.4:<10f}, {core + place / 20:<10f}" for place, task in enumerate(CORE)]
        head = f"{'Task':<35}, {'Accuracy':<10}, {'Centered':<10}"
        text = "\n".join([head, *rows, f"{'CORE':<35}, {'':<10}, {core:<10f}"])
        (folder / f"{name}.csv").write_text(text + "\n")


def write_chain(base: Path) -> None:
    """Write `d20_base`, `d20_mid`, `d20_sft`, `d20_rl`, each from the one before, evaluated."""
    began, before = BEGAN, None
    for place, (stage, hours, steps) in enumerate(
        (("base", 3.3, 21400), ("mid", 0.4, 800), ("sft", 0.15, 650), ("rl", 1.5, 460))
    ):
        folder = write_run(
            base, f"d20_{stage}", stage, init_from=before, began=began, hours=hours, steps=steps
        )
        if stage == "base":
            write_lines(folder / "metrics" / "core.jsonl", [core_line(steps)])
        else:
            write_lines(folder / "metrics" / "chat.jsonl", [chat_line(steps, 0.02 * place)])
        began, before = began + (hours + 0.1) * HOUR, f"d20_{stage}"
    write_published(base)
