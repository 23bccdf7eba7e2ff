"""A corpus on disk is what was written, or a Failure that names the file; never other texts."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat_pl.system.corpus import (
    MANIFEST,
    Shard,
    TextFile,
    check_corpus,
    iter_texts,
    open_corpus,
    read_manifest,
    write_corpus,
)
from nanochat_pl.system.errors import Failure
from nanochat_pl.system.files import remove_leftovers, sha256_of

TRAIN = [f"document {number}: {'word ' * number}\n\nand 日本語 🙂" for number in range(25)]
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"  # a page of texts begins here
VAL = ["first of validation", "", "last of validation"]


@pytest.fixture
def corpus(tmp_path):
    """25 documents in shards of ten and row groups of four, then one shard for validation."""
    return write_corpus(
        tmp_path / "corpus",
        TRAIN,
        val_texts=VAL,
        rows_per_shard=10,
        row_group_rows=4,
        made_from={"seed": 7},
    )


def write_parquet(path, columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def write_jsonl(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def texts_of(corpus):
    return list(iter_texts(corpus.train)), list(iter_texts(corpus.val))


def flip(path, at, mask=0x10):
    content = bytearray(path.read_bytes())
    content[at] ^= mask
    path.write_bytes(content)


def middle(path):
    return path.stat().st_size // 2


# What is written


def test_documents_come_back_in_order_and_in_their_split(corpus):
    assert texts_of(corpus) == (TRAIN, VAL)
    assert [shard.rows for shard in corpus.train] == [10, 10, 5]
    assert [shard.rows for shard in corpus.val] == [3]
    assert corpus.notes == ()
    assert check_corpus(corpus.root) == []


@settings(max_examples=40, deadline=None)
@given(
    train=st.lists(st.text(st.characters(codec="utf-8"), max_size=20), min_size=1, max_size=12),
    val=st.lists(st.text(st.characters(codec="utf-8"), max_size=20), min_size=1, max_size=4),
    rows_per_shard=st.integers(1, 13),
    row_group_rows=st.integers(1, 5),
)
def test_any_texts_in_any_grouping_come_back(tmp_path_factory, train, val, rows_per_shard, row_group_rows):
    root = tmp_path_factory.mktemp("any") / "corpus"
    sizes = {"rows_per_shard": rows_per_shard, "row_group_rows": row_group_rows}
    corpus = write_corpus(root, iter(train), val_texts=iter(val), **sizes)
    assert texts_of(corpus) == (train, val)
    assert all(shard.rows <= rows_per_shard for shard in corpus.train + corpus.val)
    for shard in corpus.train + corpus.val:
        starts = TextFile(shard.path).starts
        assert starts == [*range(0, shard.rows, min(row_group_rows, rows_per_shard)), shard.rows]


def test_the_manifest_vouches_for_every_shard(corpus):
    manifest = json.loads((corpus.root / MANIFEST).read_text())
    assert manifest["made_from"] == {"seed": 7}
    for entry, shard in zip(manifest["shards"], corpus.train + corpus.val, strict=True):
        assert entry == {
            "file": shard.path.name,
            "rows": shard.rows,
            "bytes": shard.path.stat().st_size,
            "sha256": sha256_of(shard.path),
            "split": shard.split,
        }
    assert sorted(path.name for path in corpus.root.iterdir()) == sorted(
        [MANIFEST, *(f"shard_{number:05d}.parquet" for number in range(4))]
    )


def test_equal_texts_give_equal_bytes_and_others_another_fingerprint(corpus, tmp_path):
    sizes = {"rows_per_shard": 10, "row_group_rows": 4}
    again = write_corpus(tmp_path / "again", TRAIN, val_texts=VAL, **sizes)
    other = write_corpus(tmp_path / "other", [*TRAIN[:-1], "x"], val_texts=VAL, **sizes)
    assert again.fingerprint == corpus.fingerprint != other.fingerprint
    for ours, theirs in zip(again.train + again.val, corpus.train + corpus.val, strict=True):
        assert ours.path.read_bytes() == theirs.path.read_bytes()


def test_parquet_written_here_is_read_by_others(corpus):
    table = pq.read_table(corpus.train[0].path)
    assert table.column_names == ["text"]
    assert table.column("text").to_pylist() == TRAIN[:10]


def test_writing_takes_texts_one_shard_at_a_time(tmp_path):
    """What is not written yet need not exist yet: no more than one row group is drawn ahead of the disk."""
    root, written = tmp_path / "corpus", []

    def documents():
        for number in range(40):
            written.append(len(list(tmp_path.glob(".corpus.*/shard_*.parquet"))))
            yield str(number)

    write_corpus(root, documents(), val_texts=["v"], rows_per_shard=10, row_group_rows=5)
    assert written == [number // 10 for number in range(40)]


# Complete or absent


def test_a_new_corpus_replaces_the_old_one_whole(corpus):
    new = write_corpus(corpus.root, ["only"], val_texts=["v"], rows_per_shard=10)
    assert texts_of(new) == (["only"], ["v"])
    assert sorted(path.name for path in corpus.root.iterdir()) == [
        MANIFEST,
        "shard_00000.parquet",
        "shard_00001.parquet",
    ]
    assert [path.name for path in corpus.root.parent.iterdir()] == ["corpus"]


def broken(texts, error):
    yield from texts
    raise error


@pytest.mark.parametrize(
    "error", [KeyError("bug"), KeyboardInterrupt(), OSError(28, "No space left on device")]
)
@pytest.mark.parametrize("split", ["train", "val"])
def test_an_error_while_writing_leaves_the_old_corpus_and_nothing_else(corpus, error, split):
    texts = {"train": ["a"] * 30, "val": ["b"]}
    texts[split] = broken(texts[split], error)
    expected = Failure if isinstance(error, OSError) else type(error)
    with pytest.raises(
        expected, match="corpus: could not be written: No space" if expected is Failure else None
    ):
        write_corpus(corpus.root, texts["train"], val_texts=texts["val"], rows_per_shard=10)
    assert [path.name for path in corpus.root.parent.iterdir()] == ["corpus"]
    assert texts_of(open_corpus(corpus.root)) == (TRAIN, VAL)


def test_a_kill_while_writing_leaves_the_old_corpus(corpus):
    code = f"""
