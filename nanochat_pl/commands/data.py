"""`data list | check | fetch | generate | repackage`: what the stages read, and how it gets here.

None of these imports torch or lightning: they run on login nodes, in job scripts and in a second. What a stage needs
is found out in `stage_needs.py`; only `fetch` opens a connection.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nanochat_pl.commands.stage_needs import (
    CorpusNeed,
    StageNeeds,
    assets_to_fetch,
    command_for,
    is_own,
    needs_of,
)
from nanochat_pl.system.assets import CORPORA, TASKS, Asset
from nanochat_pl.system.errors import BadInput, Failure, unwritable
from nanochat_pl.system.paths import base_dir, corpus_dir, is_plain_name, user_path
from nanochat_pl.system.printable import size_text

if TYPE_CHECKING:
    from nanochat_pl.system.corpus import Corpus

WORLD_ROWS_PER_SHARD = 8192
REPACKAGED_ROWS_PER_SHARD = 52 * 1024  # about 100 MB of web text
EXAMPLE_STAGE = "configs/d20_base.yaml"


def list_data(for_: list[str] | None = None) -> None:
    """Print what the stages read: size, licence, source, and whether it is here.

    Args:
        for_: stages' files, to see only what they need; null means everything.
    """
    print(f"{base_dir()}:")
    if for_:
        assets = assets_to_fetch(list(map(needs_of, for_)))
        rows = [_listed(asset) for asset in assets]
        rows += [_own_listed(need) for need in _corpora(map(needs_of, for_)) if need.train_shards is None]
        rows.append(("in all", _size(sum(asset.about_bytes for asset in assets)), "", "", ""))
    else:
        here = base_dir() / "data"
        own = sorted(path.name for path in here.iterdir() if path.is_dir()) if here.is_dir() else []
        rows = [
            (
                asset.name,
                _size((asset.shards or 0) * asset.bytes_per_shard),
                _state(corpus_dir(asset.name)),
                asset.licence,
                asset.dataset_id or f"made by: {asset.obtain}",
            )
            for asset in CORPORA.values()
        ]
        rows += [(name, "", _state(corpus_dir(name)), "", "your own") for name in own if name not in CORPORA]
        rows += map(_listed, TASKS.values())
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (text.ljust(width) for text, width in zip(row, widths, strict=True))
        print("  " + "  ".join(cells).rstrip())
    print(f"get what a stage needs: python cli.py data fetch --for {' '.join(for_ or [EXAMPLE_STAGE])}")


def check(for_: list[str], shards: int | None = None, quick: bool = False, evaluation: bool = True) -> None:
    """Compare everything that stages need with sizes and hashes, and read it; offline.

    Args:
        for_: the stages' files.
        shards: training shards that are needed, instead of those the plan counts.
        quick: look at sizes and structure only, not at every byte.
        evaluation: false leaves out what only `test` reads.
    """
    needs = [needs_of(config, shards=shards, evaluation=evaluation) for config in _configs(for_)]
    findings: list[str] = []
    remedies: dict[str, None] = {}
    for config, need in _corpora_with_configs(needs):
        if found := _check_corpus(need, config, quick=quick):
            findings += found
            fetched = need.train_shards is not None
            remedies[command_for("fetch", for_, shards, evaluation) if fetched else need.obtain(config)] = (
                None
            )
    if found := _check_tasks(needs, quick=quick):
        findings += found
        remedies[command_for("fetch", for_, shards, evaluation)] = None
    for finding in findings:
        print(finding)
    if findings:
        raise Failure(
            f"{base_dir()}: {len(findings)} finding(s) for {', '.join(for_)}\nMend: {'; then '.join(remedies)}"
        )


def fetch(for_: list[str], shards: int | None = None, evaluation: bool = True, workers: int = 8) -> None:
    """Download what stages need, verify it, and write manifests; the same command again goes on or repairs.

    Args:
        for_: the stages' files.
        shards: training shards, instead of those the plan counts; the one for validation comes always.
        evaluation: false leaves out what only `test` reads.
        workers: files at a time.
    """
    from nanochat_pl.system.fetching import fetch as fetch_assets

    if workers < 1:
        raise BadInput(f"--workers={workers}: 1 at least")
    needs = [needs_of(config, shards=shards, evaluation=evaluation) for config in _configs(for_)]
    for line in _not_fetched(needs):
        print(line)
    if assets := assets_to_fetch(needs):
        summary = fetch_assets(assets, again=command_for("fetch", for_, shards, evaluation), workers=workers)
        what = f"{summary.fetched} fetched" if summary.fetched else "all of it was here"
        print(f"{base_dir()}: {summary.files} files, {_size(summary.bytes)}, as published; {what}")
    if lacking := [
        (config, need) for config, need in _corpora_with_configs(needs) if not need.folder.is_dir()
    ]:
        config, need = lacking[0]
        raise Failure(
            f"{need.folder}: {need.name} is not here, and it is not downloaded\nGet it: {need.obtain(config)}"
        )
    print(f"verify it, offline: {command_for('check', for_, shards, evaluation)}")


def _configs(for_: Sequence[str]) -> Sequence[str]:
    if not for_:
        raise BadInput(f"--for: name a stage's file, such as {EXAMPLE_STAGE}")
    return for_


def _corpora(needs: Iterator[StageNeeds] | Sequence[StageNeeds]) -> list[CorpusNeed]:
    return [need for _, need in _corpora_with_configs(needs)]


def _corpora_with_configs(needs: Iterator[StageNeeds] | Sequence[StageNeeds]) -> list[tuple[str, CorpusNeed]]:
    """Return every corpus once, with the most shards that a stage needs of it, and that stage's file."""
    found: dict[Path, tuple[str, CorpusNeed]] = {}
    for stage in needs:
        need = stage.corpus
        if need and (
            need.folder not in found or (need.train_shards or 0) > (found[need.folder][1].train_shards or 0)
        ):
            found[need.folder] = stage.config, need
    return list(found.values())


