"""What was fetched, and whether it still lies there as it came: manifests, sizes, digests, and a look inside.

    data/<corpus>/MANIFEST.json     vouches for a set of shards; `corpus.py` says what is in it
    tasks/MANIFEST.json             vouches for single files: file, bytes, sha256, source

Nothing here needs a network.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from nanochat_pl.system.assets import CORPORA, Asset, RemoteFile
from nanochat_pl.system.corpus import MANIFEST, read_manifest
from nanochat_pl.system.errors import Failure
from nanochat_pl.system.files import git_blob_of, sha256_of, write_json
from nanochat_pl.system.parallel import in_parallel
from nanochat_pl.system.paths import base_dir, corpus_dir, tasks_dir

CHECKERS = min(8, os.cpu_count() or 1)


class Entry(NamedTuple):
    """What a manifest says about a file."""

    bytes: int
    sha256: str


def recorded(asset: Asset) -> dict[str, Entry]:
    """Return what the manifest says about an asset's files, of a corpus about all shards; {} where there is none.

    Raises:
        Failure: the manifest is damaged.
    """
    if asset.name in CORPORA:
        folder = corpus_dir(asset.name)
        shards = read_manifest(folder)["shards"] if (folder / MANIFEST).exists() else []
        return {f"data/{asset.name}/{shard['file']}": _entry(shard) for shard in shards}
    targets = {file.target for file in asset.files}
    files = {f"tasks/{file['file']}": _entry(file) for file in _task_entries()}
    return {target: entry for target, entry in files.items() if target in targets}


def recorded_revision(asset: Asset) -> str:
    """Return the commit that a corpus was fetched from, or the registry's revision where nothing was yet."""
    try:
        made_from = read_manifest(corpus_dir(asset.name))["made_from"] if asset.name in CORPORA else {}
        return str(made_from["revision"])
    except (Failure, KeyError, TypeError):
        return asset.revision


def record(asset: Asset, entries: Mapping[str, Entry], revision: str) -> None:
    """Write the manifest of an asset whose files are complete and right.

    Args:
        asset: what was fetched.
        entries: of its files, by their targets.
        revision: of its repository.
    """
    if asset.name in CORPORA:
        _record_corpus(asset, entries, revision)
        return
    source = f"{asset.source}@{revision}" if revision else asset.source
    ours = [
        {"file": target.removeprefix("tasks/"), **entry._asdict(), "source": source}
        for target, entry in entries.items()
    ]
    names = {entry["file"] for entry in ours}
    others = [entry for entry in _task_entries(lenient=True) if entry["file"] not in names]
    files = sorted(others + ours, key=lambda entry: entry["file"])
    write_json(tasks_dir(MANIFEST), {"version": 1, "files": files})


def complaint_of_file(
    file: RemoteFile, entry: Entry | None, columns: Sequence[str], *, quick: bool
) -> str | None:
    """Return what is wrong with a file on the disk, None if nothing is.

    Args:
        file: one of the registry.
        entry: what the manifest says about it; None if it says nothing.
        columns: that it must have if it is a parquet file.
        quick: look at size and structure only.
    """
    path = base_dir() / file.target
    if not path.is_file():
        return f"{path}: is missing"
    size = path.stat().st_size
    if entry is not None and size != entry.bytes:
        return f"{path}: has {size} bytes, the manifest says {entry.bytes}"
    if not quick:
        expected = file.sha256 or (entry.sha256 if entry else "")
        if expected and sha256_of(path) != expected:
            whose = "the published one" if file.sha256 else "the manifest's"
            return f"{path}: its sha256 is not {whose}"
        if not expected and file.git_blob and git_blob_of(path) != file.git_blob:
            return f"{path}: its git digest is not the published one"
    complaint = complaint_of_content(path, path.suffix, columns)
    return f"{path}: {complaint}" if complaint else None