import os, signal
from nanochat_pl.system.corpus import write_corpus

def documents():
    for number in range(30):
        yield "new"
        if number == 25:
            os.kill(os.getpid(), signal.SIGKILL)

write_corpus({str(corpus.root)!r}, documents(), val_texts=["v"], rows_per_shard=10)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert texts_of(open_corpus(corpus.root)) == (TRAIN, VAL)
    assert check_corpus(corpus.root) == []
    (left,) = (path for path in corpus.root.parent.iterdir() if path != corpus.root)
    assert remove_leftovers(corpus.root.parent) == [left]
    assert list(corpus.root.parent.iterdir()) == [corpus.root]


def test_a_refused_rename_puts_the_old_corpus_back(corpus, monkeypatch):
    rename = os.replace

    def replace(source, target):
        if str(target) == str(corpus.root) and str(source).endswith(".tmp"):
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(Failure, match="could not be written: Input/output error"):
        write_corpus(corpus.root, ["new"], val_texts=["v"], rows_per_shard=10)
    assert texts_of(open_corpus(corpus.root)) == (TRAIN, VAL)
    assert [path.name for path in corpus.root.parent.iterdir()] == ["corpus"]


@pytest.mark.parametrize(
    ("texts", "val_texts", "purpose"),
    [([], ["v"], "training"), (["a"], [], "validation"), ([], [], "training")],
)
def test_a_corpus_without_one_of_the_splits_is_not_written(tmp_path, texts, val_texts, purpose):
    with pytest.raises(Failure, match=f"corpus: the corpus has no document for {purpose}"):
        write_corpus(tmp_path / "corpus", texts, val_texts=val_texts, rows_per_shard=10)
    assert list(tmp_path.iterdir()) == []


def test_a_place_where_no_folder_can_be_made_is_a_failure_that_names_it(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Failure, match=r"file/corpus: could not be written: "):
        write_corpus(tmp_path / "file" / "corpus", ["a"], val_texts=["v"], rows_per_shard=10)


# Folders of somebody's own