def _not_fetched(needs: Sequence[StageNeeds]) -> Iterator[str]:
    """Yield a line for everything that stages read and that is nobody's to fetch."""
    for need in _corpora(needs):
        if need.train_shards is None and need.folder.is_dir():
            yield f"{need.folder}: is here, and not from the hub"
    for task in {task.asset: task for stage in needs for task in stage.tasks if is_own(task)}.values():
        yield f"{task.find()[0]}: your own, stays as it is ({task.name})"


def _check_corpus(need: CorpusNeed, config: str, *, quick: bool) -> list[str]:
    """Return what is wrong with a corpus; say what is right."""
    from nanochat_pl.system.corpus import MANIFEST, check_corpus, open_corpus

    if not need.folder.is_dir():
        return [f"{need.folder}: {need.name} is not here"]
    is_vouched_for = (need.folder / MANIFEST).exists()
    if need.train_shards is not None and not is_vouched_for:
        return [f"{need.folder}: has no {MANIFEST}, so nothing says what its shards should be"]
    if findings := check_corpus(need.folder, quick=quick):
        return findings
    corpus = open_corpus(need.folder)
    if need.train_shards is not None and len(corpus.train) < need.train_shards:
        return [
            f"{need.folder}: {config} needs {need.train_shards} shards for training, {len(corpus.train)} are here"
        ]
    rows = sum(shard.rows for shard in (*corpus.train, *corpus.val))
    print(
        f"{need.folder}: {len(corpus.train)} + {len(corpus.val)} shards, {rows:,} documents, "
        + (_compared(quick) if is_vouched_for else f"readable; it has no {MANIFEST}")
    )
    return []


def _check_tasks(needs: Sequence[StageNeeds], *, quick: bool) -> list[str]:
    """Return what is wrong with the data of tasks; say how many items each has."""
    from nanochat_pl.system.fetched import check_assets, recorded

    tasks = {f"{type(task)} {vars(task)}": task for stage in needs for task in stage.tasks}  # each once
    own = {task.asset for task in tasks.values() if is_own(task)}
    assets = {asset.name: asset for stage in needs for asset in stage.assets if asset.name not in own}
    bad = check_assets(list(assets.values()), quick=quick)
    findings = [finding for found in bad.values() for finding in found]
    for task in tasks.values():
        if task.asset in bad:
            continue
        split = f" {task.split}" if hasattr(task, "split") else ""
        whose = "; your own, nothing to compare with" if task.asset in own else ""
        try:
            print(f"{task.name}{split}: {len(task):,} items{whose}")
        except Failure as failure:
            findings.append(str(failure).splitlines()[0])
    for asset in assets.values():
        if asset.archive and asset.name not in bad:
            compared = _compared(quick) if recorded(asset) else "your own, nothing to compare with"
            print(f"{asset.name}: {len(asset.files)} files, {compared}")
    return findings


def _compared(quick: bool) -> str:
    return "sizes are the manifest's" if quick else "sizes and sha256 are the manifest's"


def _listed(asset: Asset) -> tuple[str, str, str, str, str]:
    """Return a line of `data list`."""
    here = sum((base_dir() / file.target).is_file() for file in asset.files)
    count = len(asset.files)
    state = "here" if here == count else f"{here} of {count} files" if here else "not here"
    return asset.name, _size(asset.about_bytes), state, asset.licence, asset.source


def _own_listed(need: CorpusNeed) -> tuple[str, str, str, str, str]:
    licence = CORPORA[need.name].licence if need.name in CORPORA else ""
    return need.name, "", _state(need.folder), licence, need.obtain(EXAMPLE_STAGE)


