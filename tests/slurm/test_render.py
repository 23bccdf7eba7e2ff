"""The templates are filled in whole or refused by name; what comes out is sound shell."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from slurm.site import Site
from tiny_stage import ROOT

from slurm import render

SCRIPTS = [*sorted((ROOT / "slurm").glob("*.s*h*")), *sorted((ROOT / "scripts").glob("*.sh"))]
TEMPLATES = [path for path in SCRIPTS if path.suffix == ".sbatch"]


@pytest.fixture
def site(tmp_path) -> Site:
    return Site(tmp_path)


def rendered(site: Site, name: str, **values) -> str:
    site.render(**values)
    return (site.rendered / name).read_text()


def test_file_as_shipped_is_refused_with_what_is_missing(capsys):
    assert render.main(["--config", str(ROOT / "slurm" / "site.yaml")]) == 2
    err = capsys.readouterr().err
    assert "no value for account, partition, scratch" in err
    assert "NANOCHAT_PARTITION" in err
    assert err.count("\n") <= 3


def test_variables_are_enough_and_win(tmp_path, monkeypatch, capsys):
    for key, value in {"ACCOUNT": "", "PARTITION": "big", "SCRATCH": str(tmp_path), "TIME": "1:00"}.items():
        monkeypatch.setenv(f"NANOCHAT_{key}", value)
    assert render.main(["--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "train.sbatch").read_text()
    assert "#SBATCH --partition=big\n" in text
    assert "#SBATCH --time=1:00\n" in text
    assert "--account" not in text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("acount: x", "Did you mean account?"),
        ("account: [1, 2]", "one line `key: value`"),
        ("account: 'a b'", "account: 'a b' cannot stand in an #SBATCH line"),
        ("account: ]", "is not YAML"),
        ("scratch: somewhere", "absolute path"),
        ("scratch: /tmp/%x", "without %"),
        ("scratch: /dev/null", "/dev/null/nanochat_pl/slurm_logs: Not a directory"),
        ("max_crashes: null", "max_crashes: null\nGive a value; the default is 3."),
        ("max_restarts: -1", "max_restarts: -1\nGive a whole number from 0"),
        ("vocab_size: many", "vocab_size: many\nGive a whole number"),
        ("nodes: 1.5", "nodes: 1.5\nGive a whole number from 1"),
        ("tasks_per_node: 0", "tasks_per_node: 0\nGive"),
        ("cpus_per_task: x", "cpus_per_task: x\nGive"),
        ("margin_s: 2 min", "margin_s: 2 min\nGive"),
        ("size: d21", "configs and size: configs/d21_base.yaml: no such file"),
        ("configs: /nowhere", "/nowhere/d20_base.yaml: no such file"),
        ("overlay: configs/gpu8.yaml", "overlay: configs/gpu8.yaml: no such file"),
        (f"{'secret' * 20}: 1", f"unknown key {('secret' * 20)[:40]}\nKnown"),
    ],
)
def test_bad_values_are_refused(tmp_path, capsys, line, message):
    config = tmp_path / "site.yaml"
    values = {"account": "null", "partition": "p", "scratch": str(tmp_path)}
    values.pop(line.split(":")[0], None)
    config.write_text("\n".join([line, *(f"{key}: {value}" for key, value in values.items())]))
    assert render.main(["--config", str(config), "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") <= 3
    assert not (tmp_path / "out").exists()


def test_file_to_edit_begins_with_the_defaults():
    assert render._read_yaml(ROOT / "slurm" / "site.yaml") == render.DEFAULTS


def test_removed_key_takes_its_default_though_the_edited_file_lies_in_its_place(tmp_path, monkeypatch):
    monkeypatch.setattr(render, "HERE", tmp_path)
    config = tmp_path / "site.yaml"
    config.write_text("account: null\npartition: p\nscratch: /s\n")
    assert render.read_values(config, {}) == dict.fromkeys(render.DEFAULTS) | {
        key: value for key, value in render.DEFAULTS.items() if value != render.UNSET
    } | {"partition": "p", "scratch": "/s"}


def test_variables_that_win_over_the_file_are_named(tmp_path, capsys):
    config = tmp_path / "site.yaml"
    config.write_text("account: me\npartition: p\nscratch: /s\nqos: null\n")
    environment = {"NANOCHAT_PARTITION": "q", "NANOCHAT_QOS": "", "NANOCHAT_ACCOUNT": "me"}
    assert render.read_values(config, environment)["partition"] == "q"
    assert capsys.readouterr().err == f"note: NANOCHAT_PARTITION of your shell won over {config}\n"


def test_file_in_another_encoding_and_out_that_is_a_file_are_refused(tmp_path, capsys):
    config = tmp_path / "site.yaml"
    config.write_bytes(b"account: null # caf\xe9\npartition: p\nscratch: /tmp\n")
    assert render.main(["--config", str(config)]) == 2
    assert "is not UTF-8" in capsys.readouterr().err
    config.write_text(f"account: null\npartition: p\nscratch: {tmp_path}\n")
    assert render.main(["--config", str(config), "--out", str(config)]) == 2
    assert f"{config}: File exists" in capsys.readouterr().err


def test_missing_file_is_refused(capsys):
    assert render.main(["--config", "/nowhere.yaml"]) == 2
    assert "No such file" in capsys.readouterr().err


@pytest.mark.parametrize("name", [path.name for path in TEMPLATES])
def test_directives_are_those_of_the_site_and_logs_have_a_folder(site, name):
    text = rendered(site, name, account="me", mail_user="a@b.org", time="12:00:00")
    directives = [line for line in text.splitlines() if line.startswith("#SBATCH")]
    for expected in (
        *("--account=me", "--partition=main", "--mail-user=a@b.org", "--time=12:00:00", "--requeue"),
        *("--open-mode=append", "--signal=USR1@90", "--ntasks-per-node=2"),
    ):
        assert f"#SBATCH {expected}" in directives
    assert not [line for line in directives if "gres" in line or "qos" in line]
    assert "{{" not in text.replace(r"\{\{", "")
    (output,) = (line.partition("=")[2] for line in directives if "--output" in line)
    assert Path(output).parent.is_dir()


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_template_itself_is_refused_with_its_placeholders(path):
    done = subprocess.run(["bash", path], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "{{partition}}" in done.stderr
    assert len(done.stderr.splitlines()) == 2
    assert "slurm/render.py" in done.stderr


def test_value_with_quotes_and_dollars_stays_one_word(site):
    text = rendered(site, "site.sh", modules='a "b" $HOME `id`')
    line = next(line for line in text.splitlines() if line.startswith("MODULES="))
    done = subprocess.run(
        ["bash", "-c", f'{line}; echo "$MODULES"'], capture_output=True, text=True, check=True
    )
    assert done.stdout == 'a "b" $HOME `id`\n'


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_script_is_sound_shell(path, site):
    site.render()
    files = [path, site.rendered / path.name] if (site.rendered / path.name).exists() else [path]
    for file in files:
        subprocess.run(["bash", "-n", file], check=True)
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is missing; `make test-slurm` installs it")
    done = subprocess.run(["shellcheck", "-x", *files], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout


def test_jobs_do_not_try_the_network_and_keep_their_temporary_files_on_scratch(site):
    site.render()
    script = f"source {site.rendered}/site.sh; SLURM_JOB_ID=17 enter; env"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"SLURM_JOB_ID": "17"},
    )
    lines = done.stdout.splitlines()
    for expected in (
        "HF_HUB_OFFLINE=1",
        "HF_DATASETS_OFFLINE=1",
        "WANDB_MODE=offline",
        f"TMPDIR={site.base}/tmp/17",
    ):
        assert expected in lines
    assert not (site.base / "tmp" / "17").exists()  # and they go with the job