def check_assets(assets: Sequence[Asset], *, quick: bool) -> dict[str, list[str]]:
    """Compare the files of tasks with the manifest and the registry, several at a time.

    Args:
        assets: none of them a corpus.
        quick: look at sizes and structure only.

    Returns:
        One sentence for each file with something wrong, by asset; assets that are well are not in it.
    """
    try:
        entries = {asset.name: recorded(asset) for asset in assets}
    except Failure as failure:
        return {assets[0].name: [str(failure).splitlines()[0]]}
    jobs = [(asset, file) for asset in assets for file in asset.files]
    done = in_parallel(
        jobs,
        lambda job: _complaint(*job, entries[job[0].name].get(job[1].target), quick=quick),
        workers=CHECKERS,
    )
    complaints = {outcome.job[1].target: outcome.value() for outcome in done}
    found = {asset.name: [c for file in asset.files if (c := complaints[file.target])] for asset in assets}
    for asset in assets:
        if found[asset.name] and not any((base_dir() / file.target).exists() for file in asset.files):
            others = f", and all of {asset.name}" if len(asset.files) > 1 else ""
            found[asset.name] = [f"{base_dir() / asset.files[0].target}: is missing{others}"]
    return {name: findings for name, findings in found.items() if findings}


def is_known(file: RemoteFile, entry: Entry | None) -> bool:
    """Tell whether there is a digest to compare a file with."""
    return bool(file.sha256 or file.git_blob or entry)


def complaint_of_content(path: Path, suffix: str, columns: Sequence[str] = ()) -> str | None:
    """Return what tells from inside a file that it is not what it should be, None if nothing does.

    Args:
        path: the file.
        suffix: of the name it has in the end, which says what it should be.
        columns: that it must have if it is parquet.
    """
    if not path.stat().st_size:
        return "is empty"
    look = {".parquet": _look_at_parquet, ".jsonl": _look_at_lines}.get(suffix, _look_at_text)
    try:
        return look(path, columns)
    except (pa.ArrowException, OSError, UnicodeError) as error:
        return f"damaged, or not what its name says ({(str(error).splitlines() or [''])[0][:120]})"


def _look_at_parquet(path: Path, columns: Sequence[str]) -> str | None:
    with pq.ParquetFile(path, pre_buffer=False) as file:
        names, rows = file.schema_arrow.names, file.metadata.num_rows
    lacking = [column for column in columns if column not in names]
    if lacking:
        return f"has no column `{lacking[0]}`; its columns are {', '.join(names)}"
    return None if rows else "has no rows"


def _look_at_lines(path: Path, columns: Sequence[str]) -> str | None:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                if line.strip():
                    json.loads(line)
            except ValueError:
                return f"line {number} is not JSON"
    return None


def _look_at_text(path: Path, columns: Sequence[str]) -> str | None:
    with path.open("rb") as file:
        start = file.read(512).lstrip().lower()
    return "is a web page" if start.startswith((b"<!doctype", b"<html")) else None


def _complaint(asset: Asset, file: RemoteFile, entry: Entry | None, *, quick: bool) -> str | None:
    if entry is None and (base_dir() / f"{file.target}.gz").is_file():
        return None  # put there by hand, gzipped; whoever reads it will say what is wrong with it
    return complaint_of_file(file, entry, asset.columns, quick=quick)


def _entry(facts: Mapping[str, Any]) -> Entry:
    return Entry(facts["bytes"], facts["sha256"])


def _record_corpus(asset: Asset, entries: Mapping[str, Entry], revision: str) -> None:
    folder, validation = corpus_dir(asset.name), CORPORA[asset.name].validation_file
    shards = []
    for target, entry in sorted(entries.items()):
        name = Path(target).name
        with pq.ParquetFile(folder / name, pre_buffer=False) as file:
            rows = file.metadata.num_rows
        split = "val" if name == validation else "train"
        shards.append({"file": name, "rows": rows, **entry._asdict(), "split": split})
    made_from = {"repository": asset.repo, "revision": revision}
    write_json(folder / MANIFEST, {"version": 1, "made_from": made_from, "shards": shards})


def _task_entries(*, lenient: bool = False) -> Iterable[dict[str, Any]]:
    """Return the entries of the tasks' manifest; a damaged one is none if `lenient`."""
    path = tasks_dir(MANIFEST)
    if not path.exists():
        return []
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["files"]
        for entry in entries:
            str(entry["file"]), int(entry["bytes"]), str(entry["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        if lenient:
            return []
        raise Failure(f"{path}: is not a manifest ({type(error).__name__}: {error})") from None
    return entries
