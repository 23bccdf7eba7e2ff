"""What a stage reads, found out from its file alone: shards of a corpus, counted by the plan; data of tasks.

configs/d20_base.yaml ─► fineweb_edu, 333 shards · CORE
configs/d20_sft.yaml  ─► what it trains and validates with · what `test` asks of every chat model
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from nanochat_pl.commands.plan import planned_shards
from nanochat_pl.commands.stage_tasks import tasks_of
from nanochat_pl.system.assets import CORE, CORPORA, TASKS, Asset, corpus_shards
from nanochat_pl.system.errors import BadInput, Failure
from nanochat_pl.system.paths import base_dir, corpus_dir, user_path
from nanochat_pl.tasks.base import Task
from nanochat_pl.tasks.exams import CHATCORE_TASKS, chat_task


class CorpusNeed(NamedTuple):
    """A corpus that a stage reads.

    Attributes:
        name: a named corpus, or the folder of its user.
        folder: where it lies.
        train_shards: how many it needs for training; None where it is not fetched, so all are read.
    """

    name: str
    folder: Path
    train_shards: int | None

    def obtain(self, config: str) -> str:
        """Return the command that brings it here, or anew where it is damaged."""
        from nanochat_pl.system.corpus import command_to_obtain

        asset = CORPORA.get(self.name)
        if asset is None:
            return "copy the files there again"
        return command_to_obtain(asset, self.folder, config)


class StageNeeds(NamedTuple):
    """What a stage reads.

    Attributes:
        config: its file.
        corpus: of pretraining; None for chat stages.
        tasks: that it trains and validates with, and that `test` asks.
        assets: of the registry that hold this, the corpus left out.
    """

    config: str
    corpus: CorpusNeed | None
    tasks: list[Task]
    assets: list[Asset]


def needs_of(config: str, *, shards: int | None = None, evaluation: bool = True) -> StageNeeds:
    """Read a stage's file.

    Args:
        config: the file.
        shards: for training, instead of those the plan counts.
        evaluation: whether what only `test` reads is needed.

    Raises:
        BadInput: there is no such file, or it is no stage.
    """
    stage = _stage_of(config)
    settings = dict(stage["data"]["init_args"])
    if "corpus" in settings:
        corpus = _corpus_need(settings, config, shards)
        is_tested = evaluation and corpus.train_shards is not None
        return StageNeeds(config, corpus, [], [TASKS[CORE]] if is_tested else [])
    tasks = tasks_of(settings, config)
    if not tasks:
        raise BadInput(f"--for {config}: has no data.init_args.corpus and no tasks; is it a stage's file?")
    if evaluation and any(task.asset in TASKS for task in tasks):  # else nothing of it comes from the web
        tasks += _exams(stage)
    names = dict.fromkeys(task.asset for task in tasks if task.asset in TASKS)
    return StageNeeds(config, None, tasks, [TASKS[name] for name in names])


def assets_to_fetch(needs: Iterable[StageNeeds]) -> list[Asset]:
    """Return what several stages need and the web has, each once; data of the user's own stays as it is.

    Shards that are here already belong to it, so that they are verified and vouched for like the rest.
    """
    assets: dict[str, Asset] = {}
    numbers: dict[str, set[int]] = {}
    for stage in needs:
        if stage.corpus and stage.corpus.train_shards is not None:
            corpus = numbers.setdefault(stage.corpus.name, _numbers_here(stage.corpus.name))
            corpus.update(range(stage.corpus.train_shards))
        own = {task.asset for task in stage.tasks if is_own(task)}
        assets |= {asset.name: asset for asset in stage.assets if asset.name not in own}
    return [*(corpus_shards(CORPORA[name], found) for name, found in numbers.items()), *assets.values()]


def is_own(task: Task) -> bool:
    """Tell whether a task's data is here in files that were not fetched, in another form or another place."""
    if task.asset not in TASKS or _is_here(TASKS[task.asset]):
        return False
    try:
        return bool(task.find())
    except Failure:
        return False


def command_for(verb: str, configs: Sequence[str], shards: int | None, evaluation: bool) -> str:
    """Return the command line of `data check` or `data fetch`, as it was typed."""
    options = [f"--for {' '.join(configs)}"]
    if shards is not None:
        options.append(f"--shards {shards}")
    if not evaluation:
        options.append("--evaluation false")
    return f"python cli.py data {verb} {' '.join(options)}"


def _corpus_need(settings: dict[str, Any], config: str, shards: int | None) -> CorpusNeed:
    name, path = str(settings["corpus"]), settings.get("path")
    if path is not None:
        return CorpusNeed(str(path), user_path(path), None)
    asset = CORPORA.get(name)
    if asset is None or asset.dataset_id is None:
        return CorpusNeed(name, corpus_dir(name), None)
    wanted = shards if shards is not None else planned_shards(config) - 1
    if wanted < 1:
        raise BadInput(f"--shards={wanted}: training needs 1 at least")
    return CorpusNeed(name, corpus_dir(name), min(wanted, asset.shards - 1))


def _numbers_here(name: str) -> set[int]:
    """Return the numbers of a corpus's training shards that are here."""
    asset, folder = CORPORA[name], corpus_dir(name)
    here = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return {number for number in range(asset.shards - 1) if asset.file_pattern % number in here}


def _exams(stage: dict[str, Any]) -> list[Task]:
    """Return the tasks that `test` and the metrics of training ask."""
    metric = stage.get("chat_metric") or {}
    names = [*(metric.get("tasks") or CHATCORE_TASKS), *(metric.get("training_tasks") or ())]
    return [chat_task(name) for name in dict.fromkeys(names)]


def _is_here(asset: Asset) -> bool:
    return any((base_dir() / file.target).exists() for file in asset.files)


def _stage_of(config: str) -> dict[str, Any]:
    """Return what a stage's file says.

    Raises:
        BadInput: there is no such file, or it is no stage.
    """
    try:
        stage: Any = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"--for {config}: {error.strerror}") from None
    except (UnicodeError, yaml.YAMLError) as error:
        raise BadInput(f"--for {config}: is not YAML ({str(error).splitlines()[0]})") from None
    try:
        dict(stage["data"]["init_args"])
    except (KeyError, TypeError, ValueError):
        raise BadInput(f"--for {config}: has no data.init_args; is it a stage's file?") from None
    return stage
