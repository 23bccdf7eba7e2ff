"""Everything a stage needs, from the web to its place: what is lacking, then all of it at once, then the manifests.

    assets ─► look at what is here ─► ask the servers ─► room on the disk? ─► transfers ─► verify ─► manifests

A file appears at its place when it is complete and right, and a manifest when all its files are; unfinished ones lie
in `.fetch/` below the base directory and are gone on with. What is here already is compared with its digest, so the
same command repairs what was damaged, and does nothing where nothing is lacking.
"""

from __future__ import annotations

import os
import shutil
import sys
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import NamedTuple

from nanochat_pl.system.assets import CORPORA, Asset, RemoteFile
from nanochat_pl.system.errors import Failure
from nanochat_pl.system.fetched import (
    Entry,
    complaint_of_content,
    complaint_of_file,
    is_known,
    record,
    recorded,
    recorded_revision,
)
from nanochat_pl.system.files import atomic_write, sha256_of
from nanochat_pl.system.hub import commit_of, hub_remotes, offline_variable, web_remote
from nanochat_pl.system.parallel import in_parallel
from nanochat_pl.system.paths import base_dir
from nanochat_pl.system.printable import size_text
from nanochat_pl.system.progress import FileProgress
from nanochat_pl.system.run_lock import RunLock, hold_lock
from nanochat_pl.system.transfer import (
    FULL_DISK,
    DiskFull,
    Remote,
    Unreachable,
    complaint_of_digest,
    partial_path,
    put_in_place,
    transfer,
)

UNFINISHED = ".fetch"
WORKERS = 8
SPARE_BYTES = 64_000_000  # left free on the disk
MOST_UNPACKED_BYTES = 4_000_000_000
MOST_FAILED_IN_A_ROW = 16
NO_NETWORK = "Fetch where there is network, such as a login node (HTTPS_PROXY and HF_ENDPOINT count)"
ROOM = "Make room (df -h; quota -s), or export NANOCHAT_BASE_DIR=/scratch/$USER/nanochat; then"
NAMED = 3  # failures that the last message names; all of them are listed before


class Item(NamedTuple):
    """One file to be fetched for an asset; `file` is the archive where the asset has one."""

    asset: Asset
    file: RemoteFile
    remote: Remote


class Summary(NamedTuple):
    """What there is after fetching.

    Attributes:
        files: all that were asked for.
        bytes: of them.
        fetched: files, or archives, that had to be fetched.
    """

    files: int
    bytes: int
    fetched: int


def fetch(assets: Sequence[Asset], *, again: str, workers: int = WORKERS) -> Summary:
    """Bring what is lacking here, and vouch for all of it.

    Args:
        assets: what to bring; each once.
        again: the command that goes on after a failure.
        workers: transfers at a time.

    Raises:
        Failure: something is not here in the end; every such file was named. Or there is no network, no room on the
            disk, or another process that fetches.
    """
    lock = _lock()
    try:
        state = _State(assets)
        state.look(workers)
        if state.has_work():
            _require_online(state, again)
            items = state.lacking_of(list(state.ask()), workers)
            _require_room(items, again)
            state.bring(items, workers, again)
        state.write_manifests()
    except Unreachable as failure:
        raise Failure(f"{failure}\n{NO_NETWORK}: {again}") from None
    except KeyboardInterrupt:
        print(f"what was fetched stays; go on: {again}", file=sys.stderr)
        raise
    finally:
        lock.close()
    entries = [entry for found in state.right.values() for entry in found.values()]
    return Summary(len(entries), sum(entry.bytes for entry in entries), state.brought)


