"""Fetching: whatever the network does, a file is complete and right or not there, and the same command goes on."""

from __future__ import annotations

import errno
import io
import json
import os
import random
import re
import resource
import shutil
import zipfile
from collections import namedtuple
from pathlib import Path
from threading import Event

import pytest
from fake_hub import COMMIT, FakeHub, parquet

import cli
from nanochat_pl.system import fetching, transfer
from nanochat_pl.system.assets import CORPORA, TASKS, Asset, RemoteFile
from nanochat_pl.system.corpus import open_corpus
from nanochat_pl.system.errors import Failure
from nanochat_pl.system.fetching import fetch
from nanochat_pl.system.files import git_blob_of, sha256_of
from nanochat_pl.system.hub import hub_remotes

FINEWEB = CORPORA["fineweb_edu"]
BASE = "configs/d20_base.yaml"


def publish_shards(hub: FakeHub, train: int, rows: int = 40) -> None:
    """Put shards of text into the hub's FineWeb-Edu, written as those are: without checksums in the file."""
    rng = random.Random(0)
    for number in [*range(train), FINEWEB.shards - 1]:
        texts = [f"{number}/{row} {rng.getrandbits(6000):x}" for row in range(rows)]
        content = parquet({"text": texts}, compression="zstd", row_group_size=16)
        hub.publish(FINEWEB.dataset_id, FINEWEB.file_pattern % number, content)


def data(capsys: pytest.CaptureFixture, verb: str, train: int, *options: str) -> tuple[int, str, str]:
    """Run `data fetch` or `data check` for so many training shards."""
    code = cli.main(["data", verb, "--for", BASE, "--shards", str(train), "--evaluation", "false", *options])
    return code, *capsys.readouterr()


def is_as_published(hub: FakeHub, base: Path, train: int) -> bool:
    folder = base / "data" / "fineweb_edu"
    names = {FINEWEB.file_pattern % number for number in [*range(train), FINEWEB.shards - 1]}
    right = all((folder / name).read_bytes() == hub.files[FINEWEB.dataset_id][name] for name in names)
    return right and {path.name for path in folder.iterdir()} == {*names, "MANIFEST.json"}


def unfinished(base: Path) -> list[Path]:
    return list((base / ".fetch").glob("*.part*"))


def stop_at(count: int, stop: Event):
    """Return what hears of bytes and wants the transfer to end after so many."""
    came = []

    def hear(new: int) -> None:
        came.append(new)
        if sum(came) >= count:
            stop.set()

    return hear


# A network that fails


@pytest.mark.parametrize("train", [29, pytest.param(199, marks=pytest.mark.slow)])
def test_all_files_arrive_complete_through_thirty_percent_of_faults(hub, base_dir, capsys, train):
    publish_shards(hub, train)
    hub.fault_rate, hub.cut_at = 0.3, [1000, 2000, 3000]
    code, out, err = data(capsys, "fetch", train)
    assert code == 0, err
    assert f"{train + 1} files" in out
    assert is_as_published(hub, base_dir, train)
    assert unfinished(base_dir) == []
    asked = [request for request in hub.requests if request.method == "GET" and "/cdn/" in request.path]
    assert len(asked) > train + 1  # the faults were real
    assert any(request.begin for request in asked)
    corpus = open_corpus(base_dir / "data" / "fineweb_edu")
    assert (len(corpus.train), len(corpus.val)) == (train, 1)
    assert [shard.path.name for shard in corpus.val] == [FINEWEB.validation_file]
    assert data(capsys, "check", train)[0] == 0


def test_thirty_downloads_interrupted_anywhere_go_on_where_they_were(hub, base_dir, tmp_path):
    rng = random.Random(1)
    content = rng.randbytes(100_000)
    name = "shard.parquet"
    hub.publish("some/texts", name, content)
    (remote,) = hub_remotes("some/texts", COMMIT, [RemoteFile("x", name)], Event())
    for place in range(30):
        partial = tmp_path / f"{place}.part"
        cut = rng.randrange(1, len(content))
        hub.cut_at = [cut]
        stop = Event()
        with pytest.raises(transfer.Stopped):
            transfer.transfer(remote, partial, on_bytes=stop_at(cut, stop), stop=stop)
        assert partial.read_bytes() == content[:cut]
        came = []
        transfer.transfer(remote, partial, on_bytes=came.append, stop=Event())
        assert partial.read_bytes() == content
        assert sum(came) == len(content) - cut
        assert hub.requests[-1].begin == cut


