"""A corpus of text on disk: which files, how many documents, which are for training, which for validation.

    <root>/MANIFEST.json         file, rows, bytes, sha256, split of every shard; written last, it vouches for all
    <root>/shard_00000.parquet   a column `text`, one document a row, zstd, row groups of 1,024

A folder of somebody's own needs no manifest: parquet files with a column `text`, `.jsonl` or `.jsonl.gz` with
a key `text` in every line, `.txt` with documents separated by blank lines. Its last file by name is validation,
or the last hundredth of its documents where there is one file only; `Corpus.notes` says so. Which documents a
rank reads, and in which order, is decided in `data/shards.py`.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from nanochat_pl.system.assets import CORPORA, CorpusAsset
from nanochat_pl.system.errors import Failure
from nanochat_pl.system.files import atomic_write, replace_folder, sha256_of, temporary_beside, write_json
from nanochat_pl.system.parallel import in_parallel

MANIFEST = "MANIFEST.json"
TEXT_COLUMN = "text"
SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz", ".txt")
HELD_OUT_SHARE = 100  # of a single file, one document in a hundred is validation
READ_ROWS = 256
CHECKERS = min(8, os.cpu_count() or 1)  # shards at a time
PARQUET_SETTINGS = {
    "compression": "zstd",
    "compression_level": 3,
    "use_dictionary": False,
    "write_statistics": False,
    "write_page_checksum": True,  # a flipped bit is an error when it is read, not another text
}
REMEDY = "Replace the file or take it away; training can pass it over: --data.init_args.on_bad_shard skip"
VAL_REMEDY = (
    "Replace the file: a shard for validation is never passed over, for scores compare only on the same text"
)

BadShardPolicy = Literal["error", "skip"]


class BadShard(Failure):
    """A file of a corpus is missing, damaged, or no text.

    Args:
        complaint: what is wrong, in one line.
        is_val: whether it serves for validation, and so is never passed over.
    """

    def __init__(self, complaint: str, is_val: bool = False) -> None:
        super().__init__(complaint, is_val)
        self.complaint, self.is_val = complaint, is_val

    def __str__(self) -> str:
        return f"{self.complaint}\n{VAL_REMEDY if self.is_val else REMEDY}"

    def in_registry(self, obtain: str) -> Failure:
        """Return the same for a corpus that a command brings."""
        skip = "" if self.is_val else "; or pass it over: --data.init_args.on_bad_shard skip"
        return Failure(f"{self.complaint}\nBring it anew: {obtain}{skip}")


class Shard(NamedTuple):
    """Some rows of one file, all of one split.

    Attributes:
        path: the file.
        rows: documents of this split in it.
        bytes: size of the file.
        split: "train" or "val".
        first_row: where in the file its rows begin; not 0 only where one file serves both splits.
        sha256: of the file, as the manifest says; "" where there is none.
    """

    path: Path
    rows: int
    bytes: int
    split: str
    first_row: int = 0
    sha256: str = ""


class Corpus(NamedTuple):
    """A corpus that was looked at and found usable.

    Attributes:
        root: its folder.
        train: shards for training, in order of their names.
        val: shards for validation; no document of theirs is in `train`.
        fingerprint: sha256 (hex) over name, rows, bytes and split of every shard.
        notes: what a user should hear, such as which file serves as validation.
    """

    root: Path
    train: tuple[Shard, ...]
    val: tuple[Shard, ...]
    fingerprint: str
    notes: tuple[str, ...]


class TextFile:
    """The documents of one file by row number, in groups that are decoded as a whole.

    Attributes:
        path: the file.
        starts: first row of every group, and the number of rows as the last entry.

    Raises:
        Failure: the file is damaged or is no text, with its name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._parquet = _open_parquet(path) if path.name.endswith(".parquet") else None
        self.starts = self._parquet_starts() if self._parquet else [0, sum(1 for _ in _plain_texts(path))]

    @property
    def rows(self) -> int:
        """Number of documents."""
        return self.starts[-1]

    def group(self, number: int) -> pa.ChunkedArray | pa.Array:
        """Return the texts of one group; a missing text is null."""
        if self._parquet is None:
            return pa.array(_plain_texts(self.path), pa.large_string())
        with _naming(self.path):
            texts = self._parquet.read_row_group(number, columns=[TEXT_COLUMN], use_threads=False).column(0)
        rows = self.starts[number + 1] - self.starts[number]
        if len(texts) != rows:  # page headers have no checksum
            raise BadShard(f"{self.path}: damaged, row group {number} has {len(texts)} of {rows} rows")
        return texts

    def iter_texts(self) -> Iterator[str | None]:
        """Yield every text in order without holding more than one group; a missing text is None."""
        if self._parquet is None:
            yield from _plain_texts(self.path)
            return
        for number in range(len(self.starts) - 1):
            group = self.group(number)
            for start in range(0, len(group), READ_ROWS):
                yield from as_texts(self.path, group.slice(start, READ_ROWS))

    def count_nulls(self) -> int:
        """Read every text without making Python's strings of them, and return how many are missing."""
        nulls = 0
        for number in range(len(self.starts) - 1):
            group = self.group(number)
            with _naming(self.path):
                group.validate(full=True)  # the bytes are UTF-8
            nulls += group.null_count
        return nulls

    def close(self) -> None:
        """Close the file."""
        if self._parquet:
            self._parquet.close()

    def _parquet_starts(self) -> list[int]:
        metadata = self._parquet.metadata
        sizes = (metadata.row_group(number).num_rows for number in range(metadata.num_row_groups))
        starts = list(accumulate(sizes, initial=0))
        if starts[-1] != metadata.num_rows:
            raise BadShard(f"{self.path}: damaged, its groups have {starts[-1]} of {metadata.num_rows} rows")
        return starts


