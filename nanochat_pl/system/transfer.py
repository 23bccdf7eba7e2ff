"""One file from the web to the disk, over a connection that may break, stall or lie at any moment.

    server ── Range ──► partial file ── all bytes, right digest ──► its place

The partial file stays when the program ends, however it ends, and the next one goes on where it stopped; its name
carries a mark of what the server had, so that two versions never mix. `huggingface_hub` says what there is and opens
the connections (proxies, tokens, mirrors); it does not keep partial files, which is why bytes are moved here. Which
files, and many at a time, is `fetching.py`'s business.
"""

from __future__ import annotations

import errno
import hashlib
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from nanochat_pl.system.errors import Failure
from nanochat_pl.system.files import force_to_disk, git_blob_of, sha256_of

TIMEOUT_S = 30.0  # without a byte
FIRST_WAIT_S, LONGEST_WAIT_S, LONGEST_ASKED_WAIT_S = 1.0, 30.0, 300.0
MOST_FRUITLESS, MOST_UNREACHABLE, MOST_WRONG = 10, 4, 3  # attempts in a row
PASSING_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

T = TypeVar("T")


class Remote(NamedTuple):
    """A file on a server.

    Attributes:
        url: its address.
        headers: to be sent, such as the one with the token.
        bytes: its size; None where the server does not tell.
        sha256: of its content; "" where unknown.
        git_blob: git's digest of its content; "" where unknown.
        version: whatever tells this content from another at the same address.
    """

    url: str
    headers: dict[str, str]
    bytes: int | None
    sha256: str = ""
    git_blob: str = ""
    version: str = ""


class Stopped(Exception):
    """Somebody wants the program to end; what was fetched so far stays."""


class Unreachable(Failure):
    """No connection can be made at all, so there is no sense in trying anything else."""


class Interruption(Exception):
    """A transfer failed in a way that may pass.

    Args:
        reason: what happened.
        is_unreachable: whether not even a connection was made.
        wait_s: how long the server asks to wait; None if it does not.
    """

    def __init__(self, reason: str, *, is_unreachable: bool = False, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.is_unreachable, self.wait_s = is_unreachable, wait_s


def partial_path(folder: Path, target: str, remote: Remote) -> Path:
    """Return where the unfinished file lies; another content has another name.

    Args:
        folder: for unfinished files.
        target: where the file goes in the end, as text.
        remote: what the server has.
    """
    facts = (remote.bytes, remote.sha256 or remote.git_blob or remote.version)
    mark = hashlib.sha256(repr((target, *facts)).encode()).hexdigest()[:12]
    return folder / f"{Path(target).name}.{mark}.part"


def transfer(
    remote: Remote,
    partial: Path,
    *,
    on_bytes: Callable[[int], None],
    stop: Event,
    look: Callable[[Path], str | None] = lambda path: None,
) -> None:
    """Bring a file here completely, going on where an earlier attempt stopped.

    Args:
        remote: what to fetch.
        partial: the unfinished file; it holds all bytes afterwards.
        on_bytes: is told how many bytes came; a negative number where some had to be thrown away.
        stop: set by whoever wants this to end.
        look: tells what is wrong inside a complete file, None if nothing is.

    Raises:
        Failure: the server refuses, the connection breaks again and again, or what comes is always wrong.
        Stopped: `stop` was set.
    """
    partial.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(MOST_WRONG):
        persistently(lambda: _attempt(remote, partial, on_bytes, stop), stop=stop, gained=partial)
        complaint = complaint_of_digest(partial, remote)
        is_as_published = complaint is None and bool(remote.sha256 or remote.git_blob)
        complaint = complaint or look(partial)
        if complaint is None:
            return
        on_bytes(-partial.stat().st_size)
        partial.unlink()
        if is_as_published:
            raise Failure(f"{remote.url}: {complaint}, although it is what the server publishes")
    raise Failure(f"{remote.url}: {complaint}, {MOST_WRONG} times")


def complaint_of_digest(path: Path, remote: Remote) -> str | None:
    """Return how a file's content differs from the server's, None if it does not or if nothing is known of it."""
    if remote.bytes is not None and path.stat().st_size != remote.bytes:
        return f"has {path.stat().st_size} bytes, not {remote.bytes}"
    if remote.sha256 and sha256_of(path) != remote.sha256:
        return "its sha256 is not the published one"
    if remote.git_blob and git_blob_of(path) != remote.git_blob:
        return "its git digest is not the published one"
    return None


def persistently(
    attempt: Callable[[], T], *, stop: Event, gained: Path | None = None, is_first_contact: bool = False
) -> T:
    """Try until it works, waiting longer from time to time.

    Args:
        attempt: raises an Interruption where trying again makes sense.
        stop: set by whoever wants this to end.
        gained: a file that grows while there is progress; an attempt that made it longer was not in vain.
        is_first_contact: whether nobody knows yet that there is a network; then it is soon given up.

    Raises:
        Unreachable: not even a first connection could be made.
        Failure: too many attempts in a row brought nothing.
        Stopped: `stop` was set.
    """
    fruitless, before = 0, _size(gained)
    while True:
        try:
            return attempt()
        except Interruption as interruption:
            fruitless = 0 if _size(gained) > before else fruitless + 1
            before = _size(gained)
            if is_first_contact and interruption.is_unreachable and fruitless >= MOST_UNREACHABLE:
                raise Unreachable(str(interruption)) from None
            if fruitless >= MOST_FRUITLESS:
                raise Failure(f"{interruption}; gave up after {fruitless} attempts") from None
            wait_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**fruitless) * random.uniform(0.5, 1)
            if stop.wait(max(wait_s, min(interruption.wait_s or 0, LONGEST_ASKED_WAIT_S))):
                raise Stopped from None


