"""`data list | check | fetch | generate | repackage`: what the stages read, and how it gets here.

None of these imports torch or lightning: they run on login nodes, in job scripts and in a second.
"""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import yaml

from nanochat_pl.commands.stage_tasks import check_tasks
from nanochat_pl.system.assets import CORPORA, CorpusAsset
from nanochat_pl.system.errors import BadInput, Failure
from nanochat_pl.system.paths import base_dir, corpus_dir

WORLD_ROWS_PER_SHARD = 8192
REPACKAGED_ROWS_PER_SHARD = 52 * 1024  # about 100 MB of web text


def list_corpora() -> None:
    """Print every known corpus: what it is, whether it is here, and the command that gets it."""
    here = base_dir() / "data"
    own = sorted(path.name for path in here.iterdir() if path.is_dir()) if here.is_dir() else []
    print(f"{here}:")
    for asset in CORPORA.values():
        print(f"  {asset.name:<14} {_state(corpus_dir(asset.name)):<28} {asset.source} ({asset.licence})")
        if asset.name not in own:
            print(f"  {'':<14} get it: {asset.obtain.format(config='configs/d20_base.yaml')}")
    for name in own:
        if name not in CORPORA:
            print(f"  {name:<14} {_state(corpus_dir(name)):<28} your own")


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


def check(for_: str) -> None:
    """Read everything a stage needs, offline, and compare it with sizes and hashes.

    Args:
        for_: the stage's configuration file.
    """
    from nanochat_pl.system.corpus import MANIFEST, check_corpus, open_corpus

    if is_chat_stage(settings := _settings_of(for_)):
        check_tasks(settings, for_)
        return
    source = _source_of(for_)
    folder = source.folder()
    if not folder.is_dir():
        raise Failure(f"{folder}: {source.name} is not here\nGet it: {source.obtain(for_)}")
    findings = check_corpus(folder)
    for finding in findings:
        print(finding)
    if findings:
        raise Failure(f"{folder}: {len(findings)} finding(s)\nReplace these files: {source.obtain(for_)}")
    corpus = open_corpus(folder)
    compared = (
        "sizes and sha256 are the manifest's"
        if (folder / MANIFEST).exists()
        else f"readable; it has no {MANIFEST}"
    )
    rows = sum(shard.rows for shard in (*corpus.train, *corpus.val))
    print(f"{folder}: {len(corpus.train)} + {len(corpus.val)} shards, {rows:,} documents, {compared}")


def fetch(for_: str) -> None:
    """Say where to put what a stage needs; this version does not download.

    Args:
        for_: the stage's configuration file.
    """
    if is_chat_stage(settings := _settings_of(for_)):
        _where_to_put_tasks(settings, for_)
        return
    source = _source_of(for_)
    asset = CORPORA.get(source.name)
    if source.folder().is_dir():
        print(f"{source.folder()}: {source.name} is here; python cli.py data check --for {for_} verifies it")
    elif asset is None or asset.dataset_id is None:
        raise Failure(
            f"{source.folder()}: {source.name} is not here, and it is not downloaded\nGet it: {source.obtain(for_)}"
        )
    else:
        raise Failure(
            f"{source.folder()}: downloading is not built in yet; put {asset.file_pattern % 0}, ... and the validation "
            f"shard {asset.validation_file} there:\n"
            f"hf download {asset.dataset_id} --repo-type dataset --local-dir {source.folder()}"
        )


class _Source:
    """Where a stage reads its texts: a named corpus, or a folder of its user's."""

    def __init__(self, name: str, path: str | None) -> None:
        self.name, self.path = name if path is None else path, path

    def folder(self) -> Path:
        return Path(self.path).expanduser() if self.path else corpus_dir(self.name)

    def obtain(self, config: str) -> str:
        asset: CorpusAsset | None = None if self.path else CORPORA.get(self.name)
        return asset.obtain.format(config=config) if asset else "copy the files there again"


def _where_to_put_tasks(settings: dict[str, Any], config: str) -> None:
    """Say which tasks' files are expected where, as long as one is missing."""
    try:
        check_tasks(settings, config)
    except Failure:
        raise Failure(
            f"{base_dir() / 'tasks'}: downloading is not built in yet; put the files named above there\n"
            f"See docs/how-to/chat-data.md, then: python cli.py data check --for {config}"
        ) from None


def _source_of(config: str) -> _Source:
    """Return the corpus that a stage's file names.

    Raises:
        BadInput: there is no such file, or it is no stage.
    """
    settings = _settings_of(config)
    if "corpus" not in settings:
        raise BadInput(f"--for {config}: has no data.init_args.corpus; is it a stage's file?")
    return _Source(settings["corpus"], settings.get("path"))


def is_chat_stage(settings: dict[str, Any]) -> bool:
    """Tell whether a stage reads tasks instead of a corpus."""
    return "train" in settings


def _settings_of(config: str) -> dict[str, Any]:
    """Return `data.init_args` of a stage's file.

    Raises:
        BadInput: there is no such file, or it is no stage.
    """
    try:
        stage: Any = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"--for {config}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise BadInput(f"--for {config}: is not YAML ({str(error).splitlines()[0]})") from None
    try:
        return dict(stage["data"]["init_args"])
    except (KeyError, TypeError, ValueError):
        raise BadInput(f"--for {config}: has no data.init_args; is it a stage's file?") from None


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
    from nanochat_pl.system.corpus import MANIFEST, read_manifest, write_corpus
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
    if (folder / MANIFEST).exists() and not force:
        made_from = read_manifest(folder).get("made_from")
        if made_from == settings:
            print(f"{folder}: is here, made with these settings")
            return
        raise BadInput(
            f"{folder}: is here, made with {made_from}\nAdd --force true to replace it by one made with {settings}."
        )
    world = worlds.World(seed=seed, towns=towns, held_out_described=held_out_described)
    corpus = write_corpus(
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


def repackage(source: str, name: str | None = None, force: bool = False) -> None:
    """Make shards, with a manifest, from a folder of parquet, JSONL or text files.

    Args:
        source: the folder; its last file, or the last hundredth of a single one, becomes validation.
        name: name of the new corpus; null means the folder's.
        force: replace a corpus of this name.
    """
    from nanochat_pl.system.corpus import iter_texts, open_corpus, write_corpus

    if not Path(source).expanduser().is_dir():
        raise BadInput(f"{source}: there is no such folder")
    name = name or Path(source).expanduser().resolve().name
    folder = corpus_dir(name)
    if Path(name).name != name:
        raise BadInput(f"--name={name}: a name, not a path; the shards go to {base_dir() / 'data'}")
    if folder.exists() and not force:
        raise BadInput(f"{folder}: is here already\nAdd --force true to replace it.")
    given = open_corpus(Path(source).expanduser())
    for note in given.notes:
        print(note, file=sys.stderr)
    corpus = write_corpus(
        folder,
        iter_texts(given.train),
        val_texts=iter_texts(given.val),
        rows_per_shard=REPACKAGED_ROWS_PER_SHARD,
        made_from={"source": Path(source).name},
    )
    print(
        f"{folder}: {len(corpus.train)} + {len(corpus.val)} shards; use it with --data.init_args.corpus {name}"
    )
