"""A hub and a web server on this machine that misbehave as much as they are told to, for tests of fetching.

It speaks what `huggingface_hub` asks: which commit a branch is, what the files of a data set are, and the files, by way
of a redirect to another host, as the real one does. Ordinary files lie below `/web/`.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import close_session, constants

import nanochat_pl.system.hub
from nanochat_pl.system import transfer

COMMIT = "c0ffee" * 6 + "c0ff"
PAGE = b"<!DOCTYPE html><html><title>Please sign in</title></html>"
FAULTS = (
    "status 500",
    "status 503",
    "status 429",
    "no answer",
    "cut",
    "stall",
    "slow",
    "page",
    "junk",
    "no range",
)


class Request(NamedTuple):
    """One request as it came: method, path, the first byte asked for, whether it carried a token."""

    method: str
    path: str
    begin: int
    has_token: bool


class FakeHub:
    """What is published, how it misbehaves, and what was asked.

    Args:
        fault_rate: share of requests that go wrong.
        seed: of what goes wrong.

    Attributes:
        files: content by repository and name.
        web: content by name below /web/.
        requests: every request, in their order.
        bytes_per_second: of every body; None means as fast as it goes.
        fault_kinds: what may go wrong.
        stall_s: how long a stalled body keeps silent.
        cut_at: bytes of a file after which the next connections break, one entry a connection.
    """

    def __init__(self, fault_rate: float = 0.0, seed: int = 0) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.web: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.fault_rate, self.fault_kinds = fault_rate, FAULTS
        self.bytes_per_second: float | None = None
        self.stall_s = 0.8
        self.cut_at: list[int] = []
        self.url = ""
        self._rng, self._lock = random.Random(seed), Lock()

    def publish(self, repo: str, name: str, content: bytes) -> str:
        """Put a file into a data set and return its sha256."""
        self.files.setdefault(repo, {})[name] = content
        return hashlib.sha256(content).hexdigest()

    def downloads(self, name: str) -> list[Request]:
        """Return the requests for a file's content."""
        return [
            request for request in self.requests if request.path.endswith(name) and request.method == "GET"
        ]

    def fault(self) -> str | None:
        """Draw what goes wrong with one request."""
        with self._lock:
            return self._rng.choice(self.fault_kinds) if self._rng.random() < self.fault_rate else None


@contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    """Serve what `hub` holds until the block ends; its `url` is set."""

    class Handler(_Handler):
        """A handler that knows the hub."""

    Handler.hub = hub
    server = _Server(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def believe_in(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this process take a hub for the real one, and lose no time with waiting."""
    for name, value in {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
    }.items():
        monkeypatch.setattr(constants, name, value)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(transfer, "FIRST_WAIT_S", 0.002)
    monkeypatch.setattr(transfer, "LONGEST_WAIT_S", 0.01)
    for module in (transfer, nanochat_pl.system.hub):
        monkeypatch.setattr(module, "TIMEOUT_S", 0.5)
    close_session()


def parquet(columns: dict[str, list], **settings) -> bytes:
    """Return a parquet file as bytes."""
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, **settings)
    return buffer.getvalue()


class _Server(ThreadingHTTPServer):
    """A server with room for many who wait to be served."""

    daemon_threads = True
    request_queue_size = 128


class _Handler(BaseHTTPRequestHandler):
    """Answers one request after another; nothing is kept open, so that a fault hits one request only."""

    hub: FakeHub
    cut: int | None = None

    def log_message(self, format: str, *args) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        self._answer(parse_qs(body).get("paths", []))

    def _answer(self, paths: list[str] | None = None) -> None:
        path = unquote(urlsplit(self.path).path)
        has_token = "Authorization" in self.headers
        self.hub.requests.append(Request(self.command, path, self._begin(), has_token))
        fault = self.hub.fault()
        if fault == "no answer":
            self.close_connection = True
        elif fault and fault.startswith("status"):
            self._send(int(fault.split()[1]), b"sorry", {"Retry-After": "0"})
        elif fault == "page":
            self._send(200, PAGE, {"Content-Type": "text/html; charset=utf-8"})
        elif path.startswith("/api/datasets/"):
            self._send_api(path.removeprefix("/api/datasets/"), paths)
        elif path.startswith("/datasets/"):
            self._redirect(path)
        elif path.startswith("/cdn/"):
            repo, _, name = path.removeprefix("/cdn/").partition("/-/")
            self._send_content(self.hub.files.get(repo, {}).get(name), fault)
        else:
            self._send_content(self.hub.web.get(path.removeprefix("/web/")), fault)

    def _send_api(self, path: str, paths: list[str] | None) -> None:
        repo = next((repo for repo in self.hub.files if path.startswith(f"{repo}/")), None)
        if repo is None:
            self._send(404, b"{}")
            return
        if paths is None:
            answer = {"id": repo, "sha": COMMIT}
        else:
            files = self.hub.files[repo]
            answer = [_file_info(name, files[name]) for name in paths if name in files]
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _redirect(self, path: str) -> None:
        repo, _, rest = path.removeprefix("/datasets/").partition("/resolve/")
        commit, _, name = rest.partition("/")
        content = self.hub.files.get(repo, {}).get(name)
        if content is None or len(commit) != len(COMMIT):  # a branch is never asked for files, it could move
            self._send(404, b"Entry not found")
            return
        elsewhere = self.hub.url.replace("127.0.0.1", "localhost")
        self._send(
            302,
            b"",
            {
                "Location": f"{elsewhere}/cdn/{repo}/-/{name}",
                "X-Repo-Commit": COMMIT,
                "X-Linked-Size": str(len(content)),
                "X-Linked-ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            },
        )

    def _send_content(self, content: bytes | None, fault: str | None) -> None:
        if content is None:
            self._send(404, b"not here")
            return
        begin = 0 if fault == "no range" else self._begin()
        if begin >= len(content) > 0 and begin:
            self._send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
            return
        body = content[begin:]
        self.cut = self.hub.cut_at.pop(0) if self.hub.cut_at else None
        if fault == "junk":
            body = bytes(len(body))
        headers = {"ETag": f'"{hashlib.md5(content).hexdigest()}"', "Accept-Ranges": "bytes"}
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        self._send(206 if begin else 200, body, headers, fault)

    def _send(
        self, status: int, body: bytes, headers: dict[str, str] | None = None, fault: str | None = None
    ) -> None:
        try:
            self.send_response(status)
            for name, value in {
                "Content-Length": str(len(body)),
                "Connection": "close",
                **(headers or {}),
            }.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self._send_body(body, fault)
        except OSError:  # whoever asked has gone
            pass
        self.close_connection = True

    def _send_body(self, body: bytes, fault: str | None) -> None:
        if fault in ("cut", "stall"):
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            time.sleep(self.hub.stall_s if fault == "stall" else 0)
            return
        if self.cut is not None:
            self.wfile.write(body[: self.cut])
            return
        pieces = 20 if fault == "slow" else 1
        if self.hub.bytes_per_second:
            pieces = max(1, int(len(body) / self.hub.bytes_per_second / 0.05))
        size = max(1, -(-len(body) // pieces))
        for start in range(0, len(body), size):
            self.wfile.write(body[start : start + size])
            self.wfile.flush()
            if pieces > 1:
                time.sleep(0.05 if self.hub.bytes_per_second else 0.002)

    def _begin(self) -> int:
        span = self.headers.get("Range", "")
        return int(span.removeprefix("bytes=").partition("-")[0]) if span else 0


def _file_info(name: str, content: bytes) -> dict:
    git_blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    info = {"type": "file", "path": name, "size": len(content), "oid": git_blob}
    if name.endswith(".parquet"):
        info["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return info