def test_of_a_folder_without_manifest_the_last_file_is_validation_and_a_note_says_so(tmp_path):
    write_parquet(tmp_path / "b.parquet", {"text": ["b1", "b2"], "other": [1, 2]})
    write_jsonl(tmp_path / "c.jsonl", [json.dumps({"text": "c1"}), "", json.dumps({"text": "c2", "id": 3})])
    (tmp_path / "a.txt").write_text("one\nline two\n\n\n  \nnext\n\n", encoding="utf-8")
    write_jsonl(tmp_path / "d.jsonl.gz", [json.dumps({"text": "d1 \ud83d\ude42"})])
    (tmp_path / "z.md").write_text("not a corpus's file")
    (tmp_path / ".z.txt").write_text("hidden")
    (tmp_path / "z.txt").mkdir()
    corpus = open_corpus(tmp_path)
    assert texts_of(corpus) == (["one\nline two", "next", "b1", "b2", "c1", "c2"], ["d1 🙂"])
    (note,) = corpus.notes
    assert note == f"{tmp_path}: no MANIFEST.json; the last file, d.jsonl.gz, is validation"
    assert check_corpus(tmp_path) == []


@pytest.mark.parametrize(("rows", "held_out"), [(2, 1), (99, 1), (200, 2), (1050, 10)])
def test_of_a_single_file_the_last_hundredth_is_validation(tmp_path, rows, held_out):
    texts = [f"t{number}" for number in range(rows)]
    write_parquet(tmp_path / "all.parquet", {"text": texts})
    corpus = open_corpus(tmp_path)
    assert texts_of(corpus) == (texts[:-held_out], texts[-held_out:])
    assert corpus.notes == (
        f"{tmp_path / 'all.parquet'}: the only file; its last {held_out} of {rows} documents are validation",
    )


@pytest.mark.parametrize("rows", [0, 1])
def test_a_single_file_with_nothing_to_hold_out_is_refused(tmp_path, rows):
    write_jsonl(tmp_path / "all.jsonl", [json.dumps({"text": "t"})] * rows)
    with pytest.raises(
        Failure, match=rf"all\.jsonl: {rows} document\(s\), but training and validation need one"
    ):
        open_corpus(tmp_path)


def test_the_pinned_validation_file_counts_before_the_last(tmp_path):
    root = tmp_path / "fineweb_edu"
    for name in ("shard_00000", "shard_01822", "zzz"):
        write_parquet(root / f"{name}.parquet", {"text": [name]})
    corpus = open_corpus(root)
    assert texts_of(corpus) == (["shard_00000", "zzz"], ["shard_01822"])
    assert corpus.notes == ()


def test_a_missing_pinned_validation_file_is_said(tmp_path):
    root = tmp_path / "fineweb_edu"
    for name in ("shard_00000", "shard_00001"):
        write_parquet(root / f"{name}.parquet", {"text": [name]})
    (note,) = open_corpus(root).notes
    assert note.endswith(
        "no MANIFEST.json, and shard_01822.parquet is not here; the last file, shard_00001.parquet, is validation"
    )


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_no_document_is_both_for_training_and_for_validation(tmp_path_factory, sizes):
    root = tmp_path_factory.mktemp("own")
    for number, rows in enumerate(sizes):
        write_jsonl(
            root / f"{number}.jsonl", [json.dumps({"text": f"{number}/{row}"}) for row in range(rows + 1)]
        )
    train, val = texts_of(open_corpus(root))
    assert train
    assert val
    assert not set(train) & set(val)
    assert len(train) + len(val) == sum(rows + 1 for rows in sizes)


