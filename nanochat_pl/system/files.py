"""Files that are either complete or absent, and their digests.

A file is written beside its target under a name nobody reads, forced to the disk, renamed, and the folder forced
too: a power cut or a kill at any moment leaves the old file or the new one. The temporary lies in the target's own
folder on purpose; a rename from another file system is a copy, and a copy can be cut short.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

CHUNK_BYTES = 1 << 20


def temporary_beside(path: Path) -> Path:
    """Return the temporary name this process uses for `path`: `.<name>.<pid>.tmp` in the same folder."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write; on a clean exit it becomes `path`, on an error it is removed.

    Args:
        path: the final file; its folder is created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:
        yield temporary
        force_to_disk(temporary)
        os.replace(temporary, path)
        force_to_disk(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` in UTF-8 to `path`, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_together(folder: Path, texts: Mapping[str, str]) -> None:
    """Write files of one folder, name to text in UTF-8: none is put in its place before all are on the disk.

    Raises:
        OSError: the disk is full, or refuses; every file is as it was.
    """
    with ExitStack() as places:
        for name, text in texts.items():
            temporary = places.enter_context(atomic_write(folder / name))
            temporary.write_text(text, encoding="utf-8")
            force_to_disk(temporary)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON to `path`, atomically."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def append_json_line(path: Path, value: Any) -> None:
    """Add one line of JSON to `path`, all of it or nothing; its folder is created.

    Raises:
        OSError: the disk is full, or refuses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    line = (json.dumps(value) + "\n").encode()
    with path.open("ab", buffering=0) as file:
        before = os.fstat(file.fileno()).st_size
        written = file.write(line)
        if written != len(line):
            file.truncate(before)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


@contextmanager
def complete_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; on a clean exit it takes the place of `folder`, on an error it is removed.

    Args:
        folder: the final one; its parent is created, and what is there is replaced as a whole.
    """
    new = temporary_beside(folder)
    shutil.rmtree(new, ignore_errors=True)
    try:
        new.mkdir(parents=True)
        yield new
        for path in (*new.iterdir(), new):
            force_to_disk(path)
        replace_folder(new, folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def replace_folder(new: Path, target: Path) -> None:
    """Put a complete folder in the place of `target`; no name swaps two folders, so an older one steps aside.

    Args:
        new: the folder to be renamed, on the file system of `target`.
        target: where it goes; for a moment between two renames nothing is there.
    """
    old = new.with_name(new.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    try:
        os.replace(new, target)
    except OSError:
        if old.exists():
            os.replace(old, target)
        raise
    force_to_disk(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def move_aside(folder: Path) -> Path:
    """Rename a folder to the first free `<name>.old-N`, and return that."""
    number = 1
    while (target := folder.with_name(f"{folder.name}.old-{number}")).exists():
        number += 1
    folder.rename(target)
    return target


def force_to_disk(path: Path) -> None:
    """Flush a file or a folder to the device."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file as hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def git_blob_of(path: Path) -> str:
    """Return git's name for the content of a file, a sha1 in hex: what git hosts publish instead of a sha256."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def remove_leftovers(folder: Path) -> list[Path]:
    """Remove temporary files and folders in `folder` whose writing process is dead, and return them."""
    dead = [path for path in folder.glob(".*.tmp") if not _is_alive(path)]
    for path in dead:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return dead


def _is_alive(temporary: Path) -> bool:
    """Tell whether the process named in a temporary's file name still runs on this machine."""
    pid = temporary.name.split(".")[-2]
    if not pid.isdigit():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return int(pid) != os.getpid()
