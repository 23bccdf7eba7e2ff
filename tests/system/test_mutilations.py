"""Sixty ways to spoil shards: each is found by `data check`, and training refuses the shard or leaves it out.

The shards are written as FineWeb-Edu's are, without checksums inside, so that nothing but the manifest can tell.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_hub import parquet

from nanochat_pl.data.shards import Documents
from nanochat_pl.system.assets import CORPORA, corpus_shards
from nanochat_pl.system.corpus import check_corpus, iter_texts, open_corpus
from nanochat_pl.system.errors import Failure
from nanochat_pl.system.fetched import Entry, record
from nanochat_pl.system.files import sha256_of

TRAIN, ROWS = 4, 64
FINEWEB = CORPORA["fineweb_edu"]
SPOILT = "shard_00001.parquet"  # what all of them are about
PAGE = b"<!DOCTYPE html><html><title>504 Gateway Time-out</title></html>"
Mutilation = Callable[[Path], object]


def texts_of(number: int) -> list[str]:
    rng = random.Random(number)
    return [f"{number}/{row} " + " ".join(rng.choices(WORDS, k=30)) for row in range(ROWS)]


WORDS = ["river", "stone", "the", "a", "of", "wind", "mill", "bread", "house", "and", "seven", "grey"]


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """A base directory with a fetched corpus."""
    base = tmp_path_factory.mktemp("good")
    asset = corpus_shards(FINEWEB, set(range(TRAIN)))
    entries = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_BASE_DIR", str(base))
        for file in asset.files:
            path = base / file.target
            path.parent.mkdir(parents=True, exist_ok=True)
            number = int(path.stem.rpartition("_")[2])
            path.write_bytes(parquet({"text": texts_of(number)}, compression="zstd", row_group_size=16))
            entries[file.target] = Entry(path.stat().st_size, sha256_of(path))
        record(asset, entries, "c" * 40)
    return base / "data" / "fineweb_edu"


def size_of(path: Path) -> int:
    return path.stat().st_size


def truncated(share: float) -> Mutilation:
    return lambda path: path.write_bytes(path.read_bytes()[: int(size_of(path) * share)])


def shorter(count: int) -> Mutilation:
    return lambda path: path.write_bytes(path.read_bytes()[:-count])


def flipped(share: float, bit: int) -> Mutilation:
    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[min(int(len(content) * share), len(content) - 1)] ^= 1 << bit
        path.write_bytes(content)

    return flip


def zeroed(share: float, count: int) -> Mutilation:
    def zero(path: Path) -> None:
        content, at = path.read_bytes(), int(size_of(path) * share)
        path.write_bytes((content[:at] + bytes(count) + content[at + count :])[: len(content)])

    return zero


def padded(content: bytes) -> Mutilation:
    """Another content of the very same size, as far as it fits."""
    return lambda path: path.write_bytes(content[: size_of(path)].ljust(size_of(path), b" "))


def other(columns: dict[str, list]) -> Mutilation:
    return lambda path: path.write_bytes(parquet(columns))


def copied_over(name: str) -> Mutilation:
    return lambda path: shutil.copy(path.with_name(name), path)


def swapped(name: str) -> Mutilation:
    def swap(path: Path) -> None:
        path.rename(path.with_name("aside"))
        path.with_name(name).rename(path)
        path.with_name("aside").rename(path.with_name(name))

    return swap


MUTILATIONS: dict[str, Mutilation] = {
    **{f"truncated to {share:.1%}": truncated(share) for share in (0, 0.001, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)},
    **{f"shorter by {count}": shorter(count) for count in (1, 4, 8, 100)},
    **{f"bit {bit} at {share:.0%}": flipped(share, bit)
       for bit, share in enumerate((0, 0.001, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95))},
    **{f"bit {bit} near the end, {share:.1%}": flipped(share, bit)
       for bit, share in enumerate((0.97, 0.98, 0.99, 0.995, 0.998, 0.999, 1.0, 0.996))},
    **{f"{count} zeros at {share:.0%}": zeroed(share, count)
       for share in (0, 0.3, 0.6) for count in (8, 512, 4096)},
    "all zeros": lambda path: path.write_bytes(bytes(size_of(path))),
    "a web page": lambda path: path.write_bytes(PAGE),
    "a web page of its size": padded(PAGE),
    "noise of its size": lambda path: path.write_bytes(random.Random(3).randbytes(size_of(path))),
    "other column": other({"body": texts_of(1)}),
    "text as numbers": other({"text": list(range(ROWS))}),
    "text as lists": other({"text": [[text] for text in texts_of(1)]}),
    "text as bytes": other({"text": [text.encode() for text in texts_of(1)]}),
    "other texts": other({"text": texts_of(99)}),
    "rows missing": other({"text": texts_of(1)[:-1]}),
    "rows exchanged": other({"text": texts_of(1)[::-1]}),
    "no rows": other({"text": []}),
    "missing texts": other({"text": [None, *texts_of(1)[1:]]}),
    "further column": other({"text": texts_of(1), "url": [""] * ROWS}),
    "written anew": other({"text": texts_of(1)}),
    "duplicate over it": copied_over("shard_00002.parquet"),
    "validation over it": copied_over(FINEWEB.validation_file),
    "renamed": lambda path: path.rename(path.with_name("shard_00009.parquet")),
    "renamed away": lambda path: path.rename(path.with_name("shard_00001.parquet.bak")),
    "exchanged with another": swapped("shard_00002.parquet"),
    "removed": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a dead link": lambda path: (path.unlink(), path.symlink_to("nowhere")),
}  # fmt: skip


def test_they_are_sixty():
    assert len(MUTILATIONS) == 60


@pytest.mark.parametrize("mutilate", MUTILATIONS.values(), ids=MUTILATIONS)
def test_a_mutilated_shard_is_found_by_the_check_and_refused_or_left_out_by_training(
    good, tmp_path, mutilate
):
    root = shutil.copytree(good, tmp_path / "fineweb_edu")
    assert check_corpus(root) == []
    mutilate(root / SPOILT)
    findings = check_corpus(root)
    assert any(finding.startswith(f"{root / SPOILT}: ") for finding in findings), findings

    with pytest.raises(Failure, match=r"shard_0000[12]\.parquet"):
        list(iter_texts(open_corpus(root).train))

    corpus = open_corpus(root, on_bad_shard="skip")
    documents = Documents(corpus.train, on_bad_shard="skip")
    epoch = [text for _, text in documents.read(range(documents.per_epoch))]
    left_out = set(documents.skipped)
    assert SPOILT in left_out
    assert left_out <= {SPOILT, "shard_00002.parquet"}  # the other one of an exchange
    expected = [
        text
        for number in range(TRAIN)
        if FINEWEB.file_pattern % number not in left_out
        for text in texts_of(number)
    ]
    assert epoch == expected


@pytest.mark.parametrize("copy", ["shard_00004.parquet", "shard_01821.parquet", "zzz.parquet"])
def test_a_duplicate_beside_the_others_is_found_and_not_read(good, tmp_path, copy):
    root = shutil.copytree(good, tmp_path / "fineweb_edu")
    shutil.copy(root / SPOILT, root / copy)
    assert check_corpus(root) == [f"{root / copy}: is not in the manifest"]
    assert len(list(iter_texts(open_corpus(root).train))) == TRAIN * ROWS
