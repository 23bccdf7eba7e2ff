"""`data list | check | fetch`: what stages need is told from their files; that is fetched and checked, and no more."""

from __future__ import annotations

import errno
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import yaml
from fake_hub import FakeHub, parquet
from task_files import write_rows

import cli
from nanochat_pl.commands.stage_needs import needs_of
from nanochat_pl.system import corpus
from nanochat_pl.system.assets import CORPORA, TASKS, Asset, RemoteFile
from nanochat_pl.system.errors import BadInput

ROOT = Path(__file__).resolve().parent.parent.parent
FINEWEB = CORPORA["fineweb_edu"]
BASE, MID, SFT = (f"configs/d20_{stage}.yaml" for stage in ("base", "mid", "sft"))
CONFIGS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "configs").glob("*.yaml"))

CHAT = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day."}]
MMLU_ROW = {"question": "1+1?", "subject": "sums", "choices": ["1", "2", "3", "4"], "answer": 1}
ROWS = {
    "arc": {"id": "1", "question": "Sky?", "choices": {"text": ["blue", "red"], "label": ["A", "B"]}, "answerKey": "A"},
    "gsm8k": {"question": "2+2?", "answer": "2+2=<<2+2=4>>4\n#### 4"},
    "humaneval": {"task_id": "x/0", "prompt": "def f():\n", "canonical_solution": "    return 1\n",
                  "test": "def check(candidate):\n    assert candidate() == 1\n", "entry_point": "f"},
    "mmlu/all": MMLU_ROW,
    "mmlu/auxiliary_train": {"train": MMLU_ROW},
    "smoltalk": {"messages": CHAT},
}  # fmt: skip
WORDS = "".join(f"{'abcdefghijklm'[number % 13]}{'nopqrstuvwxyz'[number // 13]}\r\n" for number in range(169))


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


def run(capsys: pytest.CaptureFixture, line: str) -> tuple[int, str, str]:
    try:
        code = cli.main(["data", *line.split()])
    except SystemExit as exit_:
        code = exit_.code
    return code, *capsys.readouterr()


def content_of(asset: Asset, file: RemoteFile) -> bytes:
    """Return something small that has the form of one file of the registry."""
    if file.target.endswith(".parquet"):
        row = next(ROWS[kind] for kind in ROWS if asset.name.startswith(kind))
        columns = {key: [row[key]] * 3 for key in row}
        return parquet(columns)
    if file.target.endswith(".jsonl"):
        return f"{json.dumps(CHAT)}\n".encode() * 2
    return WORDS.encode() if file.target.endswith(".txt") else file.target.encode()