def put_in_place(partial: Path, path: Path) -> None:
    """Make a complete file appear where it belongs, forced to the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    force_to_disk(partial)
    os.replace(partial, path)
    force_to_disk(path.parent)


@contextmanager
def connection(url: str) -> Iterator[Any]:
    """Yield the hub's HTTP client, and turn what may pass into an Interruption.

    The client knows proxies, certificates and offline mode from the environment. It comes with exceptions of its own,
    of one library in older versions and of another in newer ones.

    Raises:
        Interruption: the connection could not be made, broke, or brought no byte for too long.
    """
    from huggingface_hub import get_session

    client = get_session()
    http = import_module(type(client).__module__.partition(".")[0])
    host = urlsplit(url).hostname or url
    try:
        yield client
    except (http.ConnectError, http.ConnectTimeout, http.ProxyError) as error:
        raise Interruption(f"{host} cannot be reached ({_reason(error)})", is_unreachable=True) from None
    except http.TimeoutException:
        raise Interruption(f"{host} sent nothing for {TIMEOUT_S:g} s") from None
    except http.TransportError as error:
        raise Interruption(f"the connection to {host} broke ({_reason(error)})") from None


def require_ok(response: Any, url: str) -> None:
    """Refuse an answer that is an error.

    Raises:
        Interruption: it may pass.
        Failure: it will not.
    """
    status = response.status_code
    if status in PASSING_STATUS:
        asked = response.headers.get("Retry-After", "")
        raise Interruption(f"{url}: HTTP {status}", wait_s=float(asked) if asked.isdigit() else None)
    if status in (401, 403):
        raise Failure(
            f"{url}: HTTP {status}, not for everybody; accept its terms on its page and set HF_TOKEN"
        )
    if status == 404:
        raise Failure(f"{url}: HTTP 404, there is no such file")
    if status >= 400:
        raise Failure(f"{url}: HTTP {status}")
    if "text/html" in response.headers.get("Content-Type", ""):
        raise Interruption(
            f"{url}: the answer is a web page, not the file; is there a login page in between?"
        )


def _attempt(remote: Remote, partial: Path, on_bytes: Callable[[int], None], stop: Event) -> None:
    """Ask for what is missing and write it as it comes."""
    have = _size(partial)
    if remote.bytes is not None and have == remote.bytes:
        return
    headers = {**remote.headers, "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with (
        connection(remote.url) as client,
        client.stream(
            "GET", remote.url, headers=headers, timeout=TIMEOUT_S, follow_redirects=True
        ) as response,
    ):
        begin = _begin_of(response, have, remote)
        _write(response, partial, begin, remote, on_bytes, stop)


def _begin_of(response: Any, have: int, remote: Remote) -> int:
    """Return the place in the file where the body of an answer begins.

    Raises:
        Interruption: the answer does not fit the file.
    """
    if response.status_code == 416:  # what is here is longer than what is there
        return 0
    require_ok(response, remote.url)
    if response.status_code != 206:
        length = response.headers.get("Content-Length", "")
        _require_size(int(length) if length.isdigit() else None, remote)
        return 0
    span, _, total = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    _require_size(int(total) if total.isdigit() else None, remote)
    if span.partition("-")[0] != str(have):
        raise Interruption(f"{remote.url}: asked for bytes from {have} on, got {span or 'others'}")
    return have


def _require_size(size: int | None, remote: Remote) -> None:
    if None not in (size, remote.bytes) and size != remote.bytes:
        raise Interruption(f"{remote.url}: offers {size} bytes, not {remote.bytes}")


def _write(
    response: Any, partial: Path, begin: int, remote: Remote, on_bytes: Callable[[int], None], stop: Event
) -> None:
    """Write the body of an answer from `begin` on.

    Raises:
        Interruption: it ended early, or brought too much.
        Failure: the disk is full.
    """
    is_wrong_range = response.status_code == 416
    with _disk_of(partial), partial.open("r+b" if partial.exists() else "wb", buffering=0) as file:
        on_bytes(min(0, begin - _size(partial)))
        file.truncate(begin)
        file.seek(begin)
        if is_wrong_range:
            raise Interruption(f"{remote.url}: HTTP 416, begins anew")
        for chunk in response.iter_raw():
            if stop.is_set():
                raise Stopped
            if remote.bytes is not None and file.tell() + len(chunk) > remote.bytes:
                raise Interruption(f"{remote.url}: brought more than {remote.bytes} bytes")
            file.write(chunk)
            on_bytes(len(chunk))
        if remote.bytes is not None and file.tell() < remote.bytes:
            raise Interruption(f"{remote.url}: ended after {file.tell()} of {remote.bytes} bytes")


@contextmanager
def _disk_of(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in FULL_DISK:
            raise DiskFull(path.parent, os.strerror(error.errno)) from None
        raise


class DiskFull(Failure):
    """Nothing more can be written, so there is no sense in trying the next file.

    Args:
        folder: where.
        reason: the system's word for it.
    """

    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(f"{folder}: the disk is full ({reason})")
        self.reason = reason


def _size(path: Path | None) -> int:
    return path.stat().st_size if path is not None and path.exists() else 0


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120] or type(error).__name__