def test_plain_files_of_windows_are_read(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n\r\nthree\r\n")
    (tmp_path / "b.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "v"}\r\n')
    assert texts_of(open_corpus(tmp_path)) == (["one\ntwo", "three"], ["v"])


# What is damaged, foreign or missing


def test_a_missing_or_empty_folder_is_named(tmp_path):
    for root, message in (
        (tmp_path / "nowhere", "there is no such folder"),
        (tmp_path, "no text here; expected files"),
    ):
        with pytest.raises(Failure, match=f"^{root}: {message}"):
            open_corpus(root)
        (finding,) = check_corpus(root)
        assert finding.startswith(f"{root}: {message}")


MUTILATIONS = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "cut in half": lambda path: path.write_bytes(path.read_bytes()[: middle(path)]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "emptied": lambda path: path.write_bytes(b""),
    "a web page": lambda path: path.write_text("<!DOCTYPE html><title>404</title>"),
    "removed": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "another shard": lambda path: path.write_bytes((path.parent / "shard_00000.parquet").read_bytes()),
    "without text": lambda path: write_parquet(path, {"body": ["a"]}),
}


@pytest.mark.parametrize("mutilate", MUTILATIONS.values(), ids=MUTILATIONS)
def test_a_listed_shard_that_changed_is_refused_found_and_skipped_by_name(corpus, mutilate):
    path = corpus.train[1].path
    mutilate(path)
    with pytest.raises(
        Failure, match=r"shard_00001\.parquet: (is missing|has \d+ bytes, the manifest says \d+)\n"
    ):
        open_corpus(corpus.root)
    (finding,) = check_corpus(corpus.root)
    assert str(path) in finding
    skipping = open_corpus(corpus.root, on_bad_shard="skip")
    assert [shard.rows for shard in skipping.train] == [10, 10, 5]  # the numbers of all documents stay
    (note,) = skipping.notes
    assert note.startswith(f"{path}: ")
    assert note.endswith("; its documents are skipped")


@pytest.mark.parametrize(
    "mutilate",
    [
        lambda path: flip(path, path.read_bytes().index(ZSTD_MAGIC) + 20),
        lambda path: path.write_bytes(bytes(path.stat().st_size)),
        lambda path: path.write_bytes(path.read_bytes()[:100] + bytes(path.stat().st_size - 100)),
    ],
    ids=["a flipped bit", "zeros", "zeros after a hundred bytes"],
)
def test_damage_that_keeps_the_size_is_found_by_a_check_and_refused_when_it_is_read(corpus, mutilate):
    path = corpus.train[1].path
    mutilate(path)
    assert check_corpus(corpus.root) == [f"{path}: its sha256 is not the manifest's"]
    assert len(check_corpus(corpus.root, quick=True)) <= 1  # it looks at sizes and numbers of rows only
    with pytest.raises(Failure, match=r"shard_00001\.parquet: its sha256 is not the manifest's"):
        list(iter_texts(open_corpus(corpus.root).train))
    (corpus.root / MANIFEST).unlink()  # the checksums in the file itself find it as well
    with pytest.raises(Failure, match=r"shard_00001\.parquet: damaged"):
        list(iter_texts(open_corpus(corpus.root).train))


def test_exchanged_shards_are_found(corpus):
    first, second = (shard.path for shard in corpus.train[:2])
    first.rename(corpus.root / "aside")
    second.rename(first)
    (corpus.root / "aside").rename(second)
    assert [finding.split(":")[0] for finding in check_corpus(corpus.root)] == [str(first), str(second)]


def test_a_bad_validation_shard_is_refused_even_where_shards_may_be_skipped(corpus):
    corpus.val[0].path.unlink()
    with pytest.raises(Failure, match=r"shard_00003\.parquet: is missing(?s:.*)is never passed over"):
        open_corpus(corpus.root, on_bad_shard="skip")


def test_a_shard_that_is_not_in_the_manifest_is_found_and_not_read(corpus):
    copy = corpus.root / "shard_00009.parquet"
    copy.write_bytes(corpus.train[0].path.read_bytes())
    assert check_corpus(corpus.root) == [f"{copy}: is not in the manifest"]
    assert texts_of(open_corpus(corpus.root)) == (TRAIN, VAL)


def test_everything_that_is_wrong_is_found_at_once(corpus):
    flip(corpus.train[0].path, middle(corpus.train[0].path))
    corpus.train[2].path.unlink()
    findings = check_corpus(corpus.root)
    assert findings == [
        f"{corpus.train[0].path}: its sha256 is not the manifest's",
        f"{corpus.train[2].path}: is missing",
    ]


def test_everything_that_is_wrong_is_found_without_a_manifest_too(corpus):
    (corpus.root / MANIFEST).unlink()
    for shard in (corpus.train[0], corpus.val[0]):
        flip(shard.path, 20)
    findings = check_corpus(corpus.root)
    assert [finding.split(":")[0] for finding in findings] == [
        str(corpus.train[0].path),
        str(corpus.val[0].path),
    ]


def test_rows_that_differ_from_the_manifest_are_found(corpus):
    manifest = read_manifest(corpus.root)
    manifest["shards"][1]["rows"] = 9
    (corpus.root / MANIFEST).write_text(json.dumps(manifest))
    assert check_corpus(corpus.root) == [f"{corpus.train[1].path}: has 10 rows, the manifest says 9"]


def test_wherever_a_bit_of_a_shard_flips_its_texts_are_the_same_or_its_name_is_said(tmp_path):
    texts = ["a" * 40, "ä 日本", "", "b" * 10, "c"]
    path = (
        write_corpus(tmp_path / "c", texts, val_texts=["v"], rows_per_shard=9, row_group_rows=3).train[0].path
    )
    good = path.read_bytes()
    outcomes = {"same": 0, "named": 0}
    for at in range(len(good)):
        path.write_bytes(good)
        flip(path, at, 1 << at % 8)
        (finding,) = check_corpus(tmp_path / "c")
        assert finding == f"{path}: its sha256 is not the manifest's"
        try:
            assert list(iter_texts([Shard(path, len(texts), len(good), "train")])) == texts
            outcomes["same"] += 1
        except Failure as failure:
            assert str(failure).startswith(f"{path}: ")  # noqa: PT017 (either outcome is right)
            outcomes["named"] += 1
    assert outcomes["named"] > outcomes["same"]


def test_wherever_a_bit_of_a_gzip_flips_its_texts_are_the_same_or_its_name_is_said(tmp_path):
    path, texts = tmp_path / "a.jsonl.gz", [f"text {number}" for number in range(9)]
    write_jsonl(path, [json.dumps({"text": text}) for text in texts])
    good = path.read_bytes()
    for at in range(len(good)):
        path.write_bytes(good)
        flip(path, at, 1 << at % 8)
        try:
            assert list(TextFile(path).iter_texts()) == texts
        except Failure as failure:
            assert str(failure).startswith(f"{path}: ")  # noqa: PT017 (either outcome is right)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"fine\n\n\xff\xfe bad", r"damaged, or not what its name says \('utf-8' codec"),
        ("a.jsonl", b'{"text": "\xff"}\n', r"damaged, or not what its name says \('utf-8' codec"),
        ("a.jsonl", b'{"text": "x"}\n{"text": 5}\n', r'line 2: "text" is int, not a string'),
        ("a.jsonl", b'{"text": "x"}\n{"body": "y"}\n', r'line 2 is not JSON with a key "text"'),
        ("a.jsonl", b'{"text": "x"}\n\n{"text": "y"', r'line 3 is not JSON with a key "text"'),
        ("a.jsonl", b'["text"]\n', r'line 1 is not JSON with a key "text"'),
        ("a.jsonl", b"null\n", r'line 1 is not JSON with a key "text"'),
        ("a.jsonl", b'{"text": "half \\ud83d"}\n', r'line 1: "text" has half a surrogate pair'),
        ("a.jsonl.gz", b"no gzip", r"damaged, or not what its name says \(Not a gzipped file"),
        (
            "a.jsonl.gz",
            gzip.compress(b'{"text": "x"}\n', mtime=0)[:-9],
            r"damaged, or not what its name says \(Compressed file",
        ),
        ("a.parquet", b"PAR1 no parquet PAR1", r"damaged, or not what its name says"),
        ("a.parquet", b"", r"damaged, or not what its name says"),
        ("a.jsonl", b"[" * 200_000, r"line 1 is not JSON with a key"),
    ],
)
def test_a_foreign_file_is_refused_or_skipped_with_its_name_and_what_is_wrong(
    tmp_path, name, content, message
):
    write_parquet(tmp_path / "b.parquet", {"text": ["train"]})
    write_parquet(tmp_path / "z.parquet", {"text": ["v"]})
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Failure, match=rf"{name}: {message}") as caught:
        open_corpus(tmp_path)
    assert len(str(caught.value).splitlines()) <= 3
    (finding,) = check_corpus(tmp_path)
    assert finding.startswith(f"{tmp_path / name}: ")
    corpus = open_corpus(tmp_path, on_bad_shard="skip")
    assert texts_of(corpus) == (["train"], ["v"])
    assert corpus.notes[0].startswith(f"{tmp_path / name}: ")
    assert corpus.notes[0].endswith("; it is skipped")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"body": ["a"], "id": [1]}, "has no column `text`; its columns are body, id"),
        ({"text": [1, 2]}, "its column `text` holds int64, not strings"),
        ({"text": [["a"]]}, "its column `text` holds list"),
        ({"text": [b"a"]}, "its column `text` holds binary"),
    ],
)
def test_parquet_without_strings_called_text_is_refused_with_what_it_has(tmp_path, columns, message):
    write_parquet(tmp_path / "a.parquet", columns)
    write_parquet(tmp_path / "z.parquet", {"text": ["v"]})
    with pytest.raises(Failure, match=rf"a\.parquet: {message}"):
        open_corpus(tmp_path)