@pytest.fixture
def published(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """A hub with a small version of everything in the registry, digests and addresses of the registry replaced."""
    rng = random.Random(0)
    for number in [*range(3), FINEWEB.shards - 1]:
        content = parquet({"text": [f"{number} {rng.random()}" for _ in range(50)]})
        hub.publish(FINEWEB.dataset_id, FINEWEB.file_pattern % number, content)
    for asset in list(TASKS.values()):
        monkeypatch.setitem(TASKS, asset.name, _published(hub, asset))
    return hub


def _published(hub: FakeHub, asset: Asset) -> Asset:
    contents = {file: content_of(asset, file) for file in asset.files}
    if asset.archive:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as members:
            for file, content in contents.items():
                members.writestr(file.address, content)
        hub.web["bundle.zip"] = buffer.getvalue()
        archive = RemoteFile(asset.archive.target, f"{hub.url}/web/bundle.zip")
        return asset._replace(files=tuple(file._replace(sha256="") for file in asset.files), archive=archive)
    files = []
    for file, content in contents.items():
        if asset.repo:
            files.append(file._replace(sha256=hub.publish(asset.repo, file.address, content)))
        else:
            hub.web[file.target] = content
            files.append(RemoteFile(file.target, f"{hub.url}/web/{file.target}"))
    return asset._replace(files=tuple(files))


# What a stage needs


@pytest.mark.parametrize(("config", "train_shards"), [(BASE, 332), ("configs/d32_base.yaml", 1111)])
def test_shards_are_counted_by_the_plan(config, train_shards):
    assert needs_of(config).corpus.train_shards == train_shards
    assert needs_of(config, shards=240).corpus.train_shards == 240


@pytest.mark.parametrize("config", CONFIGS)
def test_everything_that_a_stage_names_is_made_here_or_in_the_registry(config):
    needs = needs_of(config)
    assert bool(needs.corpus) != bool(needs.tasks)
    for task in needs.tasks:
        assert task.asset is None or task.asset in TASKS, task.asset
    if "demo" in config:
        assert needs.assets == []
    else:
        assert "core" in [asset.name for asset in needs.assets] or needs.tasks


def test_what_only_the_test_asks_belongs_to_it_unless_left_out():
    names = {asset.name for asset in needs_of(MID).assets}
    exams = {
        "arc/ARC-Easy/test",
        "arc/ARC-Challenge/test",
        "humaneval/HumanEval",
        "mmlu/all/test",
        "gsm8k/test",
    }
    assert exams | {"spelling/words_alpha"} <= names
    assert "arc/ARC-Easy/test" not in {asset.name for asset in needs_of(MID, evaluation=False).assets}
    assert needs_of(BASE, evaluation=False).assets == []


def test_a_stage_may_name_other_exams(tmp_path):
    stage = yaml.safe_load((ROOT / SFT).read_text())
    stage["chat_metric"] = {"tasks": ["GSM8K"], "every_n_steps": 10, "training_tasks": ["MMLU"]}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(stage))
    names = {asset.name for asset in needs_of(str(tmp_path / "own.yaml")).assets}
    assert {"gsm8k/test", "mmlu/all/test"} <= names
    assert "humaneval/HumanEval" not in names


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("fetch", "--for"),
        ("fetch --for", "name a stage's file"),
        ("check --for configs/d20_bsae.yaml", "configs/d20_bsae.yaml: No such file"),
        ("fetch --for pyproject.toml", "is not YAML"),
        ("fetch --for configs/hardware/cpu.yaml", "has no data.init_args"),
        (f"fetch --for {BASE} --shards 0", "--shards=0"),
        (f"fetch --for {BASE} --workers 0", "--workers=0"),
        (f"fetch --for {BASE} --shard 3", "--shards"),
    ],
)
def test_mistakes_are_answered_in_three_lines_and_create_nothing(line, said, capsys, base_dir):
    code, _, err = run(capsys, line)
    assert code == 2, err
    assert said in err
    assert err.count("\n") <= 3
    assert not base_dir.exists()


def test_a_stage_whose_shards_cannot_be_counted_asks_for_their_number(tmp_path):
    stage = yaml.safe_load((ROOT / BASE).read_text())
    stage["model"]["init_args"]["init_from"] = "d20_base"
    (tmp_path / "more.yaml").write_text(yaml.safe_dump(stage))
    with pytest.raises(BadInput, match="--shards N"):
        needs_of(str(tmp_path / "more.yaml"))
    assert needs_of(str(tmp_path / "more.yaml"), shards=7).corpus.train_shards == 7


