"""Records on disk: what was altered or torn is examined again, and no exam's progress is taken for another's."""

from __future__ import annotations

import json

import pytest

from nanochat_pl.evaluation.exam import Exam, ItemRecord
from nanochat_pl.evaluation.record_files import RecordFiles


class Named(Exam):
    """An exam of three items that nobody takes."""

    baseline, chunk = 0.0, 1

    def __init__(self, name: str) -> None:
        self.name, self.facts = f"chat/{name}", {"of": name}

    def __len__(self) -> int:
        return 3

    def examine(self, indices):
        raise NotImplementedError


@pytest.mark.parametrize(
    "altered",
    [
        {"index": -1},
        {"index": 3},
        {"index": "0"},
        {"score": "high"},
        {"score": 7.0},
        {"score": None},
        {"extra": 1},
    ],
)
def test_an_altered_record_is_not_read(tmp_path, altered):
    files, exam = RecordFiles(tmp_path, {"weights": "w"}), Named("world")
    files.append(exam, [ItemRecord(0, "p", "a", "a", 1.0), ItemRecord(1, "p", "a", "b", 0.0)], rank=0)
    (path,) = (tmp_path / ".progress").iterdir()
    good = path.read_text().splitlines()
    path.write_text(
        "\n".join([*good, json.dumps(json.loads(good[0]) | {"index": 2} | altered), '{"index":']) + "\n"
    )
    assert list(files.read(exam)) == [0, 1]


def test_finishing_one_exam_leaves_the_progress_of_a_variant(tmp_path):
    files = RecordFiles(tmp_path, {"weights": "w"})
    short, long = Named("world+temperature0"), Named("world+temperature0.5")
    for exam in (short, long):
        files.append(exam, [ItemRecord(0, "p", "a", "a", 1.0)], rank=0)
    assert len(files.finish(short)) == 1
    assert list(files.read(long)) == [0]
    RecordFiles(tmp_path, {"weights": "other"}).finish(long)
    assert not files.read(long)
    assert list(files.read(short)) == [0]
