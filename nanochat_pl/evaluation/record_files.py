"""Item records on disk, one JSON object a line, written while a test runs and complete when it ends.

    items/<task>.jsonl                               every item of the last test that was finished
    items/.progress/<task>.<key>.<rank>.jsonl        what each rank has done so far

The key is made of the model, of the exam's facts and of how it is taken, so a test goes on only with records that it
would make again, whatever the number of ranks was when it stopped. A line torn by a kill is not read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nanochat_pl.evaluation.exam import Exam, ItemRecord
from nanochat_pl.system.files import write_text


class RecordFiles:
    """The records of one model's tests.

    Args:
        folder: `metrics/items` of its run.
        subject: what the records depend on besides the exam: weights, tokenizer, precision; as JSON can hold it.
    """

    def __init__(self, folder: Path, subject: Mapping[str, Any]) -> None:
        self.folder, self.subject = folder, dict(subject)

    def read(self, exam: Exam) -> dict[int, ItemRecord]:
        """Return the records of an exam's items that are there, by number; of two of one item, either."""
        records = {}
        for path in sorted(self._parts(exam)):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                record = _parsed(line)
                if record and 0 <= record.index < len(exam):
                    records[record.index] = record
        return records

    def append(self, exam: Exam, records: Iterable[ItemRecord], rank: int) -> None:
        """Add records that this rank made."""
        path = self._progress / f"{_stem(exam)}.{self._key(exam)}.{rank}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        is_torn = path.exists() and path.stat().st_size > 0 and not _ends_line(path)
        with path.open("a", encoding="utf-8") as file:
            file.write("\n" * is_torn + "".join(_line(record) for record in records))

    def finish(self, exam: Exam) -> list[ItemRecord]:
        """Write all records of an exam, in order, to `<task>.jsonl`, and forget those of other models."""
        records = [record for _, record in sorted(self.read(exam).items())]
        write_text(self.folder / f"{_stem(exam)}.jsonl", "".join(map(_line, records)))
        mine = set(self._parts(exam))
        for path in self._progress.glob(f"{_stem(exam)}.*.jsonl"):
            if path not in mine and path.name.count(".") == _stem(exam).count(".") + 3:
                path.unlink(missing_ok=True)
        return records

    def forget(self, exam: Exam) -> None:
        """Remove the progress of an exam, so that it is taken anew."""
        for path in self._parts(exam):
            path.unlink(missing_ok=True)

    @property
    def _progress(self) -> Path:
        return self.folder / ".progress"

    def _parts(self, exam: Exam) -> list[Path]:
        return list(self._progress.glob(f"{_stem(exam)}.{self._key(exam)}.*.jsonl"))

    def _key(self, exam: Exam) -> str:
        facts = json.dumps([self.subject, exam.facts], sort_keys=True)
        return hashlib.sha256(facts.encode()).hexdigest()[:16]


def _stem(exam: Exam) -> str:
    return exam.name.rpartition("/")[2]


def _line(record: ItemRecord) -> str:
    return json.dumps(record._asdict()) + "\n"


def _parsed(line: str) -> ItemRecord | None:
    """Return the record in a line, None where the line is torn or somebody has altered it."""
    try:
        record = ItemRecord(**json.loads(line))
    except (ValueError, TypeError):
        return None
    is_whole = isinstance(record.index, int) and isinstance(record.cropped, int)
    return record if is_whole and isinstance(record.score, int | float) and 0 <= record.score <= 1 else None


def _ends_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read() == b"\n"