def test_a_page_instead_of_a_file_is_never_taken_for_it(hub, base_dir, capsys, monkeypatch):
    publish_shards(hub, 4)
    repo, name = FINEWEB.dataset_id, "shard_00002.parquet"
    page = b"<!DOCTYPE html><title>Sign in</title>" + b" " * 100
    hub.publish(repo, name, page)  # the hub itself says that this is the file
    code, _, err = data(capsys, "fetch", 4)
    assert code == 1
    assert f"data/fineweb_edu/{name}" in err
    assert "damaged, or not what its name says" in err
    folder = base_dir / "data" / "fineweb_edu"
    assert not (folder / name).exists()
    assert not (folder / "MANIFEST.json").exists()
    assert (folder / "shard_00003.parquet").exists()
    last = err.strip().splitlines()[-2:]
    assert last[0].startswith(
        "error: could not be fetched: data/fineweb_edu/shard_00002.parquet; 4 of 5 files"
    )
    assert last[1].endswith(f"python cli.py data fetch --for {BASE} --shards 4 --evaluation false")
    publish_shards(hub, 4)
    before = len(hub.requests)
    assert data(capsys, "fetch", 4)[0] == 0
    assert is_as_published(hub, base_dir, 4)
    asked = {request.path for request in hub.requests[before:] if "/cdn/" in request.path}
    assert {path.rpartition("/")[2] for path in asked} == {name}


def test_a_server_that_is_never_well_is_given_up_with_its_reason(hub, base_dir, capsys):
    publish_shards(hub, 2)
    hub.fault_rate, hub.fault_kinds = 1.0, ("status 503",)
    code, _, err = data(capsys, "fetch", 2)
    assert code == 1
    assert "HTTP 503; gave up after 10 attempts" in err
    assert "Traceback" not in err


def test_bytes_that_are_always_wrong_are_refused(hub, base_dir, tmp_path):
    content = b"right" * 100
    hub.web["a"] = b"wrong" * 100
    remote = transfer.Remote(f"{hub.url}/web/a", {}, len(content), sha256="0" * 64)
    with pytest.raises(Failure, match=r"its sha256 is not the published one, 3 times"):
        transfer.transfer(remote, tmp_path / "a.part", on_bytes=lambda count: None, stop=Event())
    assert not (tmp_path / "a.part").exists()