def test_wrong_utf8_within_parquet_is_a_failure_with_the_files_name(tmp_path):
    bad = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(bytes(4) + b"\2\0\0\0"), pa.py_buffer(b"\xff\xfe")]
    )
    write_parquet(tmp_path / "a.parquet", {"text": bad})
    write_parquet(tmp_path / "z.parquet", {"text": ["v"]})
    corpus = open_corpus(tmp_path)  # texts are not read when a corpus is opened
    with pytest.raises(Failure, match=r"a\.parquet: damaged"):
        list(iter_texts(corpus.train))
    (finding,) = check_corpus(tmp_path)
    assert "a.parquet" in finding


def test_large_strings_are_strings(tmp_path):
    write_parquet(tmp_path / "a.parquet", {"text": pa.array(["a", "b"], pa.large_string())})
    assert texts_of(open_corpus(tmp_path)) == (["a"], ["b"])


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_a_missing_text_is_a_failure_with_file_and_row(tmp_path, suffix):
    path, texts = tmp_path / f"a.{suffix}", ["x", "y", None, "z", None]
    if suffix == "parquet":
        write_parquet(path, {"text": texts})
    else:
        write_jsonl(path, [json.dumps({"text": text}) for text in texts])
    write_parquet(tmp_path / "z.parquet", {"text": ["v"]})
    corpus = open_corpus(tmp_path)
    with pytest.raises(Failure, match=rf"a\.{suffix}: row 2 has no text \(null\)"):
        list(iter_texts(corpus.train))
    assert check_corpus(tmp_path) == [f"{path}: 2 rows have no text (null)"]