def as_texts(path: Path, column: pa.ChunkedArray | pa.Array) -> list[str | None]:
    """Return a column read from `path` as strings.

    Raises:
        Failure: the bytes are not UTF-8.
    """
    with _naming(path):
        return column.to_pylist()


def open_corpus(root: Path, *, on_bad_shard: BadShardPolicy = "error") -> Corpus:
    """Look at a corpus without reading its texts.

    Args:
        root: a folder with a manifest, or any folder of parquet, `.jsonl`, `.jsonl.gz` or `.txt` files.
        on_bad_shard: "error" refuses a damaged, foreign or missing shard; "skip" says so in the notes and
            goes on, as long as it is no validation shard.

    Returns:
        The corpus. Sizes are compared with the manifest; `check_corpus` compares the contents.

    Raises:
        Failure: nothing usable is here, or a shard is bad; the message names the folder or the file.
    """
    root = Path(root)
    _require_folder(root)
    shards, notes = (_listed if (root / MANIFEST).exists() else _found)(root, on_bad_shard)
    train = tuple(shard for shard in shards if shard.split == "train" and shard.rows)
    val = tuple(shard for shard in shards if shard.split == "val" and shard.rows)
    require_both_splits(root, {shard.split for shard in train + val})
    return Corpus(root, train, val, _fingerprint(train + val), tuple(notes))


def require_both_splits(root: Path, splits: set[str]) -> None:
    """Refuse a corpus that lacks documents for training or for validation.

    Raises:
        Failure: one of "train" and "val" is not among `splits`.
    """
    for split, purpose in (("train", "training"), ("val", "validation")):
        if split not in splits:
            raise Failure(f"{root}: the corpus has no document for {purpose}")


def iter_texts(shards: Sequence[Shard]) -> Iterator[str]:
    """Yield the documents of `shards` in order, holding one row group at a time.

    Raises:
        Failure: a file is damaged or a text is missing; the message names file and row.
    """
    for shard in shards:
        yield from _texts_of(shard)


def iter_validation_texts(shards: Iterable[Shard]) -> Iterator[str]:
    """Yield the texts of shards a run is validated on, of which none is ever passed over."""
    try:
        yield from iter_texts(shards)
    except BadShard as failure:
        raise BadShard(failure.complaint, is_val=True) from failure


def _texts_of(shard: Shard) -> Iterator[str]:
    file = open_shard(shard)
    texts = islice(file.iter_texts(), shard.first_row, shard.first_row + shard.rows)
    for row, text in enumerate(texts, start=shard.first_row):
        yield require_text(text, shard.path, row)
    file.close()


def open_shard(shard: Shard) -> TextFile:
    """Open a shard's file after comparing it with its digest, for parquet from elsewhere has no checksums in it.

    Raises:
        Failure: it is damaged, or not the file the manifest speaks of.
    """
    with _naming(shard.path):
        if shard.sha256 and sha256_of(shard.path) != shard.sha256:
            raise BadShard(f"{shard.path}: its sha256 is not the manifest's")
    return TextFile(shard.path)


