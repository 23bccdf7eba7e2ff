"""The whole road on a laptop: documents of an invented world, tokenizer, base model, midtraining, SFT, a conversation.

Each stage is the verb a user would type, run in a process of its own and printed first; a second run continues where
the first one stopped. The demo passes only if the chatbot answers: nine in ten questions about towns it has only
read about, words it has never seen, sums it has to hand to the tool.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat_pl.system.corpus import MANIFEST, read_manifest
from nanochat_pl.system.errors import Failure
from nanochat_pl.system.files import move_aside, write_json, write_text
from nanochat_pl.system.paths import base_dir, corpus_dir, run_dir
from nanochat_pl.tasks.world import World

if TYPE_CHECKING:
    from nanochat_pl.demo.score import Scores

ROOT = Path(__file__).resolve().parents[2]
BASE, MID, SFT = "demo_base", "demo_mid", "demo_sft"
PASSED = 0.9
LEARNED = 0.4  # of the untrained model's bits per byte


def demo(seed: int = 0, controls: bool = False) -> None:
    """Run every stage of the demo, each through the verb a user would type.

    Args:
        seed: seed of the invented world.
        controls: afterwards run the controls that show what the score means; they take twice as long.
    """
    make_room_for(seed)
    write_prompts(seed)
    seconds = {name: run_verb(command) for name, command in stages(seed).items()}
    first, last = bits_per_byte(run_dir(BASE) / "metrics" / "val.jsonl")
    report = evaluated(seed, seconds)
    run_verb(f"chat --from {SFT} --prompt {shlex.quote(_question())} --temperature 0")
    run_verb(f"report --runs {BASE},{MID},{SFT}")
    print(table(report))
    print(f"bits per byte of the base model: {first:.3f} untrained, {last:.3f} trained ({last / first:.0%})")
    print(f"time:    {sum(report['seconds'].values()):.0f} s")
    print(f"curves:  {Path(sys.executable).with_name('tensorboard')} --logdir {run_dir('')}")
    print("talk:    python cli.py chat")
    print(f"report:  {base_dir() / 'report' / 'report.html'}")
    if controls:
        from nanochat_pl.demo.controls import run_controls

        run_controls(seed)
    if last >= LEARNED * first:
        raise Failure(f"demo: bits per byte fell to {last / first:.0%} only; expected below {LEARNED:.0%}")
    failed = [name for name in ("facts", "spelling", "arithmetic") if report[name]["score"] < PASSED]
    if failed:
        raise Failure(f"demo: less than {PASSED:.0%} of the answers are right: {', '.join(failed)}")


def stages(seed: int, *, held_out_described: bool = True) -> dict[str, str]:
    """Return the command of each stage."""
    described = "" if held_out_described else " --held_out_described false"
    return {
        "data": f"data generate world --seed {seed}{described}",
        "tokenizer": "tokenizer train --corpus world --vocab_size 1024",
        "base": f"fit --config configs/{BASE}.yaml",
        "validate": f"validate --config configs/{BASE}.yaml",
        "samples": f"predict --config configs/{BASE}.yaml --prompts {shlex.quote(str(_prompts_file()))}",
        "mid": f"fit --config configs/{MID}.yaml",
        "sft": f"fit --config configs/{SFT}.yaml",
    }


def make_room_for(seed: int) -> None:
    """Move the runs and the documents of another world aside."""
    world = corpus_dir("world")
    if not world.exists() or _is_of(world, seed):
        return
    for folder in (
        run_dir(BASE),
        run_dir(MID),
        run_dir(SFT),
        world,
    ):  # the world last: it is what is looked at
        if folder.exists():
            print(f"{folder} is of another world; it is now {move_aside(folder)}")


def _is_of(world: Path, seed: int) -> bool:
    """Tell whether the documents are those of the demo with this seed."""
    made_from = read_manifest(world).get("made_from") or {} if (world / MANIFEST).exists() else {}
    return made_from.get("seed") == seed and made_from.get("held_out_described") is True


def write_prompts(seed: int) -> None:
    """Write beginnings of sentences, some about towns of this world, for the base model to continue."""
    towns = [town.name for town in World(seed=seed).towns[:3]]
    prompts = (
        f"The town of {towns[0]}",
        f"Let us visit the town of {towns[1]}.",
        f"The flag of {towns[2]} is",
        "This page is about",
        "One morning the children",
    )
    write_text(_prompts_file(), "\n".join(prompts) + "\n")


def _prompts_file() -> Path:
    return base_dir() / "demo_prompts.txt"


def bits_per_byte(path: Path) -> tuple[float, float]:
    """Return the first and the last value of a run's `val.jsonl`."""
    lines: list[dict[str, Any]] = [json.loads(line) for line in path.read_text().splitlines()]
    return lines[0]["val/bpb"], lines[-1]["val/bpb"]


def run_verb(command: str) -> float:
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


def evaluated(seed: int, seconds: dict[str, float]) -> dict[str, Any]:
    """Return what `demo.json` holds; models are asked only if they are not those it speaks of."""
    from nanochat_pl.artifacts import load_artifact
    from nanochat_pl.demo import score

    path = base_dir() / "demo.json"
    sft = load_artifact(run_dir(SFT) / "artifact")
    made = sft.provenance["time"]
    if path.exists() and (found := json.loads(path.read_text())).get("model_time") == made:
        return found
    start = time.perf_counter()
    print("\nasking the chat model, the base model and an untrained one …", flush=True)
    last, base, first = (
        score.scores_of(model)
        for model in (sft, load_artifact(run_dir(BASE) / "artifact"), score.untrained(sft))
    )
    seconds = seconds | {"test": round(time.perf_counter() - start, 1)}
    report = _results(last, base, first) | {"seconds": seconds, "seed": seed, "model_time": made}
    write_json(path, report)
    return report


def _results(last: Scores, base: Scores, first: Scores) -> dict[str, Any]:
    from nanochat_pl.tasks.world_chat import TownFacts

    chance = {"facts": TownFacts(split="test").chance, "spelling": 0.0, "arithmetic": 0.0}
    return {
        name: {
            "score": getattr(last, name).mean,
            "n": getattr(last, name).n,
            "base_score": getattr(base, name).mean,
            "untrained_score": getattr(first, name).mean,
            "chance": chance[name],
        }
        for name in last._fields
    }


def _question() -> str:
    """Return a question about a held-out town."""
    from nanochat_pl.tasks.world_chat import TownFacts

    return TownFacts(split="test")[0]["messages"][0]["content"]


def table(report: dict[str, Any]) -> str:
    """Return the results for people."""
    meanings = {
        "facts": "held-out towns, known from documents only",
        "spelling": "words never seen before",
        "arithmetic": "sums never seen before, by the tool",
    }
    lines = ["", f"{'':<52}{'questions':>10}{'chat':>8}{'base':>8}{'untrained':>11}{'chance':>8}"]
    for name, meaning in meanings.items():
        row = report[name]
        shares = (f"{row[key]:.1%}" for key in ("score", "base_score", "untrained_score", "chance"))
        chat, base, untrained, chance = shares
        lines.append(f"{name:<11}{meaning:<41}{row['n']:>10}{chat:>8}{base:>8}{untrained:>11}{chance:>8}")
    return "\n".join([*lines, ""])