def _size(size: int) -> str:
    """Return a size, "" for an unknown one."""
    return size_text(size) if size else ""


def _state(folder: Path) -> str:
    """Return in a few words how a corpus lies on the disk."""
    from nanochat_pl.system.corpus import open_corpus

    if not folder.is_dir():
        return "not here"
    try:
        corpus = open_corpus(folder)
    except Failure:
        return "damaged; see data check"
    shards = (*corpus.train, *corpus.val)
    return f"{len(shards)} shards, {sum(shard.bytes for shard in shards) / 1e6:,.1f} MB"


def generate(
    what: Literal["world"],
    documents: int = 24_000,
    val_documents: int = 600,
    seed: int = 0,
    towns: int = 60,
    held_out_described: bool = True,
    force: bool = False,
) -> None:
    """Write the shards of a corpus that is made here: the documents of an invented world.

    Args:
        what: which one.
        documents: documents for training.
        val_documents: documents for validation; none of them is among those for training.
        seed: another seed gives other names and facts.
        towns: how many towns there are.
        held_out_described: false leaves out the towns about which no question is trained on, for a control.
        force: replace a corpus made with other settings.
    """
    from nanochat_pl.tasks import world as worlds

    for name, value in (("documents", documents), ("val_documents", val_documents)):
        if value < 1:
            raise BadInput(f"--{name}={value}: at least 1 is needed")
    folder = corpus_dir(what)
    settings = {
        "documents": documents,
        "val_documents": val_documents,
        "seed": seed,
        "towns": towns,
        "held_out_described": held_out_described,
    }
    if not force and _is_made(folder, settings):
        print(f"{folder}: is here, made with these settings")
        return
    world = worlds.World(seed=seed, towns=towns, held_out_described=held_out_described)
    corpus = _written(
        folder,
        islice(worlds.documents(world), documents),
        val_texts=islice(worlds.documents(world, split="val"), val_documents),
        rows_per_shard=WORLD_ROWS_PER_SHARD,
        made_from=settings,
    )
    size = sum(shard.bytes for shard in (*corpus.train, *corpus.val))
    print(
        f"{folder}: {documents:,} documents for training, {val_documents:,} for validation, {size / 1e6:.1f} MB"
    )


def _written(folder: Path, texts: Iterable[str], **settings: Any) -> Corpus:
    """Write a corpus as `write_corpus` does, and say what to do where the disk refuses.

    Raises:
        Failure: the disk refuses, or there is no document for one of the splits; nothing is left behind.
    """
    from nanochat_pl.system.corpus import write_corpus

    try:
        return write_corpus(folder, texts, **settings)
    except Failure as failure:
        if isinstance(failure.__cause__, OSError):
            raise unwritable(folder, failure.__cause__, "export NANOCHAT_BASE_DIR=DIR") from failure
        raise


def _is_made(folder: Path, settings: dict[str, int]) -> bool:
    """Tell whether a corpus made with these settings is here, its shards of their sizes; say so where they are not.

    Raises:
        BadInput: one made with other settings is here.
    """
    from nanochat_pl.system.corpus import MANIFEST, open_corpus, read_manifest

    if not (folder / MANIFEST).exists():
        return False
    made_from = read_manifest(folder).get("made_from")
    if made_from != settings:
        raise BadInput(
            f"{folder}: is here, made with {made_from}\nAdd --force true to replace it by one made with {settings}."
        )
    try:
        open_corpus(folder)
    except Failure as failure:
        print(f"{str(failure).splitlines()[0]}; made anew")
        return False
    return True


def repackage(source: str, name: str | None = None, force: bool = False) -> None:
    """Make shards, with a manifest, from a folder of parquet, JSONL or text files.

    Args:
        source: the folder; its last file, or the last hundredth of a single one, becomes validation.
        name: name of the new corpus; null means the folder's.
        force: replace a corpus of this name.
    """
    from nanochat_pl.system.corpus import iter_texts, open_corpus

    if not user_path(source).is_dir():
        raise BadInput(f"{source}: there is no such folder")
    name = name or user_path(source).resolve().name
    folder = corpus_dir(name)
    if not is_plain_name(name):
        raise BadInput(f"--name={name}: a name, not a path; the shards go to {base_dir() / 'data'}")
    if folder.exists() and not force:
        raise BadInput(f"{folder}: is here already\nAdd --force true to replace it.")
    given = open_corpus(user_path(source))
    for note in given.notes:
        print(note, file=sys.stderr)
    corpus = _written(
        folder,
        iter_texts(given.train),
        val_texts=iter_texts(given.val),
        rows_per_shard=REPACKAGED_ROWS_PER_SHARD,
        made_from={"source": Path(source).name},
    )
    print(
        f"{folder}: {len(corpus.train)} + {len(corpus.val)} shards; use it with --data.init_args.corpus {name}"
    )
