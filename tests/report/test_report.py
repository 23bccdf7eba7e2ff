"""The verb: what the two pages hold, that no text becomes markup, that nothing heavy or distant is needed."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from run_files import (
    BEGAN,
    CHAT,
    CORE,
    chat_line,
    core_line,
    partial_core_line,
    write_chain,
    write_lines,
    write_run,
)
from tiny_stage import ROOT

import cli
from nanochat_pl.report.html import FOLD
from nanochat_pl.report.verb import report

VOID = {"meta", "br", "hr", "img", "input", "link", "wbr"}
EVIL = (
    '<script>alert(1)</script><img src="http://x.example/a.png" onerror=alert(1)></style></dd>'
    "|`*_[a](javascript:alert(1))"
)


class Page(HTMLParser):
    """What a page is made of; complains about elements that are not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self._open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data):
        self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join("".join(self.text).split())


def pages(base: Path, *, curves: bool = False, **options) -> tuple[str, str]:
    """Write the card, without its curves unless they matter, and return Markdown and HTML."""
    with pytest.MonkeyPatch.context() as patch:
        if not curves:
            patch.setattr("nanochat_pl.report.html.can_draw", lambda: False)
        report(**options)
    folder = Path(options.get("out") or base / "report")
    return tuple((folder / f"report.{kind}").read_text(encoding="utf-8") for kind in ("md", "html"))