def test_skipping_everything_for_training_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text("damaged\n")
    write_parquet(tmp_path / "z.parquet", {"text": ["v"]})
    with pytest.raises(Failure, match="the corpus has no document for training"):
        open_corpus(tmp_path, on_bad_shard="skip")


def test_empty_files_leave_a_split_without_documents(tmp_path):
    write_parquet(tmp_path / "a.parquet", {"text": ["t"]})
    write_parquet(tmp_path / "z.parquet", {"text": pa.array([], pa.string())})
    with pytest.raises(Failure, match="the corpus has no document for validation"):
        open_corpus(tmp_path)
    (finding,) = check_corpus(tmp_path)
    assert finding.endswith("the corpus has no document for validation")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"shards": 3}',
        '{"shards": [{"file": "a"}]}',
        '{"shards": [{"file": "../a", "split": "train", "rows": 1, "bytes": 1, "sha256": ""}]}',
        '{"shards": [{"file": "a", "split": "test", "rows": 1, "bytes": 1, "sha256": ""}]}',
        '{"shards": [{"file": "a", "split": "train", "rows": "many", "bytes": 1, "sha256": ""}]}',
    ],
)
def test_a_damaged_manifest_is_named(corpus, content):
    (corpus.root / MANIFEST).write_text(content)
    with pytest.raises(Failure, match=r"MANIFEST\.json: is not a manifest"):
        open_corpus(corpus.root)
    (finding,) = check_corpus(corpus.root)
    assert finding.startswith(f"{corpus.root / MANIFEST}: is not a manifest")
