"""Files of rows in every form a task may find them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

FORMS = ("parquet", "jsonl", "jsonl.gz")


def write_rows(path: Path, rows: list[Any]) -> Path:
    """Write rows in the form the name of `path` says; its folder is created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        write_lines(path, [json.dumps(row) for row in rows])
    return path


def write_lines(path: Path, lines: list[str]) -> Path:
    """Write lines of text, gzipped if the name of `path` says so; its folder is created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path