@pytest.fixture
def chain(base_dir):
    """A base directory with a whole chain of runs."""
    base_dir.mkdir()
    write_chain(base_dir)
    return base_dir


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A whole chain of runs, and its card with curves."""
    pytest.importorskip("matplotlib")
    base = tmp_path_factory.mktemp("whole")
    write_chain(base)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_BASE_DIR", str(base))
        return base, *pages(base, curves=True)


def test_every_number_is_on_both_pages_and_names_a_file_that_exists(whole):
    chain, markdown, html = whole
    for page in (markdown, Page(html).words):
        for shown in (
            "0.2219",
            "0.1140",
            "0.3042",
            "0.4400",
            "11,219,763,200",
            "abc1234, branch main, clean",
        ):
            assert shown in page, shown
        assert re.search(r"\$128\.40", page.replace("\\$", "$"))
        assert "5h39m" in page
        assert "Nothing is missing." in page
    listed = re.findall(r'<li id="file-\d+"><code>([^<]+)</code>', html)
    assert len(listed) > 20
    assert all((chain / file).is_file() for file in listed)
    assert re.findall(r"^\d+\. `([^`]+)`$", markdown, re.M) == listed
    marks = {int(number) for number in re.findall(r'href="#file-(\d+)"', html)}
    assert marks <= set(range(1, len(listed) + 1))


def test_a_number_in_a_table_carries_the_line_it_stands_on(whole):
    _, _, html = whole
    assert 'title="runs/d20_base/metrics/core.jsonl, line 1">0.2219' in html


def test_prices_are_called_assumptions(whole):
    for page in whole[1:]:
        assert "Prices are assumptions" in page
        assert "assumed" in page


def test_the_page_is_whole_accessible_and_asks_for_nothing(whole):
    _, _, html = whole
    page = Page(html)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form", "video", "audio"} & set(
        page.tags
    )
    for _, name, value in page.attributes:
        assert not name.startswith("on")
        if name in ("href", "src", "srcset", "action", "data", "poster", "background"):
            assert value.startswith("#"), value
        assert "url(" not in value or "url(#" in value
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", html)
    assert "default-src 'none'" in html
    names = [value for _, name, value in page.attributes if name == "id"]
    assert len(names) == len(set(names))
    inside = {value[1:] for _, name, value in page.attributes if name == "href"}
    assert inside <= set(names)
    assert page.tags["table"] == page.tags["caption"] > 5
    assert all(
        value in ("col", "row") for tag, name, value in page.attributes if (tag, name) == ("th", "scope")
    )
    assert page.tags["svg"] == sum(name == "role" and value == "img" for _, name, value in page.attributes)
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html


def test_every_row_of_a_markdown_table_has_as_many_cells_as_its_head(chain):
    (chain / "runs" / "d20_base" / "metrics" / "core.jsonl").write_text(
        json.dumps(core_line(21400, **{f"core/{EVIL}": 0.5}))
    )
    markdown, _ = pages(chain)
    tables = re.findall(r"(?:^\|.*\|$\n?)+", markdown, re.M)
    assert len(tables) > 8
    for table in tables:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.strip().splitlines()}
        assert len(widths) == 1, table


def poisoned(base: Path) -> Path:
    """Write a run all of whose texts are markup."""
    folder = write_run(base, "evil_sft", "sft", init_from=EVIL)
    metrics = folder / "metrics"
    write_lines(
        metrics / "samples.jsonl",
        [
            {"step": 1, "prompt": EVIL, "text": EVIL},
            {"step": 2, "prompt": "```", "text": "````\n# heading\n</dl>\x1b[2J\x00"},
        ],
    )
    write_lines(
        metrics / "train.jsonl",
        [{"step": 1, "time": BEGAN, "train/loss": 1.0, f"lr/{EVIL}": 0.1, f"train/{EVIL}": 2}],
    )
    write_lines(
        metrics / "chat.jsonl",
        [{**chat_line(1), f"chat/{EVIL}": 0.5, "chat/metric_version": EVIL, "chat/metric_tasks": [EVIL]}],
    )
    write_lines(metrics / "core.jsonl", [partial_core_line(1, missing=[EVIL]) | {f"core/{EVIL}": 0.1}])
    text = (
        json.dumps(json.loads((folder / "environment.json").read_text()))
        .replace("Say it", "SAY")
        .replace("Some CPU", "CPU")
    )
    facts = json.loads(text)
    facts["starts"][0]["git"] |= {"message": EVIL, "branch": EVIL}
    facts["starts"][0] |= {"cpu": EVIL, "gpus": [EVIL], "versions": {"torch": EVIL}}
    (folder / "environment.json").write_text(json.dumps(facts))
    return folder


def test_text_of_files_never_becomes_markup(base_dir):
    poisoned(base_dir)
    markdown, html = pages(base_dir, curves=True)
    page = Page(html)
    assert "<script>alert(1)</script>" in "".join(page.text)
    assert not {"script", "img"} & set(page.tags)
    assert page.tags["style"] == 1
    assert not any(name.startswith("on") for _, name, _ in page.attributes)
    assert not any("javascript:" in value for _, name, value in page.attributes if name == "href")
    assert "\x1b" not in html + markdown
    assert "\x00" not in html + markdown
    outside = re.sub(r"^(`{3,})text\n(?:.*?\n)??\1`*$", "", markdown, flags=re.M | re.S)
    outside = re.sub(r"(?<![`\\])(`+)(?!`).*?(?<!`)\1(?!`)", "", outside)
    assert "<script" not in outside
    assert "<img" not in outside
    assert not re.search(r"(?<!\\)\]\(", outside)
    assert "\n# heading" not in outside


def test_half_a_character_is_no_reason_to_fail(base_dir):
    folder = write_run(base_dir, "a_base", "base")
    (folder / "metrics" / "samples.jsonl").write_text(
        '{"step": 1, "prompt": "\\ud800", "text": "\\udfff ok"}\n'
    )
    (folder / "metrics" / "core.jsonl").write_text(json.dumps(core_line(1) | {"core/\ud800": 0.5}) + "\n")
    markdown, html = pages(base_dir)
    assert "? ok" in markdown
    assert "? ok" in html


def test_what_is_missing_is_named_with_a_command_that_exists(base_dir):
    write_run(base_dir, "d20_base", "base")
    unfinished = write_run(base_dir, "d20_mid", "mid", init_from="d20_base", began=BEGAN + 1e5, steps=800)
    (unfinished / "artifact" / "provenance.json").unlink()
    lines = (unfinished / "metrics" / "train.jsonl").read_text().splitlines()[:300]
    (unfinished / "metrics" / "train.jsonl").write_text("\n".join(lines))
    for name in ("environment.json", "metrics/val.jsonl", "metrics/samples.jsonl"):
        (unfinished / name).unlink()
    some = {key: value for key, value in chat_line(300).items() if "MMLU" not in key and "metric" not in key}
    write_lines(unfinished / "metrics" / "chat.jsonl", [some])
    markdown, html = pages(base_dir)
    missing = markdown.partition("## Missing")[2].partition("\n## ")[0]
    for line in (
        "SFT: not trained `python cli.py fit --config configs/d20_sft.yaml`",
        "d20_mid: not finished, at step 300 of 800 `python cli.py fit --config configs/d20_mid.yaml`",
        "d20_mid: bits per byte `python cli.py validate --config configs/d20_mid.yaml`",
        "d20_mid: samples `python cli.py predict --config configs/d20_mid.yaml`",
        "d20_mid: MMLU `python cli.py test --config configs/d20_mid.yaml --tasks MMLU`",
        "d20_mid: ChatCORE `python cli.py test --config configs/d20_mid.yaml`",
        "d20_base: CORE `python cli.py test --config configs/d20_base.yaml`",
        "RL: not trained `python cli.py fit --config ",
    ):
        assert line in missing, line
    assert "d20_mid: machine and code are noted when a run starts, and this one has no such note" in missing
    assert "--fresh" not in missing
    commands = re.findall(r"`(python cli\.py [^`]+)`", missing)
    assert len(commands) == 8
    for command in commands:
        words = command.split()[2:]
        cli.split_verb(words)
        config = words[words.index("--config") + 1]
        assert (ROOT / config).is_file() or "YOUR_" in config
        assert command in Page(html).words


def test_a_run_of_another_name_is_repaired_by_its_resolved_configuration(base_dir):
    write_run(base_dir, "mine", "base")
    markdown, _ = pages(base_dir)
    assert '`python cli.py test --config "$NANOCHAT_BASE_DIR"/runs/mine/config.yaml`' in markdown


def test_a_partial_core_names_the_tasks_it_lacks(base_dir):
    folder = write_run(base_dir, "d20_base", "base")
    write_lines(folder / "metrics" / "core.jsonl", [partial_core_line(1000)])
    markdown, _ = pages(base_dir)
    assert "d20_base: CORE is partial, without squad, coqa" in markdown
    assert "0.9000 (partial)" in markdown
    assert "GPT-2's published CORE scores" in markdown


def test_damaged_files_are_named_and_do_not_stop_the_card(base_dir):
    folder = write_run(base_dir, "a_base", "base")
    with (folder / "metrics" / "train.jsonl").open("a") as file:
        file.write('{"step": 1001, "tra')
    (folder / "plan.json").write_text("{")
    (folder / "metrics" / "val.jsonl").write_bytes(os.urandom(2000))
    for page in pages(base_dir):
        assert "runs/a_base/metrics/train.jsonl: line 501 is not readable" in page
        assert "runs/a_base/plan.json: damaged" in page
        assert "runs/a_base/metrics/val.jsonl: " in page


def diverged(base: Path) -> None:
    """Write a base run that diverged, and was evaluated so."""
    folder = write_run(base, "d20_base", "base")
    nan = float("nan")
    loss = ({"step": step, "time": BEGAN, "train/loss": 3.0 if step < 5 else nan} for step in range(100))
    write_lines(folder / "metrics" / "train.jsonl", loss)
    write_lines(folder / "metrics" / "val.jsonl", [{"step": 100, "time": BEGAN, "val/bpb": nan}])
    core = {"core/metric": nan} | {f"core/{name}_centred": nan for name in CORE}
    write_lines(folder / "metrics" / "core.jsonl", [core_line(100, **core)])


def test_a_run_that_diverged_is_told_in_words_and_draws_nothing_that_is_not_there(base_dir):
    pytest.importorskip("matplotlib")
    diverged(base_dir)
    markdown, html = pages(base_dir, curves=True)
    assert "left: nan" not in html
    assert 'class="own"' not in html
    for page in (markdown, Page(html).words):
        assert page.count("not a number: training may have diverged, see Training") == 2
        assert "95 of 100 values not finite, the first at step 5" in page
        assert "no finite value" in page
    figures = re.findall(r"<figure>.*?</figure>", html, re.S)
    assert [("<svg" in figure) for figure in figures if "no finite value" in figure] == [False]


def test_a_stage_whose_start_was_trained_again_is_told_apart(base_dir):
    write_run(base_dir, "d4_base", "base", began=BEGAN + 1e5)
    write_run(base_dir, "d4_sft", "sft", init_from="d4_base", began=BEGAN)
    markdown, _ = pages(base_dir, runs="d4_base,d4_sft")
    assert "d4_sft began before d4_base was finished" in markdown


def test_the_demo_is_shown_only_with_the_models_it_speaks_of(base_dir):
    folder = write_run(base_dir, "demo_sft", "sft")
    made = json.loads((folder / "artifact" / "provenance.json").read_text())["time"]
    row = {"score": 0.97, "n": 360, "base_score": 0.02, "untrained_score": 0.0, "chance": 0.111}
    scores = dict.fromkeys(("facts", "spelling", "arithmetic"), row)
    demo = {**scores, "seconds": {"base": 294.0, "sft": 30.9}, "seed": 0, "model_time": made}
    (base_dir / "demo.json").write_text(json.dumps(demo))
    markdown, _ = pages(base_dir)
    assert "## The demo" in markdown
    assert markdown.count("0.9700") >= 6
    assert "5m25s" in markdown
    (base_dir / "demo.json").write_text(json.dumps(demo | {"model_time": 1.0}))
    markdown, _ = pages(base_dir)
    assert "## The demo" not in markdown
    assert "demo.json `python cli.py demo`" in markdown


def test_a_card_stays_small_whatever_the_runs_hold(base_dir):
    for number in range(12):
        folder = write_run(base_dir, f"r{number}_base", "base", steps=100)
        rates = {f"lr/{name}": 0.1 for name in "abcdef"}
        lines = ({"step": step, "time": BEGAN, "train/loss": step % 7 + 1.0, **rates} for step in range(1500))
        write_lines(folder / "metrics" / "train.jsonl", lines)
        texts = [
            {"step": step, "prompt": f"{prompt} " * 99, "text": "x<" * 5000}
            for step in range(30)
            for prompt in range(20)
        ]
        write_lines(folder / "metrics" / "samples.jsonl", texts)
    report(runs=",".join(f"r{number}_base" for number in range(12)))
    assert (base_dir / "report" / "report.html").stat().st_size <= 3_000_000


def test_other_runs_are_listed_and_others_chosen_by_name(chain):
    write_run(chain, "d4_base", "base", began=BEGAN - 1e6)
    markdown, _ = pages(chain)
    assert "## Other runs" in markdown
    assert "`python cli.py report --runs d4_base`" in markdown
    markdown, _ = pages(chain, runs="d4_base")
    assert markdown.splitlines()[2] == "d4_base"


def test_it_is_written_where_it_is_asked_for(chain, tmp_path, capsys):
    out = tmp_path / "new" / "folder"
    assert cli.main(["report", "--runs", "d20_base", "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines() == [str(out / "report.md"), str(out / "report.html")]
    assert sorted(path.name for path in out.iterdir()) == ["report.html", "report.md"]
    assert not (chain / "report").exists()


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--runs", "d20_bsae"], 2, "Did you mean: --runs d20_base"),
        (["--runs", ""], 2, "1 to 12 runs"),
        (["--out", "cli.py"], 2, "is a file"),
        (["--rnus", "a"], 2, "Did you mean runs?"),
    ],
)
def test_mistakes_are_answered_in_three_lines(chain, capsys, monkeypatch, options, code, said):
    monkeypatch.chdir(ROOT)
    try:
        got = cli.main(["report", *options])
    except SystemExit as exit_:
        got = exit_.code
    err = capsys.readouterr().err
    assert (got, said in err) == (code, True), err
    assert err.count("\n") <= 3
    assert not (chain / "report").exists()


def test_no_run_is_a_failure_and_creates_nothing(base_dir, capsys):
    assert cli.main(["report"]) == 1
    assert "python cli.py demo" in capsys.readouterr().err
    assert not base_dir.exists()


GUARD = """
import sys, socket
class Hook:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {forbidden!r}:
            raise ModuleNotFoundError('forbidden: ' + name)