def require_text(text: str | None, path: Path, row: int) -> str:
    """Return `text`, or say where it is missing.

    Raises:
        Failure: it is None.
    """
    if text is None:
        raise BadShard(f"{path}: row {row} has no text (null)")
    return text


def write_corpus(
    root: Path,
    texts: Iterable[str],
    *,
    val_texts: Iterable[str],
    rows_per_shard: int,
    row_group_rows: int = 1024,
    made_from: Mapping[str, Any] | None = None,
) -> Corpus:
    """Write shards and their manifest; the folder appears when it is complete, and replaces an older one.

    Args:
        root: folder of the corpus.
        texts: documents for training.
        val_texts: documents for validation; they become the last shards.
        rows_per_shard: documents in a shard; the last of a split may have fewer.
        row_group_rows: documents that are compressed together, the unit of random access.
        made_from: what it was made from, kept in the manifest.

    Returns:
        The corpus, opened.

    Raises:
        Failure: there is no document for one of the splits, or the disk refuses; nothing is left behind.
    """
    building = temporary_beside(Path(root))
    try:
        building.mkdir(parents=True)
        entries: list[dict[str, Any]] = []
        for split, documents in (("train", texts), ("val", val_texts)):
            entries += _write_split(building, len(entries), documents, split, rows_per_shard, row_group_rows)
        write_json(building / MANIFEST, {"version": 1, "made_from": dict(made_from or {}), "shards": entries})
        require_both_splits(root, {entry["split"] for entry in entries})
        replace_folder(building, Path(root))
    except OSError as error:
        raise Failure(f"{root}: could not be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return open_corpus(root)


def read_manifest(root: Path) -> dict[str, Any]:
    """Return the manifest of a corpus.

    Raises:
        Failure: it is no manifest.
    """
    path = Path(root) / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        for entry in manifest["shards"]:
            name, split = entry["file"], entry["split"]
            if Path(name).name != name or split not in ("train", "val"):
                raise ValueError(f"entry {name!r}, split {split!r}")
            int(entry["rows"]), int(entry["bytes"]), str(entry["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Failure(f"{path}: is not a manifest ({type(error).__name__}: {error})") from None
    return manifest


def command_to_obtain(asset: CorpusAsset, folder: Path, config: str) -> str:
    """Return the command that brings a corpus of the registry here, or anew where it is damaged.

    Args:
        asset: the corpus.
        folder: where it lies.
        config: the file of a stage that reads it.
    """
    command = asset.obtain.format(config=config)
    if asset.dataset_id is not None or not folder.is_dir():
        return command
    return " ".join([command, *_settings_of(folder), "--force true"])


def _settings_of(root: Path) -> list[str]:
    """Return the options with which a corpus was generated, as its manifest tells; none where it does not."""
    try:
        made_from = dict(read_manifest(root)["made_from"])
    except (Failure, KeyError, TypeError, ValueError):
        return []
    return [f"--{name} {str(value).lower()}" for name, value in made_from.items() if isinstance(value, int)]


def check_corpus(root: Path, *, quick: bool = False) -> list[str]:
    """Read everything and compare it with the manifest, several shards at a time.

    Args:
        root: folder of the corpus.
        quick: compare sizes and numbers of rows only; what has no manifest is read all the same.

    Returns:
        One sentence for each thing found wrong, naming the file; empty if all is well. Without a manifest
        only what cannot be read is found.
    """
    root = Path(root)
    try:
        has_manifest = (root / MANIFEST).exists()
        entries = (
            read_manifest(root)["shards"] if has_manifest else [{"file": p.name} for p in _found_files(root)]
        )
    except Failure as failure:
        return [_first_line(failure)]
    checked = in_parallel(entries, lambda entry: _check_shard(root, entry, quick), workers=CHECKERS)
    complaints = {done.job["file"]: done.value() for done in checked}
    findings = [finding for entry in entries if (finding := complaints[entry["file"]])]
    named = {entry["file"] for entry in entries}
    findings += [f"{path}: is not in the manifest" for path in _files(root) if path.name not in named]
    return findings or _check_splits(root)


def _check_splits(root: Path) -> list[str]:
    """Return what is wrong with a corpus whose every file is well."""
    try:
        open_corpus(root)
    except Failure as failure:
        return [_first_line(failure)]
    return []


def _first_line(failure: Failure) -> str:
    return str(failure).splitlines()[0]


def _check_shard(root: Path, entry: Mapping[str, Any], quick: bool) -> str | None:
    """Return what is wrong with one shard, None if nothing is."""
    path = root / entry["file"]
    if complaint := _complaint_of_size(path, entry):
        return complaint
    is_quick = quick and "sha256" in entry
    if not is_quick and "sha256" in entry and sha256_of(path) != entry["sha256"]:
        return f"{path}: its sha256 is not the manifest's"
    try:
        file = TextFile(path)
        nulls = 0 if is_quick else file.count_nulls()
        file.close()
    except Failure as failure:
        return _first_line(failure)
    if file.rows != entry.get("rows", file.rows):
        return f"{path}: has {file.rows} rows, the manifest says {entry['rows']}"
    return f"{path}: {nulls} rows have no text (null)" if nulls else None


def _complaint_of_size(path: Path, entry: Mapping[str, Any]) -> str | None:
    """Return what a look at the folder tells of one shard: missing, or of another size."""
    if not path.is_file():
        return f"{path}: is missing"
    size = path.stat().st_size
    if size != entry.get("bytes", size):
        return f"{path}: has {size} bytes, the manifest says {entry['bytes']}"
    return None


def _listed(root: Path, on_bad_shard: BadShardPolicy) -> tuple[list[Shard], list[str]]:
    """Return the shards of the manifest.

    A bad one that may be skipped keeps its rows, so that the numbers of all documents stay what they were.
    """
    notes = []
    shards = []
    for entry in read_manifest(root)["shards"]:
        path = root / entry["file"]
        complaint = _complaint_of_size(path, entry)
        if complaint and (on_bad_shard == "error" or entry["split"] == "val"):
            raise BadShard(complaint, is_val=entry["split"] == "val")
        if complaint:
            notes.append(f"{complaint}; its documents are skipped")
        shards.append(Shard(path, entry["rows"], entry["bytes"], entry["split"], sha256=entry["sha256"]))
    return shards, notes


def _found(root: Path, on_bad_shard: BadShardPolicy) -> tuple[list[Shard], list[str]]:
    """Return the shards of a folder without a manifest, and which of them is validation."""
    paths = _found_files(root)
    pinned = root.name in CORPORA and CORPORA[root.name].validation_file
    val_path = root / pinned if pinned and root / pinned in paths else paths[-1]
    shards, notes = [], []
    for path in paths:
        try:
            shards.append(
                Shard(path, _count_rows(path), path.stat().st_size, "val" if path == val_path else "train")
            )
        except BadShard as failure:
            if on_bad_shard == "error" or path == val_path:
                raise BadShard(failure.complaint, is_val=path == val_path) from failure
            notes.append(f"{_first_line(failure)}; it is skipped")
    if len(paths) == 1:
        return _hold_out(shards[0])
    if val_path.name != pinned:
        missing = f", and {pinned} is not here" if pinned else ""
        notes.append(f"{root}: no {MANIFEST}{missing}; the last file, {val_path.name}, is validation")
    return shards, notes


def _hold_out(shard: Shard) -> tuple[list[Shard], list[str]]:
    """Split a single file: its last hundredth, at least one document, is validation."""
    if shard.rows < 2:
        raise Failure(
            f"{shard.path}: {shard.rows} document(s), but training and validation need one each at least"
        )
    val_rows = max(1, shard.rows // HELD_OUT_SHARE)
    train_rows = shard.rows - val_rows
    train = shard._replace(rows=train_rows, split="train")
    val = shard._replace(rows=val_rows, split="val", first_row=train_rows)
    note = f"{shard.path}: the only file; its last {val_rows} of {shard.rows} documents are validation"
    return [train, val], [note]


def _found_files(root: Path) -> list[Path]:
    """Return the files of a folder without a manifest, at least one."""
    _require_folder(root)
    paths = _files(root)
    if not paths:
        raise Failure(f"{root}: no text here; expected files named *{', *'.join(SUFFIXES)}")
    return paths


def _require_folder(root: Path) -> None:
    if not root.is_dir():
        raise Failure(f"{root}: there is no such folder, so no corpus")


def _files(root: Path) -> list[Path]:
    """Return the files of a folder that can hold documents, by name; hidden ones do not count."""
    return sorted(
        path
        for path in root.iterdir()
        if path.name.endswith(SUFFIXES) and not path.name.startswith(".") and path.is_file()
    )


def _count_rows(path: Path) -> int:
    file = TextFile(path)
    file.close()
    return file.rows


def _fingerprint(shards: Iterable[Shard]) -> str:
    facts = [[shard.path.name, shard.rows, shard.bytes, shard.split, shard.first_row] for shard in shards]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _open_parquet(path: Path) -> pq.ParquetFile:
    """Open a parquet file with a column of strings called `text`."""
    with _naming(path):
        # No threads and no buffering ahead: a loader's worker is forked, and threads do not survive that.
        file = pq.ParquetFile(path, pre_buffer=False, page_checksum_verification=True)
    schema = file.schema_arrow
    if TEXT_COLUMN not in schema.names:
        raise BadShard(f"{path}: has no column `{TEXT_COLUMN}`; its columns are {', '.join(schema.names)}")
    kind = schema.field(TEXT_COLUMN).type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise BadShard(f"{path}: its column `{TEXT_COLUMN}` holds {kind}, not strings")
    return file


def _plain_texts(path: Path) -> Iterator[str | None]:
    """Yield the documents of a `.txt`, `.jsonl` or `.jsonl.gz` file."""
    with (
        _naming(path),
        (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig") as lines,
    ):
        yield from _paragraphs(lines) if path.suffix == ".txt" else _json_texts(path, lines)


def _paragraphs(lines: Iterable[str]) -> Iterator[str]:
    """Yield what stands between blank lines."""
    paragraph: list[str] = []
    for line in lines:
        if line.strip():
            paragraph.append(line)
        elif paragraph:
            yield "".join(paragraph).rstrip("\n")
            paragraph = []
    if paragraph:
        yield "".join(paragraph).rstrip("\n")


def _json_texts(path: Path, lines: Iterable[str]) -> Iterator[str | None]:
    """Yield the key `text` of every line that is not blank."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)[TEXT_COLUMN]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise BadShard(f'{path}: line {number} is not JSON with a key "{TEXT_COLUMN}"') from None
        if text is not None and not isinstance(text, str):
            raise BadShard(f'{path}: line {number}: "{TEXT_COLUMN}" is {type(text).__name__}, not a string')
        if text is not None and not _is_unicode(text):
            raise BadShard(f'{path}: line {number}: "{TEXT_COLUMN}" has half a surrogate pair')
        yield text


def _is_unicode(text: str) -> bool:
    """Tell whether UTF-8 can hold `text`; JSON can spell halves of surrogate pairs, which it cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class _naming:
    """Turn whatever a damaged file makes a library say into a Failure with the file's name."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (pa.ArrowException, OSError, EOFError, zlib.error, UnicodeError)):
            reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
            raise BadShard(f"{self.path}: damaged, or not what its name says ({reason})") from error


def _batches(items: Iterable[str], size: int) -> Iterator[list[str]]:
    """Yield lists of `size` items, the last one shorter."""
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


def _write_split(
    folder: Path, number: int, documents: Iterable[str], split: str, rows_per_shard: int, row_group_rows: int
) -> Iterator[dict[str, Any]]:
    """Write the shards of one split, from `number` on, and yield their entries in the manifest."""
    documents = iter(documents)
    while first := list(islice(documents, min(row_group_rows, rows_per_shard))):
        rest = _batches(islice(documents, rows_per_shard - len(first)), row_group_rows)
        yield _write_shard(folder / f"shard_{number:05d}.parquet", chain([first], rest), split)
        number += 1


def _write_shard(path: Path, groups: Iterable[list[str]], split: str) -> dict[str, Any]:
    """Write one shard, holding one row group at a time, and return its entry in the manifest."""
    schema = pa.schema([(TEXT_COLUMN, pa.string())])
    rows = 0
    with atomic_write(path) as temporary, pq.ParquetWriter(temporary, schema, **PARQUET_SETTINGS) as writer:
        for group in groups:
            writer.write_table(pa.table([group], schema), row_group_size=len(group))
            rows += len(group)
    facts = {"file": path.name, "rows": rows, "bytes": path.stat().st_size}
    return facts | {"sha256": sha256_of(path), "split": split}
