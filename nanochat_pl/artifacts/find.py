"""From a name to a folder: which artifact a run, a path or nothing at all means."""

from __future__ import annotations

from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path

from nanochat_pl.artifacts.contents import CONFIG, PROVENANCE, read_object
from nanochat_pl.system.errors import BadInput, Failure
from nanochat_pl.system.paths import is_plain_name, run_dir, user_path

ROAD = (
    "base",
    "mid",
    "sft",
)  # the stages that make a chat model, as the files of `configs/` name them: d20_base, …


def find_artifact(source: str) -> Path:
    """Return the artifact folder named by `source`: a run's name, or a folder that is one or holds one.

    Raises:
        BadInput: neither a run nor a folder of this name has an artifact.
    """
    folders = _places(source)
    for folder in folders:
        if (folder / CONFIG).is_file():
            return folder
    if any(user_path(source).glob("model_*.pt")):
        raise BadInput(
            f"{source}: holds checkpoints of nanochat, no artifact\n"
            f"Convert the newest: python cli.py import --from {source} --tokenizer NAME|DIR|FILE --out DIR"
        )
    raise BadInput(
        f"no artifact called {source!r} (looked in {folders[0]} and {folders[1]})\n{_instead_of(source)}"
    )


def _instead_of(source: str) -> str:
    """Return what to do about a missing artifact: train it, where a stage has its name, or take another."""
    if is_plain_name(source) and _config(source).is_file():
        return f"Train it first: {_training(_missing_up_to(source))}"
    finished = sorted(path.parent.parent.name for path in run_dir("").glob(f"*/artifact/{CONFIG}"))
    if near := get_close_matches(source, finished, n=1):
        return f"Did you mean {near[0]}?"
    if finished:
        return f"Choose one of: {', '.join(finished)}; or give the folder of a model."
    return f"No run in {run_dir('')} is finished yet; give the folder of a model, or train one."


def _config(stage: str) -> Path:
    return Path("configs") / f"{stage}.yaml"


def _training(stages: list[str]) -> str:
    """Return the commands that train stages one after the other."""
    return " && ".join(f"python cli.py fit --config {_config(stage)}" for stage in stages)


def _missing_up_to(stage: str) -> list[str]:
    """Return a stage and those before it on its road that are not trained, the first first."""
    size, _, last = stage.rpartition("_")
    before = [f"{size}_{name}" for name in ROAD[: ROAD.index(last)]] if last in ROAD else []
    trained = [place for place, one in enumerate(before, 1) if is_artifact(one)]
    missing = before[max(trained, default=0) :]  # what is before a trained stage is not needed any more
    return [one for one in missing if _config(one).is_file()] + [stage]


def is_artifact(source: str) -> bool:
    """Tell whether `find_artifact` would find one."""
    return any((folder / CONFIG).is_file() for folder in _places(source))


def newest_chat_artifact() -> Path:
    """Return the artifact of the chat stage that finished last.

    Raises:
        Failure: there is none.
    """
    finished: list[tuple[float, Path]] = []
    for provenance in run_dir("").glob(f"*/artifact/{PROVENANCE}"):
        with suppress(Failure):  # a damaged one is its own run's trouble
            facts = read_object(provenance)
            if facts.get("is_chat"):
                finished.append((facts.get("time", 0.0), provenance.parent))
    if not finished:
        raise Failure(
            f"{run_dir('')}: no model that can chat is here{_begun_road()}\n"
            "Make a small one in minutes: python cli.py demo    or name one: --from RUN|DIR"
        )
    return max(finished)[1]


def _begun_road() -> str:
    """Return what a chat model lacks whose earlier stages are trained, and how to train it; "" where none is begun."""
    sizes = [
        path.name.removesuffix(f"_{stage}") for stage in ROAD for path in run_dir("").glob(f"?*_{stage}")
    ]
    for size in sizes:
        missing = _missing_up_to(f"{size}_{ROAD[-1]}")
        if len(missing) < len(ROAD) and all(_config(stage).is_file() for stage in missing):
            return f"; {size} lacks {' and '.join(missing)}\nTrain what it lacks: {_training(missing)}"
    return ""


def _places(source: str) -> tuple[Path, ...]:
    given = user_path(source)
    return run_dir(source) / "artifact", given, given / "artifact"
