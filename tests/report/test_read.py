"""Files as they were left: torn, damaged, absent, with numbers that are none."""

from __future__ import annotations

import json
import math

import pytest

from nanochat_pl.report.read import Source, read_document, read_lines


def write(tmp_path, content: bytes):
    path = tmp_path / "runs" / "a" / "metrics" / "train.jsonl"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


def test_a_torn_last_line_is_skipped_and_counted_and_the_rest_keeps_its_line_numbers(tmp_path):
    path = write(tmp_path, b'{"step": 1}\n\n{"step": 2}\n{"step": 3, "train/lo')
    lines = read_lines(path, tmp_path)
    assert [(record.facts["step"], record.source.line) for record in lines.records] == [(1, 1), (2, 3)]
    assert lines.damaged == (4,)
    assert lines.source == Source("runs/a/metrics/train.jsonl")


@pytest.mark.parametrize(
    "line",
    [b"[1, 2]", b"7", b"null", b'"text"', b"\xff\xfe", b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}", b"\0"],
    ids=["list", "number", "null", "text", "not UTF-8", "deep", "endless digits", "zero byte"],
)
def test_a_line_that_is_no_object_is_damaged(tmp_path, line):
    lines = read_lines(write(tmp_path, b'{"step": 1}\n' + line + b'\n{"step": 2}\n'), tmp_path)
    assert [record.facts["step"] for record in lines.records] == [1, 2]
    assert lines.damaged == (2,)


def test_numbers_are_numbers_and_nothing_else_is(tmp_path):
    big = "1" + "0" * 400
    text = f'{{"a": NaN, "b": Infinity, "c": true, "d": "1", "e": null, "f": 3, "g": {big}, "h": -1e999}}'
    (record,) = read_lines(write(tmp_path, text.encode()), tmp_path).records
    assert math.isnan(record.number("a"))
    assert record.number("b") == record.number("g") == math.inf
    assert record.number("h") == -math.inf
    assert [record.number(key) for key in "cdez"] == [None] * 4
    assert record.number("f") == 3.0


def test_a_missing_file_has_no_line_and_a_missing_document_no_fact(tmp_path):
    assert read_lines(tmp_path / "no.jsonl", tmp_path).records == ()
    assert read_document(tmp_path / "no.json", tmp_path) == (Source("no.json"), {}, False)


@pytest.mark.parametrize(
    ("name", "content"), [("a.json", '{"x": 1'), ("a.json", "[]"), ("a.yaml", "a: [1"), ("a.yaml", "x")]
)
def test_a_damaged_document_says_so(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    document = read_document(tmp_path / name, tmp_path)
    assert document.is_damaged
    assert document.facts == {}


def test_a_yaml_file_cannot_make_objects(tmp_path):
    (tmp_path / "config.yaml").write_text("run: !!python/object/apply:os.getcwd []\n")
    assert read_document(tmp_path / "config.yaml", tmp_path).is_damaged


def test_a_folder_in_the_place_of_a_file_is_a_missing_file(tmp_path):
    (tmp_path / "plan.json").mkdir()
    assert read_document(tmp_path / "plan.json", tmp_path).facts == {}
    assert json.dumps(read_lines(tmp_path / "plan.json", tmp_path).damaged) == "[]"
