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