class _State:
    """What is known about the assets while they are fetched.

    Attributes:
        right: entries of files that lie there as they should, by asset and target.
        lacking: files that do not.
        unsure: files that are there, but only the server can tell whether they are right.
    """

    def __init__(self, assets: Sequence[Asset]) -> None:
        self.assets = {asset.name: asset for asset in assets}
        self.revisions = {asset.name: recorded_revision(asset) for asset in assets}
        self.right: dict[str, dict[str, Entry]] = {asset.name: {} for asset in assets}
        self.lacking: list[tuple[Asset, RemoteFile]] = []
        self.unsure: list[tuple[Asset, RemoteFile]] = []
        self.failures: list[str] = []
        self.brought = 0
        self._stop = Event()

    def look(self, workers: int) -> None:
        """Compare what is here with its digests."""
        jobs = [
            (asset, file, entry) for asset in self.assets.values() for file, entry in _with_entries(asset)
        ]
        here = [job for job in jobs if (base_dir() / job[1].target).is_file()]
        progress = FileProgress("looking", len(here), sum(map(_size_of, here)))
        with closing(progress):
            for done in in_parallel(here, self._look_at, workers=workers):
                asset, file, _ = done.job
                found = done.value()
                if isinstance(found, Entry):
                    self.right[asset.name][file.target] = found
                elif found == "unsure":
                    self.unsure.append((asset, file))
                else:
                    progress.say(f"{found}; it will be fetched")
                progress.add_bytes(_size_of(done.job))
                progress.add_file()
        unsure = {file.target for _, file in self.unsure}
        self.lacking = [
            (asset, file)
            for asset, file, _ in jobs
            if file.target not in self.right[asset.name] and file.target not in unsure
        ]

    def has_work(self) -> bool:
        """Tell whether a server must be asked."""
        return bool(self.lacking or self.unsure)

    def ask(self) -> Iterator[Item]:
        """Yield all files that are lacking or unsure, as the servers describe them."""
        for asset in self.assets.values():
            files = [file for owner, file in [*self.lacking, *self.unsure] if owner is asset]
            if not files:
                continue
            try:
                remotes = self._remotes(asset, files)
            except Unreachable:
                raise
            except Failure as failure:
                self.failures.append(f"{asset.name}: {failure}")
                continue
            for file, remote in remotes:
                if remote is None:
                    self.failures.append(f"{file.target}: {asset.repo} has no {file.address}")
                else:
                    yield Item(asset, file, remote)

    def lacking_of(self, items: list[Item], workers: int) -> list[Item]:
        """Return the items without those whose file, now that the server has said what it should be, is right."""
        unsure = {file.target for _, file in self.unsure}
        doubtful = [item for item in items if item.file.target in unsure]
        progress = FileProgress("comparing", len(doubtful), sum(map(_about, doubtful)))
        with closing(progress):
            for done in in_parallel(doubtful, _complaint_of, workers=workers):
                asset, file, remote = done.job
                if done.value() is None:
                    self.right[asset.name][file.target] = _entry_of(base_dir() / file.target, remote.sha256)
                progress.add_bytes(_about(done.job))
                progress.add_file()
        return [item for item in items if item.file.target not in self.right[item.asset.name]]

    def bring(self, items: list[Item], workers: int, again: str) -> None:
        """Fetch all items.

        Raises:
            Failure: not all are here in the end.
        """
        progress = FileProgress("fetching", len(items), sum(map(_about, items)), done_bytes=_begun(items))
        for failure in self.failures:
            progress.say(failure)
        in_a_row, full = 0, ""
        work = in_parallel(items, lambda item: self._bring(item, progress), workers=workers, stop=self._stop)
        with closing(progress), closing(work):
            for done in work:
                if done.error is None:
                    self.brought += 1
                    self.right[done.job.asset.name] |= done.result
                    progress.add_file()
                    in_a_row = 0
                    continue
                if not isinstance(done.error, (Failure, OSError)):
                    raise done.error
                self.failures.append(f"{done.job.file.target}: {str(done.error).splitlines()[0]}")
                progress.say(self.failures[-1])
                in_a_row += 1
                full = _why_full(done.error)
                if full or in_a_row == MOST_FAILED_IN_A_ROW:
                    break
        if self.failures:
            self.write_manifests()
            raise Failure(self._no_room(full, again) if full else self._failed(again))

    def write_manifests(self) -> None:
        """Vouch for every asset whose files are all right, and for single files of tasks."""
        for asset in self.assets.values():
            right = self.right[asset.name]
            is_whole = len(right) == len(asset.files)
            if right and (is_whole or asset.name not in CORPORA) and right != _recorded(asset):
                record(
                    asset,
                    {file.target: right[file.target] for file in asset.files if file.target in right},
                    self.revisions[asset.name],
                )

    def _look_at(self, job: tuple[Asset, RemoteFile, Entry | None]) -> Entry | str:
        """Return the entry of a file that is right, what is wrong with it, or "unsure"."""
        asset, file, entry = job
        complaint = complaint_of_file(file, entry, asset.columns, quick=False)
        if complaint:
            return complaint
        if not is_known(file, entry) and (asset.repo or asset.archive):
            return "unsure"
        return entry or _entry_of(base_dir() / file.target, file.sha256)

    def _remotes(self, asset: Asset, files: list[RemoteFile]) -> list[tuple[RemoteFile, Remote | None]]:
        """Return files, or the archive that holds them, with what the server says about each."""
        if not asset.repo:
            return [
                (file, web_remote(file, self._stop)) for file in ([asset.archive] if asset.archive else files)
            ]
        commit = commit_of(asset.repo, self.revisions[asset.name], self._stop)
        self.revisions[asset.name] = commit
        return list(zip(files, hub_remotes(asset.repo, commit, files, self._stop), strict=True))

    def _bring(self, item: Item, progress: FileProgress) -> dict[str, Entry]:
        """Fetch one item, verify it and put it in place."""
        partial = partial_path(base_dir() / UNFINISHED, item.file.target, item.remote)
        suffix, columns = Path(item.file.target).suffix, item.asset.columns
        transfer(
            item.remote,
            partial,
            on_bytes=progress.add_bytes,
            stop=self._stop,
            look=lambda path: complaint_of_content(path, suffix, columns),
        )
        try:
            if item.asset.archive:
                return _unpack(partial, item.asset)
            put_in_place(partial, base_dir() / item.file.target)
            return {item.file.target: _entry_of(base_dir() / item.file.target, item.remote.sha256)}
        finally:
            partial.unlink(missing_ok=True)

    def _failed(self, again: str) -> str:
        named = ", ".join(failure.split(":")[0] for failure in self.failures[:NAMED])
        more = f" and {len(self.failures) - NAMED} more" if len(self.failures) > NAMED else ""
        return f"could not be fetched: {named}{more}; {self._how_many()}\nWhat is here stays; go on: {again}"

    def _no_room(self, reason: str, again: str) -> str:
        return f"{base_dir()}: the disk is full ({reason}); {self._how_many()}\n{ROOM}: {again}"

    def _how_many(self) -> str:
        all_files = sum(len(asset.files) for asset in self.assets.values())
        return f"{sum(map(len, self.right.values()))} of {all_files} files are here"