sys.meta_path.insert(0, Hook())
def refused(*args, **kwargs):
    raise AssertionError('a connection')
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refused
import cli
sys.exit(cli.main(['report']))
"""


def run_guarded(*forbidden: str) -> subprocess.CompletedProcess:
    program = GUARD.format(forbidden=forbidden)
    return subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_neither_torch_nor_lightning_nor_the_network_is_needed(chain):
    done = run_guarded("torch", "lightning", "transformers", "datasets", "tokenizers", "tensorboard")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_without_matplotlib_the_card_is_written_and_says_that_it_has_no_curves(chain):
    done = run_guarded("matplotlib", "torch")
    assert done.returncode == 0, done.stderr
    assert "pip install matplotlib" in done.stderr
    html = (chain / "report" / "report.html").read_text()
    assert Page(html).tags["svg"] == 0
    assert "matplotlib is not installed" in html
    assert "0.2219" in html


def test_the_configuration_of_a_run_is_data(chain):
    config = chain / "runs" / "d20_rl" / "config.yaml"
    settings = yaml.safe_load(config.read_text())
    settings["model"]["init_args"]["init_from"] = ["not", "a", "name"]
    config.write_text(yaml.safe_dump(settings))
    markdown, _ = pages(chain)
    assert markdown.splitlines()[2] == "d20_rl"
    assert all(name in markdown for name in CHAT)


def test_a_run_whose_name_is_a_command_is_quoted_in_commands(base_dir):
    write_run(base_dir, "a;touch b", "base")
    write_run(base_dir, "c;touch d", "base", began=BEGAN - 1e6)
    markdown, _ = pages(base_dir)
    assert """test --config "$NANOCHAT_BASE_DIR"'/runs/a;touch b/config.yaml'`""" in markdown
    assert "init_from 'a;touch b'`" in markdown
    assert "report --runs 'c;touch d'`" in markdown