def test_without_network_three_lines_say_where_to_fetch(hub, base_dir, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    code, _, err = data(capsys, "fetch", 2)
    assert code == 1
    assert err.startswith("error: 127.0.0.1 cannot be reached")
    assert "login node" in err
    assert f"python cli.py data fetch --for {BASE}" in err
    assert err.count("\n") <= 3


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"])
def test_offline_mode_is_named_and_asks_nobody(hub, base_dir, capsys, monkeypatch, name):
    publish_shards(hub, 2)
    monkeypatch.setenv(name, "1")
    code, _, err = data(capsys, "fetch", 2)
    assert code == 1
    assert f"{name}=1 forbids" in err
    assert f"unset {name}; python cli.py data fetch" in err
    assert err.count("\n") <= 3
    assert hub.requests == []


def test_a_data_set_that_is_not_there_or_not_for_everybody_says_what_to_do(hub, base_dir, capsys):
    code, _, err = data(capsys, "fetch", 2)
    assert code == 1
    assert "the hub has no such data set or revision (HTTP 404)" in err
    remote = transfer.Remote(f"{hub.url}/web/nothing", {}, None)
    with pytest.raises(Failure, match="HTTP 404, there is no such file"):
        transfer.transfer(remote, base_dir / "x.part", on_bytes=lambda count: None, stop=Event())


def test_a_file_the_hub_lacks_is_named_and_the_rest_is_fetched(hub, base_dir, capsys):
    publish_shards(hub, 3)
    code, _, err = data(capsys, "fetch", 5)
    assert code == 1
    assert "shard_00003.parquet" in err
    assert "shard_00004.parquet" in err
    assert (base_dir / "data" / "fineweb_edu" / "shard_00002.parquet").exists()


def test_the_token_goes_to_the_hub_and_to_nobody_else(hub, base_dir, capsys, monkeypatch):
    publish_shards(hub, 1)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert data(capsys, "fetch", 1)[0] == 0
    for request in hub.requests:
        assert request.has_token == ("/cdn/" not in request.path), request


# What is here already


def test_a_second_fetch_asks_nobody_and_changes_nothing(hub, base_dir, capsys, monkeypatch):
    publish_shards(hub, 3)
    data(capsys, "fetch", 3)
    folder = base_dir / "data" / "fineweb_edu"
    before, asked = {path: path.stat().st_mtime_ns for path in folder.iterdir()}, len(hub.requests)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, out, _ = data(capsys, "fetch", 3)
    assert code == 0
    assert "all of it was here" in out
    assert len(hub.requests) == asked
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_the_same_command_mends_what_was_damaged_and_fetches_nothing_else(hub, base_dir, capsys):
    publish_shards(hub, 4)
    data(capsys, "fetch", 4)
    folder = base_dir / "data" / "fineweb_edu"
    content = bytearray((folder / "shard_00001.parquet").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "shard_00001.parquet").write_bytes(content)
    (folder / "shard_00003.parquet").unlink()
    code, out, err = data(capsys, "check", 4)
    assert code == 1
    assert out.splitlines() == [
        f"{folder}/shard_00001.parquet: its sha256 is not the manifest's",
        f"{folder}/shard_00003.parquet: is missing",
    ]
    remedy = err.strip().splitlines()[-1].removeprefix("Mend: python cli.py ")
    before = len(hub.requests)
    assert cli.main(remedy.split()) == 0
    asked = [request.path.rpartition("/")[2] for request in hub.requests[before:] if "/cdn/" in request.path]
    assert sorted(asked) == ["shard_00001.parquet", "shard_00003.parquet"]
    assert is_as_published(hub, base_dir, 4)
    assert data(capsys, "check", 4)[0] == 0


def test_shards_copied_here_by_hand_are_compared_with_the_hub_and_vouched_for(hub, base_dir, capsys):
    publish_shards(hub, 5)
    folder = base_dir / "data" / "fineweb_edu"
    folder.mkdir(parents=True)
    for name, content in hub.files[FINEWEB.dataset_id].items():
        (folder / name).write_bytes(content)
    (folder / "shard_00004.parquet").write_bytes(parquet({"text": ["another"]}))
    code, _, err = data(capsys, "check", 2)
    assert code == 1
    assert "data fetch" in err
    code, out, _ = data(capsys, "fetch", 2)
    assert code == 0
    assert "6 files" in out
    assert [request.path[-19:] for request in hub.requests if "/cdn/" in request.path] == [
        "shard_00004.parquet"
    ]
    assert is_as_published(hub, base_dir, 5)


def test_more_shards_join_those_that_are_here_at_the_same_commit(hub, base_dir, capsys, monkeypatch):
    publish_shards(hub, 6)
    data(capsys, "fetch", 2)
    assert data(capsys, "check", 6)[0] == 1
    monkeypatch.setattr("fake_hub.COMMIT", "d" * 40)  # the branch moves
    assert data(capsys, "fetch", 6)[0] == 0
    assert is_as_published(hub, base_dir, 6)
    manifest = json.loads((base_dir / "data" / "fineweb_edu" / "MANIFEST.json").read_text())
    assert manifest["made_from"] == {"repository": FINEWEB.dataset_id, "revision": COMMIT}
    assert len(manifest["shards"]) == 7


def test_a_damaged_manifest_is_written_anew(hub, base_dir, capsys):
    publish_shards(hub, 2)
    data(capsys, "fetch", 2)
    manifest = base_dir / "data" / "fineweb_edu" / "MANIFEST.json"
    manifest.write_text("{")
    assert data(capsys, "check", 2)[0] == 1
    assert data(capsys, "fetch", 2)[0] == 0
    assert data(capsys, "check", 2)[0] == 0


# A disk that is too small


def test_too_little_room_is_said_before_anything_is_fetched(hub, base_dir, capsys, monkeypatch):
    publish_shards(hub, 2)
    usage = namedtuple("usage", "total used free")(1, 1, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    code, _, err = data(capsys, "fetch", 2)
    assert code == 1
    assert "are needed, 1.0 kB are free" in err
    assert "NANOCHAT_BASE_DIR" in err
    assert not [request for request in hub.requests if "/cdn/" in request.path]


def test_a_disk_that_fills_up_ends_the_fetch_and_keeps_what_came(hub, base_dir, capsys):
    publish_shards(hub, 2, rows=200)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        code, _, err = data(capsys, "fetch", 2, "--workers", "1")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 1
    said = err[err.index("error: ") :].splitlines()
    assert said == [
        f"error: {base_dir}: the disk is full ({os.strerror(errno.EFBIG)}); 0 of 3 files are here",
        "Make room (df -h; quota -s), or export NANOCHAT_BASE_DIR=/scratch/$USER/nanochat; then: "
        f"python cli.py data fetch --for {BASE} --shards 2 --evaluation false",
    ]
    assert 50_000 in [partial.stat().st_size for partial in unfinished(base_dir)]
    assert data(capsys, "fetch", 2)[0] == 0
    assert is_as_published(hub, base_dir, 2)
    assert 50_000 in [request.begin for request in hub.requests]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_file_that_finds_no_place_is_told_as_a_full_disk(hub, base_dir, capsys, monkeypatch, number):
    def refuse(partial, path):
        raise OSError(number, os.strerror(number))

    publish_shards(hub, 1)
    monkeypatch.setattr(fetching, "put_in_place", refuse)
    code, _, err = data(capsys, "fetch", 1, "--workers", "1")
    assert code == 1
    assert (
        f"the disk is full ({os.strerror(number)}); 0 of 2 files are here\nMake room (df -h; quota -s)" in err
    )


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_and_a_used_up_quota_are_told_from_other_errors(tmp_path, number):
    with (
        pytest.raises(transfer.DiskFull, match=re.escape(os.strerror(number))),
        transfer._disk_of(tmp_path / "x"),
    ):
        raise OSError(number, os.strerror(number))
    with pytest.raises(PermissionError), transfer._disk_of(tmp_path / "x"):
        raise PermissionError(errno.EACCES, "no")


# Archives and files from elsewhere


def archive(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return buffer.getvalue()


def bundle(hub: FakeHub, members: dict[str, bytes], *wanted: str) -> Asset:
    """Publish an archive, and return the asset that takes some files out of it."""
    hub.web["bundle.zip"] = archive(members)
    files = tuple(RemoteFile(f"tasks/core/{name}", name) for name in wanted)
    return Asset("core", files, 1000, "none", archive=RemoteFile("core.zip", f"{hub.url}/web/bundle.zip"))


def test_only_the_wanted_files_of_an_archive_are_unpacked_and_none_outside_its_folder(hub, base_dir):
    evil = {"../../evil.txt": b"x", "/evil.txt": b"x", "a/other.csv": b"x"}
    asset = bundle(
        hub, {"a/core.yaml": b"icl: 1", "a/b.jsonl": b'{"q": 1}\n', **evil}, "a/core.yaml", "a/b.jsonl"
    )
    hub.fault_rate = 0.3
    assert fetch([asset], again="again").files == 2
    found = sorted(str(path.relative_to(base_dir)) for path in base_dir.rglob("*") if path.is_file())
    assert found == [".fetch/lock", "tasks/MANIFEST.json", "tasks/core/a/b.jsonl", "tasks/core/a/core.yaml"]
    assert not list(base_dir.parent.rglob("evil.txt"))
    before = len(hub.requests)
    assert fetch([asset], again="again").fetched == 0
    assert len(hub.requests) == before


def test_an_archive_that_lacks_a_file_or_is_none_is_refused(hub, base_dir, capsys):
    asset = bundle(hub, {"a": b"x"}, "a", "b")
    with pytest.raises(Failure, match=r"could not be fetched: core.zip; 0 of 2 files are here"):
        fetch([asset], again="again")
    assert "is not the archive it should be" in capsys.readouterr().err
    hub.web["bundle.zip"] = b"PK\3\4 not an archive at all"
    with pytest.raises(Failure, match="could not be fetched"):
        fetch([asset], again="again")


def test_an_archive_larger_than_any_should_be_is_not_unpacked(hub, base_dir, capsys, monkeypatch):
    asset = bundle(hub, {"a": bytes(10_000)}, "a")
    monkeypatch.setattr(fetching, "MOST_UNPACKED_BYTES", 9_999)
    with pytest.raises(Failure):
        fetch([asset], again="again")
    assert not (base_dir / "tasks" / "core").exists()


def test_a_file_from_the_web_is_compared_with_what_is_known_of_it(hub, base_dir, tmp_path, capsys):
    words = b"apple\r\nbread\r\n"
    (tmp_path / "words").write_bytes(words)
    hub.web["words.txt"] = words
    file = RemoteFile("tasks/words.txt", f"{hub.url}/web/words.txt", git_blob=git_blob_of(tmp_path / "words"))
    assert fetch([Asset("words", (file,), 10, "none")], again="again").fetched == 1
    entry = json.loads((base_dir / "tasks" / "MANIFEST.json").read_text())["files"][0]
    assert entry == {
        "file": "words.txt",
        "bytes": len(words),
        "sha256": sha256_of(base_dir / "tasks" / "words.txt"),
        "source": hub.url.removeprefix("http://"),
    }
    (base_dir / "tasks" / "words.txt").unlink()
    hub.web["words.txt"] = b"other\r\nwords\r\n."
    with pytest.raises(Failure):
        fetch([Asset("words", (file,), 10, "none")], again="again")
    assert "its git digest is not the published one" in capsys.readouterr().err


def test_git_blob_is_what_git_says(tmp_path):
    (tmp_path / "x").write_bytes(b"x")
    assert git_blob_of(tmp_path / "x") == "c1b0730e0133447badcfd47fd144e254807b06e1"


@pytest.mark.parametrize("content", [b"<html>login</html>", b'{"a": 1}\nnot json\n', b""])
def test_lines_that_are_no_json_are_refused_where_no_digest_is_known(hub, base_dir, content):
    hub.web["i.jsonl"] = content
    asset = Asset("i", (RemoteFile("tasks/i.jsonl", f"{hub.url}/web/i.jsonl"),), 10, "none")
    with pytest.raises(Failure, match=r"could not be fetched: tasks/i\.jsonl"):
        fetch([asset], again="again")
    assert not (base_dir / "tasks" / "i.jsonl").exists()


def test_a_hub_that_contradicts_the_pinned_digest_is_refused(hub, base_dir, capsys):
    hub.publish("some/set", "a.parquet", parquet({"text": ["x"]}))
    file = RemoteFile("tasks/a.parquet", "a.parquet", sha256="1" * 64)
    with pytest.raises(Failure, match="could not be fetched: a;"):
        fetch([Asset("a", (file,), 10, "none", "some/set", "main")], again="again")
    assert "the hub's sha256 is not the one pinned" in capsys.readouterr().err


# The registry


def test_every_target_is_below_its_folder_and_belongs_to_one_asset():
    targets = [file.target for asset in TASKS.values() for file in asset.files]
    assert len(set(targets)) == len(targets)
    for asset in TASKS.values():
        for file in asset.files:
            assert file.target.startswith("tasks/")
            assert ".." not in file.target
        assert asset.licence
        assert asset.about_bytes > 0
        assert len(asset.revision) == 40 or not asset.repo


def test_every_digest_has_its_length():
    for asset in TASKS.values():
        for file in (*asset.files, *([asset.archive] if asset.archive else ())):
            assert len(file.sha256) in (0, 64)
            assert len(file.git_blob) in (0, 40)
            assert not set(file.sha256 + file.git_blob) - set("0123456789abcdef")


def test_core_is_what_the_real_bundle_names(shared_data):
    """The files taken out of the archive are those that its own list of tasks asks for, and the pins are right."""
    import yaml

    core = {file.target.removeprefix("tasks/core/"): file for file in TASKS["core"].files}
    named = {
        f"eval_data/{task['dataset_uri']}"
        for task in yaml.safe_load((shared_data / "core" / "core.yaml").read_text())["icl_tasks"]
    }
    assert {name for name in core if name.startswith("eval_data/")} == named
    for name, file in core.items():
        if file.sha256:
            here = shared_data / "core" / name
            here = here if here.exists() else shared_data / "core" / "reference" / name
            assert sha256_of(here) == file.sha256
