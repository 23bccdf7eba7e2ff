"""Names of GPUs, and the precision that follows from a machine."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from nanochat_pl.system import hardware
from nanochat_pl.system.hardware import (
    GPUS,
    choose_precision,
    cpu_has_fast_bf16,
    find_gpu,
    gpu_to_plan_for,
    has_compiler,
    has_fast_bf16,
    has_unseen_gpu,
    measured_cpu_flops_per_s,
    peak_flops_per_s,
)


@pytest.mark.parametrize(
    ("reported", "name", "teraflops"),
    [
        ("NVIDIA A100-SXM4-40GB", "A100 40GB", 312),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB", 312),
        ("NVIDIA A100 80GB PCIe", "A100 80GB", 312),
        ("NVIDIA H100 80GB HBM3", "H100 SXM", 989),
        ("NVIDIA H100 PCIe", "H100 PCIe", 756),
        ("NVIDIA H100 NVL", "H100 NVL", 835),
        ("NVIDIA H200", "H200", 989),
        ("NVIDIA H200 NVL", "H200 NVL", 836),
        ("NVIDIA GH200 480GB", "GH200", 989),
        ("NVIDIA B200", "B200", 2250),
        ("NVIDIA GB200", "GB200", 2500),
        ("NVIDIA L4", "L4", 121),
        ("NVIDIA L40", "L40", 181),
        ("NVIDIA L40S", "L40S", 362),
        ("NVIDIA A10", "A10", 125),
        ("NVIDIA A10G", "A10G", 70),
        ("NVIDIA RTX A6000", "RTX A6000", 154.8),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada", 364.2),
        ("NVIDIA GeForce RTX 3090", "RTX 3090", 71),
        ("NVIDIA GeForce RTX 4090", "RTX 4090", 165.2),
        ("NVIDIA GeForce RTX 5090", "RTX 5090", 209.5),
    ],
)
def test_gpus_are_found_by_the_name_the_driver_reports(reported, name, teraflops):
    gpu = find_gpu(reported)
    assert gpu.name == name
    assert gpu.peak_flops_per_s == pytest.approx(teraflops * 1e12)


@pytest.mark.parametrize(
    "reported",
    [
        "",
        "Tesla V100-SXM2-16GB",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA A100-SXM4-80GB MIG 3g.40gb",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA A40-48Q",
        "NVIDIA H100",
        "NVIDIA H300",
        "AMD Instinct MI300X",
    ],
)
def test_an_unknown_gpu_is_unknown_and_not_another_one(reported):
    assert find_gpu(reported) is None


def test_every_gpu_is_plausible_and_named_once():
    assert len({gpu.name for gpu in GPUS}) == len(GPUS)
    for gpu in GPUS:
        assert 50e12 <= gpu.peak_flops_per_s <= 5e15
        assert 20e9 <= gpu.memory_bytes <= 300e9
        assert 2e11 <= gpu.bandwidth_bytes_per_s <= 1e13


def test_a_cpu_has_no_peak_in_the_table():
    assert peak_flops_per_s(torch.device("cpu")) is None


def test_a_cpu_can_be_measured():
    assert measured_cpu_flops_per_s(torch.float32, seconds=0.0) > 1e6


@pytest.fixture
def uncapped(monkeypatch):
    for name in ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"avx2", "avx512f", "avx512_bf16"}, True),
        ({"avx512f", "amx_bf16", "amx_tile"}, True),
        ({"avx2", "avx512f", "avx512_vnni"}, False),
        (set(), False),
    ],
)
def test_bf16_on_a_cpu_needs_its_instructions(uncapped, flags, expected):
    uncapped.setattr(hardware, "_cpu_flags", lambda: frozenset(flags))
    assert cpu_has_fast_bf16() is expected
    assert has_fast_bf16("cpu") is expected


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("ATEN_CPU_CAPABILITY", "avx2", False),
        ("ATEN_CPU_CAPABILITY", "default", False),
        ("ATEN_CPU_CAPABILITY", "avx512", True),
        ("ONEDNN_MAX_CPU_ISA", "AVX2", False),
        ("ONEDNN_MAX_CPU_ISA", "avx512_core_vnni", False),
        ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16", True),
        ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_AMX", True),
        ("DNNL_MAX_CPU_ISA", "AVX512_CORE", False),
    ],
)
def test_bf16_on_a_cpu_respects_what_torch_was_told(uncapped, name, value, expected):
    uncapped.setattr(hardware, "_cpu_flags", lambda: frozenset({"avx512_bf16"}))
    uncapped.setenv(name, value)
    assert cpu_has_fast_bf16() is expected


@pytest.mark.parametrize(
    ("fast", "precision", "reason"), [(True, "bf16-mixed", "computes in bf16"), (False, "32-true", "neither")]
)
def test_precision_of_a_cpu_follows_its_instructions(monkeypatch, fast, precision, reason):
    monkeypatch.setattr(hardware, "cpu_has_fast_bf16", lambda: fast)
    monkeypatch.setattr(hardware, "has_compiler", lambda: True)
    choice = choose_precision("cpu")
    assert choice.precision == precision
    assert choice.compile_default
    assert reason in choice.reason


@pytest.mark.parametrize(("has_bf16", "precision"), [(True, "bf16-mixed"), (False, "32-true")])
def test_precision_of_a_gpu_follows_its_generation(monkeypatch, has_bf16, precision):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Some GPU")
    monkeypatch.setattr(hardware, "cuda_has_bf16", lambda: has_bf16)
    for accelerator in ("auto", "gpu", "cuda"):
        choice = choose_precision(accelerator)
        assert choice.precision == precision
        assert "Some GPU" in choice.reason


def test_without_a_gpu_auto_means_the_cpu_and_gpu_a_usual_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_precision("auto") == choose_precision("cpu")
    assert choose_precision("gpu").precision == "bf16-mixed"
    assert "assumed" in gpu_to_plan_for("auto").name
    assert gpu_to_plan_for("cpu") is None


def test_other_accelerators_compute_in_fp32_uncompiled():
    assert choose_precision("mps")[:2] == ("32-true", False)


def test_a_compiler_is_the_one_torch_would_call(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", str(tmp_path / "no-such-compiler -O2"))
    assert not has_compiler()
    compiler = tmp_path / "c++"
    compiler.touch(mode=0o755)
    monkeypatch.setenv("CXX", f"{compiler} -O2")
    monkeypatch.setattr(hardware.sysconfig, "get_path", lambda _: str(tmp_path))
    assert not has_compiler()  # no Python.h
    (tmp_path / "Python.h").touch()
    assert has_compiler()
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not has_compiler()  # neither g++ nor clang++


def test_importing_hardware_imports_no_torch():
    code = "import sys, nanochat_pl.system.hardware; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("driver", "torch_sees", "hidden", "unseen"),
    [
        (True, False, None, True),
        (True, True, None, False),
        (False, False, None, False),
        (True, False, "", False),
        (True, False, "0", True),
    ],
)
def test_gpu_that_torch_does_not_see_is_noticed(tmp_path, monkeypatch, driver, torch_sees, hidden, unseen):
    if driver:
        (tmp_path / "0000:01:00.0").mkdir()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    monkeypatch.setattr("torch.cuda.is_available", lambda: torch_sees)
    assert has_unseen_gpu(tmp_path) is unseen
