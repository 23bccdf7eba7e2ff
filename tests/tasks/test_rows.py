"""Rows from files: all forms alike, shards in order, and every defect named with its place."""

from __future__ import annotations

import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from task_files import FORMS, write_lines, write_rows

from nanochat_pl.system.errors import Failure
from nanochat_pl.tasks.rows import Row, Rows, find_files

NESTED = [
    {"n": i, "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "parts": [{"x": "é"}]} for i in range(5)
]


def contents(rows: Rows) -> list:
    return [rows[number].content for number in range(len(rows))]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_rows(tmp_path, form):
    write_rows(tmp_path / f"train.{form}", NESTED)
    assert contents(Rows(find_files(tmp_path, ["train"], whose="X"))) == NESTED


@pytest.mark.parametrize("form", FORMS)
def test_shards_follow_each_other_by_name_and_other_files_are_left_alone(tmp_path, form):
    for shard in (2, 0, 1):
        write_rows(tmp_path / f"train-{shard:05d}-of-00003.{form}", [{"n": shard * 2}, {"n": shard * 2 + 1}])
    write_rows(tmp_path / f"test-00000-of-00001.{form}", [{"n": 100}])
    write_rows(tmp_path / f"train-old.{form}", [{"n": 200}])
    write_rows(tmp_path / f".train-00003-of-00003.{form}", [{"n": 300}])
    rows = Rows(find_files(tmp_path, ["train"], whose="X"))
    assert [row["n"] for row in contents(rows)] == [0, 1, 2, 3, 4, 5]


def test_a_missing_shard_is_missed(tmp_path):
    for shard in (0, 2):
        write_rows(tmp_path / f"train-{shard:05d}-of-00003.jsonl", [{"n": 0}])
    with pytest.raises(Failure, match="is one of 3 shards, but 2 are here"):
        find_files(tmp_path, ["train"], whose="X")


def test_a_file_beside_its_unpacked_copy_is_read_once(tmp_path):
    write_rows(tmp_path / "train.jsonl", [{"n": 0}])
    write_rows(tmp_path / "train.jsonl.gz", [{"n": 0}])
    assert len(Rows(find_files(tmp_path, ["train"], whose="X"))) == 1


def test_a_row_knows_its_file_and_its_place(tmp_path):
    parquet = write_rows(tmp_path / "a.parquet", [{"n": 0}, {"n": 1}])
    lines = write_lines(tmp_path / "b.jsonl", ['{"n": 2}', "", '{"n": 3}'])
    rows = Rows([parquet, lines])
    assert [rows[i].where for i in range(4)] == [
        f"{parquet}: row 1",
        f"{parquet}: row 2",
        f"{lines}: line 1",
        f"{lines}: line 3",
    ]


def test_absent_data_says_where_it_was_looked_for_and_how_to_get_it(tmp_path):
    with pytest.raises(Failure) as caught:
        find_files(tmp_path / "gsm8k", ["train"], whose="GSM8K")
    message = str(caught.value)
    assert str(tmp_path / "gsm8k") in message
    assert "train.jsonl.gz" in message
    assert "python cli.py data fetch --for CONFIG" in message
    assert len(message.splitlines()) <= 3


@pytest.mark.parametrize("line", ['{"n": ', "nonsense", '{"n": "\\ud800"}', "[" * 100_000])
def test_a_line_that_is_not_json_is_named(tmp_path, line):
    path = write_lines(tmp_path / "train.jsonl", ['{"n": 0}', line])
    with pytest.raises(Failure, match=r"train\.jsonl: line 2 is not JSON") as caught:
        Rows([path])
    assert len(str(caught.value).splitlines()) <= 3


def test_an_emoji_spelled_as_a_surrogate_pair_is_text(tmp_path):
    path = write_lines(tmp_path / "train.jsonl", ['{"n": "\\ud83d\\ude00"}'])
    assert Rows([path])[0].content == {"n": "\N{GRINNING FACE}"}


@pytest.mark.parametrize("form", ["parquet", "jsonl.gz"])
@pytest.mark.parametrize("keep", [0.0, 0.5, 0.9])
def test_a_file_that_was_cut_short_is_named(tmp_path, form, keep):
    path = write_rows(tmp_path / f"train.{form}", [{"n": f"{i}" * 50} for i in range(500)])
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(Failure, match=r"train\.\w+"):
        Rows([path])


def test_a_flipped_bit_in_a_gzip_file_is_named(tmp_path):
    path = tmp_path / "train.jsonl.gz"
    content = bytearray(gzip.compress(b'{"n": 0}\n' * 100, mtime=0))
    content[-6] ^= 1  # in the checksum
    path.write_bytes(content)
    with pytest.raises(Failure, match="damaged"):
        Rows([path])


def test_no_rows_is_a_failure(tmp_path):
    empty = tmp_path / "train.parquet"
    pq.write_table(pa.table({"n": pa.array([], pa.int64())}), empty)
    for path in (empty, write_lines(tmp_path / "train.jsonl", ["", ""])):
        with pytest.raises(Failure, match="has no rows"):
            Rows([path])


def test_a_file_of_another_kind_is_refused(tmp_path):
    path = write_lines(tmp_path / "train.csv", ["a,b"])
    with pytest.raises(Failure, match=r"cannot be read; a file named \*\.parquet"):
        find_files(path, ["train"], whose="X")


def test_a_field_that_is_absent_or_of_another_kind_is_named():
    row = Row("file: line 7", {"question": 3, "choices": ["a", 1]})
    with pytest.raises(Failure, match="file: line 7: has no 'answer'"):
        row.field("answer", str)
    with pytest.raises(Failure, match="file: line 7: 'question' is int, not str"):
        row.field("question", str)
    with pytest.raises(Failure, match="file: line 7: 'choices' holds something else than strings"):
        row.texts("choices")
    with pytest.raises(Failure, match="file: line 8: has no 'answer'"):
        Row("file: line 8", ["a list"]).field("answer", str)