def _why_full(error: Failure | OSError) -> str:
    """Return the system's word for a disk that takes no more, "" for any other error."""
    if isinstance(error, DiskFull):
        return error.reason
    is_full = isinstance(error, OSError) and error.errno in FULL_DISK
    return os.strerror(error.errno) if is_full else ""


def _complaint_of(item: Item) -> str | None:
    return complaint_of_digest(base_dir() / item.file.target, item.remote)


def _unpack(archive: Path, asset: Asset) -> dict[str, Entry]:
    """Take an asset's files out of its archive; nothing else in it is touched, whatever it is called.

    Raises:
        Failure: the archive is damaged, lacks a file, or is larger than any such archive should be.
    """
    entries = {}
    try:
        with zipfile.ZipFile(archive) as members:
            infos = [members.getinfo(file.address) for file in asset.files]
            if sum(info.file_size for info in infos) > MOST_UNPACKED_BYTES:
                raise Failure(
                    f"{asset.archive.address}: unpacks to more than {MOST_UNPACKED_BYTES / 1e9:g} GB"
                )
            for file, info in zip(asset.files, infos, strict=True):
                path = base_dir() / file.target
                with atomic_write(path) as temporary:
                    with members.open(info) as source, temporary.open("wb") as target:
                        shutil.copyfileobj(source, target)
                    entries[file.target] = _entry_of(temporary, "")
                    if file.sha256 and entries[file.target].sha256 != file.sha256:
                        raise Failure(f"{asset.archive.address}: {file.address} is not the pinned one")
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError) as error:
        raise Failure(f"{asset.archive.address}: is not the archive it should be ({error})") from None
    return entries


def _require_online(state: _State, again: str) -> None:
    if variable := offline_variable():
        count = len(state.lacking) + len(state.unsure)
        first = (state.lacking or state.unsure)[0][1].target
        raise Failure(
            f"{count} files are lacking, {first} the first, and {variable} forbids to fetch them\n"
            f"On a machine with network: unset {variable.split('=')[0]}; {again}"
        )


def _require_room(items: Sequence[Item], again: str) -> None:
    """Refuse to begin what cannot fit on the disk.

    Raises:
        Failure: there is too little room.
    """
    unpacked = sum(_about(item) for item in items if item.asset.archive)
    needed = sum(map(_about, items)) - _begun(items) + unpacked
    free = shutil.disk_usage(base_dir()).free
    if items and needed + SPARE_BYTES > free:
        raise Failure(
            f"{base_dir()}: {size_text(needed)} are needed, {size_text(free)} are free\n"
            f"Make room, or set NANOCHAT_BASE_DIR to a larger disk, then: {again}"
        )


def _lock() -> RunLock:
    try:
        return hold_lock(base_dir() / UNFINISHED / "lock")
    except Failure as failure:
        raise Failure(
            f"{str(failure).splitlines()[0]}\nWait for it to end; what it fetches is kept."
        ) from None


def _with_entries(asset: Asset) -> Iterator[tuple[RemoteFile, Entry | None]]:
    entries = _recorded(asset)
    for file in asset.files:
        yield file, entries.get(file.target)


def _recorded(asset: Asset) -> dict[str, Entry]:
    """Return what the manifest says; a damaged manifest says nothing and is written anew."""
    try:
        return recorded(asset)
    except Failure:
        return {}


def _entry_of(path: Path, sha256: str) -> Entry:
    return Entry(path.stat().st_size, sha256 or sha256_of(path))


def _size_of(job: tuple[Asset, RemoteFile, Entry | None]) -> int:
    return (base_dir() / job[1].target).stat().st_size


def _about(item: Item) -> int:
    """Return the size of an item, the registry's guess where the server does not tell."""
    return item.remote.bytes if item.remote.bytes is not None else item.asset.about_bytes


def _begun(items: Sequence[Item]) -> int:
    """Return how many bytes of unfinished files there are already."""
    partials = (partial_path(base_dir() / UNFINISHED, item.file.target, item.remote) for item in items)
    return sum(partial.stat().st_size for partial in partials if partial.exists())