def test_a_stage_left_out_starts_from_the_stage_before_it(base_dir):
    write_run(base_dir, "one", "base")
    write_run(base_dir, "two_sft", "sft", init_from="one")
    markdown, _ = pages(base_dir, runs="one,two_sft")
    assert "YOUR_MID_STAGE.yaml --model.init_args.init_from one`" in markdown
    assert "YOUR_RL_STAGE.yaml --model.init_args.init_from two_sft`" in markdown


def long_names(base: Path) -> list[str]:
    """Write runs whose names have 200 characters."""
    names = ["b" * 200, "lr0.02-wd0.1_" + "m" * 187, "a_very-long_" * 16 + "the_sft."]
    for name, stage, before in zip(names, ("base", "mid", "sft"), (None, *names), strict=False):
        folder = write_run(base, name, stage, init_from=before)
        (folder / "environment.json").unlink()
    write_lines(base / "runs" / names[0] / "metrics" / "core.jsonl", [core_line(1000)])
    write_run(base, "o" * 200, "base", began=BEGAN - 1e6)
    return names


def test_a_long_name_can_be_broken_wherever_a_table_has_it(base_dir):
    names = long_names(base_dir)
    _, html = pages(base_dir, runs=",".join(names))
    inside = re.findall(r"<t[hd][ >].*?</t[hd]>", html, re.S)
    words = re.split(r"<[^>]*>|\s", " ".join(inside))
    assert "b" * FOLD in words
    assert max(map(len, words)) <= FOLD
    assert all(name in html for name in names)