@pytest.mark.parametrize("verb", ["check", "list"])
def test_nothing_heavy_is_imported(verb):
    program = (
        "import sys, cli\n"
        f"cli.main(['data', {verb!r}, '--for', {BASE!r}, {SFT!r}])\n"
        "loaded = {'torch', 'lightning', 'datasets', 'huggingface_hub'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    environment = os.environ | {"NANOCHAT_BASE_DIR": "/nonexistent"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


# Several stages


def test_all_that_three_stages_need_is_fetched_and_checked_offline(published, base_dir, capsys, monkeypatch):
    published.fault_rate = 0.2
    line = f"--for {BASE} {MID} --for {SFT} --shards 3"
    code, out, err = run(capsys, f"fetch {line}")
    assert code == 0, err
    assert f"data check --for {BASE} {MID} {SFT} --shards 3" in out
    monkeypatch.setattr("socket.socket", None)  # nothing below opens a connection
    code, out, err = run(capsys, f"check {line}")
    assert code == 0, out + err
    for said in (
        "3 + 1 shards, 200 documents",
        "SmolTalk train: 12 items",
        "HumanEval: 3 items",
        "core: 27 files",
    ):
        assert said in out
    manifest = json.loads((base_dir / "tasks" / "MANIFEST.json").read_text())
    needed = {
        file.target
        for config in (BASE, MID, SFT)
        for asset in needs_of(config).assets
        for file in asset.files
    }
    assert {f"tasks/{entry['file']}" for entry in manifest["files"]} == needed
    asked = len(published.requests)
    assert run(capsys, f"fetch {line}")[0] == 0
    assert len(published.requests) == asked


def test_a_gate_names_every_missing_and_damaged_file_and_the_command_that_mends_them(
    published, base_dir, capsys
):
    line = f"--for {BASE} {SFT} --shards 2"
    assert run(capsys, f"check {line}")[0] == 1
    run(capsys, f"fetch {line}")
    assert run(capsys, f"check {line}")[0] == 0
    spoilt = [
        base_dir / "data/fineweb_edu/shard_00000.parquet",
        base_dir / "tasks/core/eval_data/world_knowledge/arc_easy.jsonl",
        base_dir / "tasks/humaneval/test-00000-of-00001.parquet",
        base_dir / "tasks/smoltalk/train-00002-of-00004.parquet",
    ]
    for path in spoilt[:3]:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.write_bytes(content)
    spoilt[3].unlink()
    code, out, err = run(capsys, f"check {line}")
    assert code == 1
    findings = [row for row in out.splitlines() if str(base_dir) in row and "documents" not in row]
    assert sorted(finding.partition(": ")[0] for finding in findings) == sorted(map(str, spoilt))
    remedy = err.strip().splitlines()[-1].removeprefix("Mend: python cli.py data ")
    assert run(capsys, remedy)[0] == 0
    assert run(capsys, f"check {line}")[0] == 0


def test_fewer_shards_than_a_stage_needs_are_counted_and_the_printed_command_brings_the_rest(
    published, base_dir, capsys
):
    line = f"--for {BASE} --shards {{}} --evaluation false"
    assert run(capsys, f"fetch {line.format(2)}")[0] == 0
    code, out, err = run(capsys, f"check {line.format(3)}")
    assert code == 1
    folder = base_dir / "data" / "fineweb_edu"
    assert out == f"{folder}: {BASE} needs 3 shards for training, 2 are here\n"
    assert err.count("\n") <= 3
    remedy = err.strip().splitlines()[-1].removeprefix("Mend: python cli.py data ")
    assert run(capsys, remedy)[0] == 0
    assert run(capsys, f"check {line.format(3)}")[0] == 0


MISSING = {
    "shards are short": ("data/fineweb_edu/shard_00002.parquet", "shard_00002.parquet: is missing"),
    "validation shard": ("data/fineweb_edu/shard_01822.parquet", "shard_01822.parquet: is missing"),
    "corpus": ("data/fineweb_edu", "fineweb_edu is not here"),
    "manifest": ("data/fineweb_edu/MANIFEST.json", "has no MANIFEST.json"),
    "evaluation bundle": ("tasks/core", "core.yaml: is missing, and all of core"),
    "identity": ("tasks/identity_conversations.jsonl", "identity_conversations.jsonl: is missing"),
    "MMLU all": ("tasks/mmlu/all", "mmlu/all/test-00000-of-00001.parquet: is missing"),
    "MMLU auxiliary": ("tasks/mmlu/auxiliary_train", "auxiliary_train/train-00000-of-00001.parquet: is missing"),
    "GSM8K test": ("tasks/gsm8k/test-00000-of-00001.parquet", "gsm8k/test-00000-of-00001.parquet: is missing"),
    "SmolTalk test": ("tasks/smoltalk/test-00000-of-00001.parquet", "smoltalk/test-00000-of-00001.parquet: is missing"),
    "SmolTalk shard": ("tasks/smoltalk/train-00003-of-00004.parquet", "train-00003-of-00004.parquet: is missing"),
    "HumanEval": ("tasks/humaneval", "humaneval/test-00000-of-00001.parquet: is missing"),
    "words": ("tasks/spelling", "words_alpha.txt: is missing"),
}  # fmt: skip


@pytest.fixture(scope="module")
def complete(tmp_path_factory) -> Path:
    """A place for one base directory with everything, filled by the first test that asks for it."""
    return tmp_path_factory.mktemp("complete") / "base"


@pytest.mark.parametrize(("path", "said"), MISSING.values(), ids=MISSING)
def test_whatever_is_missing_is_named_in_three_lines_with_the_command_that_brings_it(
    published, base_dir, complete, capsys, path, said
):
    line = f"--for {BASE} {MID} {SFT} --shards 3"
    if not complete.exists():
        assert run(capsys, f"fetch {line}")[0] == 0
        shutil.copytree(base_dir, complete)
    shutil.copytree(complete, base_dir, dirs_exist_ok=True)
    spoilt = base_dir / path
    shutil.rmtree(spoilt) if spoilt.is_dir() else spoilt.unlink()
    code, out, err = run(capsys, f"check {line}")
    assert code == 1
    assert [row for row in out.splitlines() if said in row], out
    assert err.count("\n") <= 3
    assert f"python cli.py data fetch {line}" in err


def test_a_quick_check_sees_sizes_and_not_bytes(published, base_dir, capsys):
    line = f"--for {BASE} --shards 2 --evaluation false"
    run(capsys, f"fetch {line}")
    path = base_dir / "data/fineweb_edu/shard_00001.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:50] + bytes([content[50] ^ 1]) + content[51:])
    assert run(capsys, f"check {line} --quick true")[0] == 0
    assert run(capsys, f"check {line}")[0] == 1
    path.write_bytes(content[:-1])
    assert run(capsys, f"check {line} --quick true")[0] == 1


def test_files_of_the_users_own_are_left_alone_and_said_to_be_theirs(published, base_dir, capsys):
    own = write_rows(base_dir / "tasks" / "gsm8k" / "train.jsonl.gz", [ROWS["gsm8k"]] * 5)
    code, out, _ = run(capsys, f"fetch --for {SFT}")
    assert code == 0
    assert f"{own}: your own, stays as it is (GSM8K)" in out
    assert not (base_dir / "tasks" / "gsm8k" / "train-00000-of-00001.parquet").exists()
    code, out, _ = run(capsys, f"check --for {SFT}")
    assert code == 0
    assert "GSM8K train: 5 items; your own, nothing to compare with" in out


def test_what_is_made_here_is_not_fetched_but_named_with_its_command(hub, base_dir, capsys):
    code, _, err = run(capsys, "fetch --for configs/demo_base.yaml configs/demo_sft.yaml")
    assert code == 1
    assert "Get it: python cli.py data generate world" in err
    cli.main(["data", "generate", "world", "--documents", "300"])
    capsys.readouterr()
    code, out, _ = run(capsys, "fetch --for configs/demo_base.yaml configs/demo_sft.yaml")
    assert code == 0
    assert "is here, and not from the hub" in out
    code, out, err = run(
        capsys, "check --for configs/demo_base.yaml configs/demo_mid.yaml configs/demo_sft.yaml"
    )
    assert code == 0, out + err
    (base_dir / "data/world/shard_00000.parquet").unlink()
    code, _, err = run(capsys, "check --for configs/demo_base.yaml")
    assert code == 1
    settings = "--documents 300 --val_documents 600 --seed 0 --towns 60 --held_out_described true"
    assert f"Mend: python cli.py data generate world {settings} --force true" in err
    assert hub.requests == []


@pytest.mark.parametrize(
    ("number", "repair"), [(errno.EROFS, "Make sure that you may write there"), (errno.ENOSPC, "df -h")]
)
def test_disk_that_refuses_a_generated_corpus_is_told_with_a_repair(
    base_dir, capsys, monkeypatch, number, repair
):
    def refuse(path, value):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(corpus, "write_json", refuse)
    code, _, err = run(capsys, "generate world --documents 40 --val_documents 10")
    assert code == 1
    assert f"could not be written: {os.strerror(number)}\n" in err
    assert repair in err
    assert "export NANOCHAT_BASE_DIR=DIR" in err
    assert not list((base_dir / "data").iterdir())


def test_generated_corpus_is_made_anew_where_a_shard_is_cut(base_dir, capsys):
    line = "generate world --documents 40 --val_documents 10"
    shard = base_dir / "data" / "world" / "shard_00000.parquet"
    run(capsys, line)
    whole = shard.read_bytes()
    assert "is here, made with these settings" in run(capsys, line)[1]
    shard.write_bytes(whole[:-7])
    code, out, _ = run(capsys, line)
    assert code == 0
    assert "made anew" in out
    assert shard.read_bytes() == whole


def test_the_list_says_what_stages_need_and_what_is_here(published, base_dir, capsys):
    code, out, _ = run(capsys, "list")
    assert code == 0
    assert all(name in out for name in (*CORPORA, *TASKS))
    run(capsys, f"fetch --for {BASE} --shards 2")
    _, out, _ = run(capsys, f"list --for {BASE} {SFT}")
    lines = {row.split()[0]: row for row in out.splitlines()}
    assert "3 of 333 files" in lines["fineweb_edu"]
    assert "33.3 GB" in lines["fineweb_edu"]
    assert " here " in lines["core"]
    assert "not here" in lines["gsm8k/train"]
    assert "CC BY-SA 4.0" in lines["arc/ARC-Easy/train"]


# Interrupted, and two at a time


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_a_fetch_that_was_stopped_goes_on_and_a_second_one_beside_it_is_refused(
    published, base_dir, capsys, end
):
    rng = random.Random(1)
    for name in list(published.files[FINEWEB.dataset_id]):
        published.publish(FINEWEB.dataset_id, name, parquet({"text": [rng.randbytes(400_000).hex()]}))
    published.bytes_per_second = 150_000
    line = f"fetch --for {BASE} --shards 3 --evaluation false"
    process = subprocess.Popen(
        [sys.executable, "cli.py", "data", *line.split()],
        cwd=ROOT,
        env=os.environ | {"HF_ENDPOINT": published.url, "NO_PROXY": "127.0.0.1,localhost"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # shells ignore it in the background
    )
    deadline = time.monotonic() + 240
    while sum(path.stat().st_size for path in (base_dir / ".fetch").glob("*.part")) < 100_000:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    published.bytes_per_second = 1_000  # so that it is still at work when it is stopped, on any machine
    code, _, err = run(capsys, line)
    assert code == 1
    assert f"process {process.pid} on " in err
    assert "is at work there already" in err
    process.send_signal(end)
    _, err = process.communicate(timeout=240)
    if end == signal.SIGINT:
        assert process.returncode == 130
        assert "what was fetched stays; go on: python cli.py data fetch" in err
        assert "Traceback" not in err
    begun = {path.stat().st_size for path in (base_dir / ".fetch").glob("*.part")}
    assert not list((base_dir / "data").rglob("*.parquet"))
    published.bytes_per_second = None
    assert run(capsys, line)[0] == 0
    assert {request.begin for request in published.requests if request.begin} == begun - {0}
    assert run(capsys, line.replace("fetch", "check"))[0] == 0


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [
        (b"PAR1\xff\xfe\x00", 2, "is not YAML"),
        (b"data: {init_args: {train: , val: }}", 2, "no data.init_args.corpus and no tasks"),
        (b"data: {init_args: {train: [{class_path: CustomJSON, init_args: {path: CHATS}}], val: }}", 0, ""),
        (b"data: {init_args: {train: [{class_path: CustomJSON, init_args: }]}}", 2, "missing 1 required"),
    ],
    ids=["no text", "no tasks", "no validation", "no arguments"],
)
def test_a_stage_that_is_damaged_or_half_empty_is_answered_in_a_line(
    base_dir, tmp_path, capsys, content, code, said
):
    (tmp_path / "chats.jsonl").write_text(json.dumps(CHAT))
    (tmp_path / "stage.yaml").write_bytes(content.replace(b"CHATS", bytes(tmp_path / "chats.jsonl")))
    got, _, err = run(capsys, f"check --for {tmp_path / 'stage.yaml'}")
    assert (got, said in err, err.count("\n") <= 3) == (code, True, True), err
