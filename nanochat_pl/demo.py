"""The whole road on a laptop: documents of an invented world, tokenizer, training, validation, samples. Offline.

Each stage is the verb a user would type, run in a process of its own and printed first. The demo passes only if the
model learned: its bits per byte must fall below 40 % of the untrained model's.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from nanochat_pl.system.errors import Failure
from nanochat_pl.system.files import write_json, write_text
from nanochat_pl.system.paths import base_dir, run_dir
from nanochat_pl.tasks.world import World

CONFIG = "configs/demo_base.yaml"
RUN = "demo_base"
ROOT = Path(__file__).resolve().parent.parent
LEARNED = 0.4


def demo(seed: int = 0) -> None:
    """Run every stage of the demo, each through the verb a user would type.

    Args:
        seed: seed of the invented world.
    """
    stages = {
        "data": f"data generate world --seed {seed} --force true",
        "tokenizer": "tokenizer train --corpus world --vocab_size 1024",
        "base": f"fit --config {CONFIG} --fresh",
        "validate": f"validate --config {CONFIG}",
        "samples": f"predict --config {CONFIG} --prompts {shlex.quote(str(_write_prompts(seed)))}",
    }
    seconds = {name: _run(command) for name, command in stages.items()}
    first, last = _bits_per_byte(run_dir(RUN) / "metrics" / "val.jsonl")
    write_json(
        base_dir() / "demo.json",
        {"seed": seed, "seconds": seconds, "bpb": {"untrained": first, "base": last}},
    )
    print(f"\nbits per byte {first:.3f} untrained -> {last:.3f} trained ({last / first:.0%})")
    print(f"time:    {sum(seconds.values()):.0f} s in all")
    print(f"curves:  {Path(sys.executable).with_name('tensorboard')} --logdir {run_dir(RUN) / 'logs'}")
    print(f"model:   {run_dir(RUN) / 'artifact'}")
    if last >= LEARNED * first:
        raise Failure(
            f"demo: bits per byte fell to {last / first:.0%} of the untrained model's; expected below {LEARNED:.0%}"
        )


def _write_prompts(seed: int) -> Path:
    """Write beginnings of sentences about the towns of this world, and return their file."""
    towns = [town.name for town in World(seed=seed).towns[:3]]
    prompts = (
        f"The town of {towns[0]}",
        f"Let us visit the town of {towns[1]}.",
        f"The flag of {towns[2]} is",
        "This page is about",
        "One morning the children",
    )
    path = base_dir() / "demo_prompts.txt"
    write_text(path, "\n".join(prompts) + "\n")
    return path


def _run(command: str) -> float:
    """Print a verb, run it, and return the seconds it took.

    Raises:
        Failure: the verb failed; it has said why.
    """
    print(f"\n$ python cli.py {command}", flush=True)
    start = time.perf_counter()
    code = subprocess.run([sys.executable, "cli.py", *shlex.split(command)], cwd=ROOT, check=False).returncode
    if code != 0:
        raise Failure(f"demo: `python cli.py {command}` ended with exit code {code}")
    return round(time.perf_counter() - start, 1)


def _bits_per_byte(path: Path) -> tuple[float, float]:
    """Return the first and the last value of a run's `val.jsonl`."""
    lines: list[dict[str, Any]] = [json.loads(line) for line in path.read_text().splitlines()]
    return lines[0]["val/bpb"], lines[-1]["val/bpb"]