@pytest.mark.slow
def test_nothing_runs_off_a_narrow_screen(base_dir, tmp_path):
    browser = shutil.which("chromium") or pytest.skip("chromium is not here")
    pages(base_dir, runs=",".join(long_names(base_dir)), out=str(tmp_path))
    frame = "<iframe src=report.html style='width: 400px; height: 900px' onload='told(this)'></iframe>"
    page = "frame.contentDocument.documentElement"
    script = f"function told(frame) {{ document.title = {page}.scrollWidth - {page}.clientWidth + ' over' }}"
    (tmp_path / "frame.html").write_text(f"<!doctype html><script>{script}</script>{frame}")
    options = ("--headless", "--no-sandbox", "--allow-file-access-from-files", "--virtual-time-budget=9000")
    done = subprocess.run(
        [browser, *options, "--dump-dom", (tmp_path / "frame.html").as_uri()],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "<title>0 over</title>" in done.stdout


@pytest.mark.parametrize("place", [1, 2])
def test_a_full_disk_leaves_both_pages_as_they_were_and_is_named(chain, tmp_path, capsys, monkeypatch, place):
    out = tmp_path / "cards"
    old = pages(chain, runs="d20_base", out=str(out))
    write, written = Path.write_text, []

    def full(path, text, **options):
        written.append(path.name)
        if len(written) == place:
            write(path, text[:100], **options)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, text, **options)

    monkeypatch.setattr(Path, "write_text", full)
    assert cli.main(["report", "--out", str(out)]) == 1
    err = capsys.readouterr().err
    assert err == (
        f"error: {out}: could not be written: No space left on device\n"
        "Make room there (df -h), or name another folder: --out DIR\n"
    )
    assert sorted(path.name for path in out.iterdir()) == ["report.html", "report.md"]
    assert ((out / "report.md").read_text(), (out / "report.html").read_text()) == old


def test_a_full_disk_leaves_no_new_folder(chain, tmp_path, monkeypatch):
    def full(folder, texts):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("nanochat_pl.report.verb.write_together", full)
    assert cli.main(["report", "--out", str(tmp_path / "cards")]) == 1
    assert not (tmp_path / "cards").exists()


def test_a_folder_that_cannot_be_made_is_named_as_it_was_typed(chain, capsys):
    assert cli.main(["report", "--out", "/proc/nope"]) == 1
    assert capsys.readouterr().err == (
        "error: --out /proc/nope: cannot be made (No such file or directory)\n"
        "Make sure that you may write there, or name another folder: --out DIR\n"
    )
