"""The doctor names what is wrong and the command that mends it; each check can fail."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import cli
from nanochat_pl.commands import doctor, machine_checks, surroundings_checks
from nanochat_pl.commands.finding import Finding, fail, ok, warn
from nanochat_pl.commands.machine_checks import GpuState
from nanochat_pl.system.memory import Memory

ROOT = Path(__file__).resolve().parents[2]
H100 = GpuState("NVIDIA H100 80GB HBM3", 81559, 1, "580.1")


def test_report_has_the_contracts_keys_and_at_most_twenty_checks(base_dir, capsys):
    code = cli.main(["doctor", "--json"])
    findings = json.loads(capsys.readouterr().out)
    assert [set(finding) for finding in findings] == [{"check", "state", "found", "remedy"}] * len(findings)
    assert 15 <= len(findings) <= 20
    assert code == int(any(finding["state"] == "fail" for finding in findings))
    assert all(finding["remedy"] for finding in findings if finding["state"] != "ok")
    assert not any(finding["found"].startswith("could not be checked") for finding in findings)
    assert not base_dir.exists()


@pytest.mark.parametrize("line", ["doctor", "doctor --help", "status", "status --help"])
def test_neither_torch_nor_lightning_is_imported(base_dir, line):
    program = (
        "import sys, cli\n"
        f"try: cli.main({line.split()!r})\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'lightning', 'datasets'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_one_failed_check_gives_exit_code_1_and_its_remedy(monkeypatch, capsys):
    checks = {"a": lambda: ok("good"), "b": lambda: fail("bad", "mend b"), "c": lambda: warn("so", "see c")}
    monkeypatch.setattr(doctor, "CHECKS", checks)
    assert cli.main(["doctor"]) == 1
    out, err = capsys.readouterr()
    assert "-> mend b" in out
    assert "1 of 3 checks failed: b" in err


def test_a_check_that_breaks_or_never_answers_is_a_finding():
    def broken() -> Finding:
        raise OSError("stale file handle")

    def silent() -> Finding:
        time.sleep(60)
        return ok("")

    began = time.monotonic()
    found = doctor.examined({"broken": broken, "silent": silent, "well": lambda: ok("")}, patience_s=0.5)
    assert time.monotonic() - began < 30
    assert [found[name].state for name in ("broken", "silent", "well")] == ["warn", "fail", "ok"]
    assert "stale file handle" in found["broken"].found


def with_gpus(monkeypatch, *gpus):
    monkeypatch.setattr(machine_checks, "gpus", lambda: gpus)
    monkeypatch.setattr(surroundings_checks, "gpus", lambda: gpus)


def versions(monkeypatch, **known):
    def version(name):
        if known[name] is None:
            raise machine_checks.PackageNotFoundError(name)
        return known[name]

    monkeypatch.setattr(machine_checks, "version", version)


@pytest.mark.parametrize(
    ("torch", "cuda", "gpus", "state", "said"),
    [
        ("2.13.0", "13.0", (H100,), "ok", "for CUDA 13.0"),
        ("2.13.0+cpu", None, (), "ok", "for CPUs only"),
        ("2.13.0+cpu", None, (H100,), "fail", "but there is a GPU"),
        ("2.5.1", "12.4", (), "fail", "2.10 is the oldest"),
        (None, None, (), "fail", "not installed"),
        (
            "2.13.0",
            "13.0",
            (H100._replace(driver="550.54.15"),),
            "fail",
            "the GPU's driver 550.54.15 is too old",
        ),
        ("2.13.0", "12.8", (H100._replace(driver="550.54.15"),), "ok", "for CUDA 12.8"),
        ("2.13.0", "13.0", (H100._replace(driver="unknown"),), "ok", "for CUDA 13.0"),
    ],
)
def test_torch_and_its_build(monkeypatch, torch, cuda, gpus, state, said):
    versions(monkeypatch, torch=torch)
    with_gpus(monkeypatch, *gpus)
    monkeypatch.setattr(machine_checks, "_cuda_of_torch", lambda: cuda)
    found = machine_checks.torch()
    assert found.state == state
    assert said in found.found
    if state == "fail":
        reinstalls = torch == "2.13.0+cpu" or "driver" in said
        assert found.remedy == (machine_checks.OTHER_TORCH if reinstalls else "make install")


@pytest.mark.parametrize(("installed", "state"), [("2.6.6", "ok"), ("2.6.3", "fail"), ("2.7.0", "fail")])
def test_lightning_of_a_version_that_is_known_to_be_good(monkeypatch, installed, state):
    versions(monkeypatch, lightning=installed)
    assert machine_checks.lightning().state == state


def test_python_too_old(monkeypatch):
    monkeypatch.setattr(machine_checks.sys, "version_info", (3, 9, 1))
    assert machine_checks.python().state == "fail"
    assert machine_checks.python().remedy == "make clean; make install PYTHON=python3.12"


def test_crate_compiler_and_sandbox(monkeypatch):
    assert machine_checks.tokenizer_crate().state == "ok"
    monkeypatch.setattr(machine_checks, "find_spec", lambda name: None)
    assert machine_checks.tokenizer_crate() == fail("the crate rustbpe is not built", "make install")
    monkeypatch.setattr(machine_checks, "has_compiler", lambda: False)
    assert machine_checks.compiler().state == "warn"
    monkeypatch.setattr(
        machine_checks, "tier", lambda: SimpleNamespace(is_safe=False, reason="the kernel refuses seccomp")
    )
    assert machine_checks.sandbox().state == "warn"


@pytest.mark.parametrize(
    ("gpus", "state", "said"),
    [
        ((H100, H100), "ok", "2 x NVIDIA H100 80GB HBM3, 80 GiB, driver 580.1"),
        ((H100, H100._replace(used=70000)), "warn", "in use already: 1"),
        ((H100._replace(name="NVIDIA Z9"),), "warn", "peak is not known"),
        ((), "warn", "none"),
    ],
)
def test_gpus(monkeypatch, gpus, state, said):
    with_gpus(monkeypatch, *gpus)
    monkeypatch.setattr(machine_checks.shutil, "which", lambda name: None)
    found = machine_checks.gpu()
    assert found.state == state
    assert said in found.found


def test_driver_without_a_gpu_is_a_failure(monkeypatch):
    with_gpus(monkeypatch)
    monkeypatch.setattr(machine_checks.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    assert machine_checks.gpu() == fail(
        "nvidia-smi finds no GPU or does not answer", "nvidia-smi; in a job: sbatch --gpus 1"
    )


def test_what_the_driver_says_is_read(monkeypatch, tmp_path):
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 81559, 4, 580.1'\necho 'odd, [N/A], 1, 2'\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    machine_checks.gpus.cache_clear()
    assert machine_checks.gpus() == (GpuState("NVIDIA H100 80GB HBM3", 81559, 4, "580.1"),)
    machine_checks.gpus.cache_clear()


def test_memory_and_limits(monkeypatch):
    monkeypatch.setattr(machine_checks, "memory", lambda: Memory(63 * 10**9, 64 * 10**9))
    assert machine_checks.main_memory().state == "warn"
    monkeypatch.setattr(machine_checks.resource, "getrlimit", lambda which: (256, 256))
    assert machine_checks.limits() == warn("256 open files, 0 KiB of locked memory", "ulimit -n 65536")


def test_full_and_unwritable_disks(monkeypatch, base_dir):
    monkeypatch.setattr(surroundings_checks.shutil, "disk_usage", lambda path: SimpleNamespace(free=10**8))
    assert surroundings_checks.disk().state == "warn"
    assert surroundings_checks.temporary_folder().state == "warn"

    def over_quota(**kwargs):
        raise OSError(122, "Disk quota exceeded")

    monkeypatch.setattr(surroundings_checks.tempfile, "TemporaryFile", over_quota)
    found = surroundings_checks.disk()
    assert found.state == "fail"
    assert "quota -s" in found.remedy
    monkeypatch.setattr(
        surroundings_checks.os, "statvfs", lambda path: SimpleNamespace(f_files=100, f_favail=3)
    )
    assert surroundings_checks.inodes().state == "warn"


def test_broken_tmpdir_is_not_passed_over(monkeypatch, base_dir, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert surroundings_checks.temporary_folder().found.startswith(str(tmp_path))
    missing = tmp_path / "no folder"
    monkeypatch.setenv("TMPDIR", str(missing))
    found = surroundings_checks.temporary_folder()
    assert (found.state, found.remedy) == ("fail", f"mkdir -p '{missing}'")
    assert f"TMPDIR={missing}" in found.found
    (tmp_path / "file").touch()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "file"))
    assert surroundings_checks.temporary_folder().state == "fail"


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_tmpdir_that_refuses_a_block_is_a_failure(monkeypatch, base_dir, tmp_path, number):
    def refuse(**kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(surroundings_checks.tempfile, "TemporaryFile", refuse)
    found = surroundings_checks.temporary_folder()
    assert found.state == "fail"
    assert os.strerror(number) in found.found
    assert found.remedy == f"export TMPDIR={base_dir}/tmp; mkdir -p $TMPDIR"


def test_what_a_broken_check_met_is_raised_with_debug(monkeypatch, capsys):
    def broken() -> Finding:
        raise ZeroDivisionError("met")

    monkeypatch.setattr(doctor, "CHECKS", {"a": broken})
    assert cli.main(["doctor"]) == 0
    monkeypatch.setattr(sys, "argv", ["cli.py", "doctor", "--debug"])
    with pytest.raises(ZeroDivisionError, match="met"):
        cli.main(sys.argv[1:])
    assert "could not be checked: ZeroDivisionError: met" in capsys.readouterr().out


def test_damaged_data_and_tokenizers(world_base, monkeypatch, tmp_path, base_dir):
    assert surroundings_checks.data().state == "warn"
    assert surroundings_checks.tokenizers().state == "warn"
    (base_dir / "tokenizers" / "half").mkdir(parents=True)
    assert surroundings_checks.tokenizers().state == "fail"
    shard = base_dir / "data" / "world" / "shard_00000.parquet"
    shard.parent.mkdir(parents=True)
    shard.write_text("<html>")
    found = surroundings_checks.data()
    assert found.state == "fail"
    assert "shard_00000.parquet" in found.found
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(world_base))
    assert surroundings_checks.data().state == "ok"
    assert "world" in surroundings_checks.tokenizers().found


def test_variables_of_a_job(monkeypatch):
    for name in ("SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_NTASKS_PER_NODE", *surroundings_checks.OFFLINE):
        monkeypatch.delenv(name, raising=False)
    assert surroundings_checks.slurm().state == surroundings_checks.offline().state == "ok"
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    assert "--ntasks alone" in surroundings_checks.slurm().found
    assert surroundings_checks.offline().remedy == "export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1"
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "2")
    with_gpus(monkeypatch, H100)
    assert surroundings_checks.slurm().remedy == "sbatch --ntasks-per-node=1"


def test_folder_of_logs_that_is_gone_is_missed(monkeypatch, tmp_path):
    monkeypatch.setattr(surroundings_checks, "SITE", tmp_path / "site.sh")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    logs = tmp_path / "slurm logs"
    (tmp_path / "site.sh").write_text(f'ROOT="/x"\nLOGS="{logs}"\n')
    found = surroundings_checks.slurm()
    assert (found.state, found.remedy) == ("fail", f"mkdir -p '{logs}'")
    assert f"{logs} is missing" in found.found
    logs.mkdir()
    assert surroundings_checks.slurm().state == "ok"


def test_port_in_use_and_no_port(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MASTER_PORT", str(taken.getsockname()[1]))
        assert surroundings_checks.port().state == "fail"
    monkeypatch.setenv("MASTER_PORT", "eighty")
    assert surroundings_checks.port().remedy == "unset MASTER_PORT"


def test_encoding_and_clock(monkeypatch, base_dir):
    monkeypatch.setattr(
        surroundings_checks.locale, "getpreferredencoding", lambda setlocale: "ANSI_X3.4-1968"
    )
    assert surroundings_checks.encoding().remedy == "export LC_ALL=C.UTF-8 PYTHONUTF8=1"
    assert surroundings_checks.clock().state == "ok"
    now = time.time()
    monkeypatch.setattr(surroundings_checks.time, "time", lambda: now - 60)
    assert "clock is +60 s off" in surroundings_checks.clock().found
