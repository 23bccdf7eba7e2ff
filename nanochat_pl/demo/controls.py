"""Controls: what the demo's score would be if the model had no way to know.

    undescribed   the same stages in a world whose held-out towns no document tells of      must be near chance
    untrained     SFT straight on weights that have read nothing                            must be near chance
    cloze         the base model finishing the documents' own sentences                     must be near 100 %

If the first two were high, the questions or the training conversations would give the answers away.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nanochat_pl.artifacts import load_artifact, save_artifact
from nanochat_pl.demo.road import BASE, SFT, run_verb, stages
from nanochat_pl.demo.score import cloze_score, facts_of, untrained
from nanochat_pl.evaluation.chat_tasks import TaskScore
from nanochat_pl.system.errors import Failure
from nanochat_pl.system.files import write_json
from nanochat_pl.system.paths import base_dir, run_dir
from nanochat_pl.tasks.world_chat import TownFacts

FOLDER = "demo_controls"
NEAR_CHANCE = 0.1
KNOWS = 0.95


def run_controls(seed: int) -> None:
    """Run the three controls and print them.

    Raises:
        Failure: one of them is not as it must be.
    """
    chance = TownFacts(split="test").chance
    results = {
        "undescribed": _undescribed(seed),
        "untrained": _untrained(),
        "cloze": cloze_score(run_dir(BASE) / "artifact"),
    }
    expected = {
        "undescribed": (
            f"at most {chance + NEAR_CHANCE:.0%}",
            results["undescribed"].score <= chance + NEAR_CHANCE,
        ),
        "untrained": (
            f"at most {chance + NEAR_CHANCE:.0%}",
            results["untrained"].score <= chance + NEAR_CHANCE,
        ),
        "cloze": (f"at least {KNOWS:.0%}", results["cloze"].score >= KNOWS),
    }
    print(f"\n{'control':<14}{'questions':>10}{'score':>8}   expected (chance is {chance:.0%})")
    for name, score in results.items():
        print(f"{name:<14}{score.n:>10}{score.score:>8.1%}   {expected[name][0]}")
    write_json(
        base_dir() / "demo_controls.json",
        {name: {"score": score.score, "n": score.n} for name, score in results.items()} | {"chance": chance},
    )
    wrong = [name for name, (_, holds) in expected.items() if not holds]
    if wrong:
        raise Failure(f"demo: controls are not as they must be: {', '.join(wrong)}")


def _undescribed(seed: int) -> TaskScore:
    """Walk the road in a world that does not tell of the held-out towns."""
    with _base_dir(base_dir() / FOLDER / "undescribed"):
        for name, command in stages(seed, held_out_described=False).items():
            if name not in ("validate", "samples"):
                run_verb(command)
        return facts_of(load_artifact(run_dir(SFT) / "artifact"))


def _untrained() -> TaskScore:
    """Fine-tune weights that have read nothing."""
    trained = load_artifact(run_dir(SFT) / "artifact")
    start = base_dir() / FOLDER / "untrained"
    save_artifact(start, untrained(trained).gpt, trained.tokenizer, {"run": FOLDER, "step": 0})
    run = f"{SFT}_from_untrained"
    run_verb(f"fit --config configs/{SFT}.yaml --run {run} --model.init_args.init_from {start}")
    return facts_of(load_artifact(run_dir(run) / "artifact"))


@contextmanager
def _base_dir(folder: Path) -> Iterator[None]:
    """Point this process and those it starts at another base directory."""
    before = os.environ.get("NANOCHAT_BASE_DIR")
    os.environ["NANOCHAT_BASE_DIR"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["NANOCHAT_BASE_DIR"]
        else:
            os.environ["NANOCHAT_BASE_DIR"] = before
