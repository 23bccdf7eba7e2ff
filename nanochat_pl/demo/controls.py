"""Controls: what the demo's score would be if the model had no way to know.

    undescribed   the same stages in a world whose held-out towns no document tells of
    untrained     fine-tuning alone, on weights that have read nothing, as long as midtraining takes
    cloze         the base model finishing the documents' own sentences about held-out towns

The first two must answer questions about training towns, so that they can speak, and be near chance about held-out
ones: otherwise the questions or the training conversations would give the answers away. The last must know them.
Each lies below `demo_controls/` in the base directory, apart from the demo's own models.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from nanochat_pl.artifacts import load_artifact, save_artifact
from nanochat_pl.demo.road import BASE, SFT, run_verb, stages
from nanochat_pl.demo.score import cloze_score, facts_of, trained_facts_of, untrained
from nanochat_pl.evaluation.exam import Score
from nanochat_pl.system.errors import Failure
from nanochat_pl.system.files import write_json
from nanochat_pl.system.paths import base_dir, run_dir
from nanochat_pl.tasks.world_chat import TownFacts

FOLDER = "demo_controls"
NEAR_CHANCE = 0.1
SPEAKS = 0.9
KNOWS = 0.95
FINE_TUNING = "--model.init_args.lr_fraction 1 --trainer.max_steps 1000"


class Control(NamedTuple):
    """What a control scored, and whether it is as it must be.

    Attributes:
        held_out: questions about held-out towns.
        trained: questions about training towns; None where they are not asked.
        holds: whether both are as they must be.
    """

    held_out: Score
    trained: Score | None
    holds: bool


def run_controls(seed: int) -> None:
    """Run the three controls and print them.

    Raises:
        Failure: one of them is not as it must be.
    """
    chance = TownFacts(split="test").chance
    cloze = cloze_score(run_dir(BASE) / "artifact")
    controls = {
        "undescribed": _must_not_know(*_undescribed(seed), chance),
        "untrained": _must_not_know(*_untrained(seed), chance),
        "cloze": Control(cloze, None, cloze.mean >= KNOWS),
    }
    print(f"\n{'control':<14}{'held-out':>10}{'training':>10}   (chance {chance:.0%})")
    for name, control in controls.items():
        trained = f"{control.trained.mean:.1%}" if control.trained else ""
        verdict = "as it must be" if control.holds else "NOT as it must be"
        print(f"{name:<14}{control.held_out.mean:>10.1%}{trained:>10}   {verdict}")
    write_json(
        base_dir() / "demo_controls.json",
        {name: _facts(c) for name, c in controls.items()} | {"chance": chance},
    )
    wrong = [name for name, control in controls.items() if not control.holds]
    if wrong:
        raise Failure(f"demo: controls are not as they must be: {', '.join(wrong)}")


def _must_not_know(held_out: Score, trained: Score, chance: float) -> Control:
    return Control(held_out, trained, held_out.mean <= chance + NEAR_CHANCE and trained.mean >= SPEAKS)


def _facts(control: Control) -> dict[str, float | int | None]:
    return {
        "score": control.held_out.mean,
        "n": control.held_out.n,
        "training_towns_score": control.trained.mean if control.trained else None,
    }


def _undescribed(seed: int) -> tuple[Score, Score]:
    """Walk the road in a world that does not tell of the held-out towns."""
    with _base_dir(base_dir() / FOLDER / f"undescribed_{seed}"):
        for name, command in stages(seed, held_out_described=False).items():
            if name not in ("validate", "samples"):
                run_verb(command)
        return _scores(SFT)


def _untrained(seed: int) -> tuple[Score, Score]:
    """Fine-tune weights that have read nothing, until they can answer."""
    trained = load_artifact(run_dir(SFT) / "artifact")
    with _base_dir(base_dir() / FOLDER / f"untrained_{seed}"):
        start = base_dir() / "untrained"
        if not start.exists():
            save_artifact(start, untrained(trained).gpt, trained.tokenizer, {"run": FOLDER, "step": 0})
        run_verb(stages(seed)["data"])
        run_verb(f"fit --config configs/{SFT}.yaml --model.init_args.init_from {start} {FINE_TUNING}")
        return _scores(SFT)


def _scores(run: str) -> tuple[Score, Score]:
    artifact = load_artifact(run_dir(run) / "artifact")
    return facts_of(artifact), trained_facts_of(artifact)


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
