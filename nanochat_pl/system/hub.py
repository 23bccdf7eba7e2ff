"""What servers say about files before any is fetched: size, digest, address, and which commit a branch is.

`huggingface_hub` does the talking, so its environment variables count: HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and the
usual ones for proxies and certificates. It is imported when it is needed, for only `data fetch` needs it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from threading import Event
from typing import Any, TypeVar

from nanochat_pl.system.assets import RemoteFile
from nanochat_pl.system.errors import Failure
from nanochat_pl.system.transfer import TIMEOUT_S, Interruption, Remote, connection, persistently, require_ok

ASKED_TOGETHER = 100  # files
COMMIT_DIGITS = 40
YES = frozenset({"1", "ON", "YES", "TRUE"})

T = TypeVar("T")


def offline_variable() -> str | None:
    """Return the environment variable that forbids connections, with its value; None if none does."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(name, "").upper() in YES:
            return f"{name}={os.environ[name]}"
    return None


def commit_of(repo: str, revision: str, stop: Event) -> str:
    """Return the commit that a branch or tag of a data set is now; a commit is returned as it is.

    Raises:
        Failure: there is no such repository or revision, or no network.
    """
    if len(revision) == COMMIT_DIGITS and not set(revision) - set("0123456789abcdef"):
        return revision
    return _asked(repo, stop, lambda api: str(api.dataset_info(repo, revision=revision).sha))


def hub_remotes(repo: str, commit: str, files: Sequence[RemoteFile], stop: Event) -> list[Remote | None]:
    """Ask the hub about files of a data set.

    Args:
        repo: id of the data set.
        commit: of it.
        files: with their names in it.
        stop: set by whoever wants this to end.

    Returns:
        What each is; None where the repository has no such file.

    Raises:
        Failure: there is no such repository, or no network.
    """
    names = iter([file.address for file in files])
    found: dict[str, Any] = {}
    while part := list(islice(names, ASKED_TOGETHER)):
        infos = _asked(
            repo,
            stop,
            lambda api, part=part: api.get_paths_info(repo, part, revision=commit, repo_type="dataset"),
        )
        found |= {info.path: info for info in infos}
    return [
        _hub_remote(repo, commit, file, found[file.address]) if file.address in found else None
        for file in files
    ]


def web_remote(file: RemoteFile, stop: Event) -> Remote:
    """Ask a web server about a file.

    Raises:
        Failure: there is no such file, or no network.
    """

    def ask() -> Remote:
        with connection(file.address) as client:
            response = client.head(
                file.address,
                headers={"Accept-Encoding": "identity"},
                timeout=TIMEOUT_S,
                follow_redirects=True,
            )
        require_ok(response, file.address)
        size = response.headers.get("Content-Length", "")
        version = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        return Remote(
            file.address, {}, int(size) if size.isdigit() else None, file.sha256, file.git_blob, version
        )

    return persistently(ask, stop=stop, is_first_contact=True)


def _hub_remote(repo: str, commit: str, file: RemoteFile, info: Any) -> Remote:
    """Return a file as the hub describes it; its digest is the pinned one where there is one."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers

    url = hf_hub_url(repo, file.address, repo_type="dataset", revision=commit)
    sha256 = info.lfs.sha256 if info.lfs else ""
    if file.sha256 and sha256 and sha256 != file.sha256:
        raise Failure(f"{url}: the hub's sha256 is not the one pinned in nanochat_pl/system/assets.py")
    git_blob = "" if info.lfs else info.blob_id
    return Remote(url, build_hf_headers(), info.size, file.sha256 or sha256, file.git_blob or git_blob)


def _asked(repo: str, stop: Event, question: Callable[[Any], T]) -> T:
    """Return the hub's answer to a question, asked until it is understood."""
    from huggingface_hub import HfApi, constants, get_session

    def ask() -> T:
        get_session().timeout = TIMEOUT_S  # it would wait for ever
        with connection(constants.ENDPOINT), _understanding(repo):
            return question(HfApi())

    return persistently(ask, stop=stop, is_first_contact=True)


@contextmanager
def _understanding(repo: str) -> Iterator[None]:
    """Turn what the hub's library says about an answer into an error of ours.

    Raises:
        Interruption: it may pass.
        Failure: it will not.
    """
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status == 404:
            raise Failure(f"{repo}: the hub has no such data set or revision (HTTP 404)") from None
        if status in (401, 403):  # what the hub answers for a missing one as well
            raise Failure(
                f"{repo}: HTTP {status}, not for everybody or not there; accept its terms and set HF_TOKEN"
            ) from None
        require_ok(error.response, repo)
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise Interruption(
            f"{repo}: the hub's answer is not JSON, perhaps a web page ({error})"[:160]
        ) from None
