"""What a machine can do: peak rates of GPUs, bf16 on the CPU, a compiler, and the precision that follows.

Functions only; nothing is looked up at import, and torch is imported by the functions that need it. What is
not known is None, never a number of another device.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import sysconfig
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nanochat_pl.system.errors import Failure

if TYPE_CHECKING:
    import torch


class Gpu(NamedTuple):
    """One model of GPU, after its maker's datasheet.

    Args:
        name: as people call it.
        words: words of the name the driver reports that tell it from others; alternatives separated by "|".
        peak_flops_per_s: bfloat16 matrix multiplication with fp32 accumulation, without sparsity.
        memory_bytes: nominal capacity.
        bandwidth_bytes_per_s: of its memory.
    """

    name: str
    words: str
    peak_flops_per_s: float
    memory_bytes: int
    bandwidth_bytes_per_s: float


def _gpu(name: str, words: str, teraflops: float, gigabytes: int, gigabytes_per_s: float) -> Gpu:
    return Gpu(name, words, teraflops * 1e12, gigabytes * 10**9, gigabytes_per_s * 1e9)


GPUS = (
    _gpu("GB200", "gb200", 2500, 186, 8000),
    _gpu("B200", "b200", 2250, 180, 8000),
    _gpu("H200 NVL", "h200 nvl", 836, 141, 4800),
    _gpu("H200", "h200", 989, 141, 4800),
    _gpu("GH200", "gh200 480gb|gh200 120gb", 989, 96, 4000),
    _gpu("H100 SXM", "h100 hbm3|h100 sxm|h100 sxm5", 989, 80, 3350),
    _gpu("H100 NVL", "h100 nvl", 835, 94, 3900),
    _gpu("H100 PCIe", "h100 pcie|h100 hbm2e", 756, 80, 2000),
    _gpu("H800 SXM", "h800 sxm|h800 sxm5|h800 hbm3", 989, 80, 3350),
    _gpu("H800 PCIe", "h800 pcie", 756, 80, 2000),
    _gpu("H20", "h20", 148, 96, 4000),
    _gpu("A100 80GB", "a100 80gb|a800 80gb", 312, 80, 2039),
    _gpu("A100 40GB", "a100 40gb|a800 40gb", 312, 40, 1555),
    _gpu("A40", "a40", 149.7, 48, 696),
    _gpu("A30", "a30", 165, 24, 933),
    _gpu("A10G", "a10g", 70, 24, 600),
    _gpu("A10", "a10", 125, 24, 600),
    _gpu("L40S", "l40s", 362, 48, 864),
    _gpu("L40", "l40", 181, 48, 864),
    _gpu("L4", "l4", 121, 24, 300),
    _gpu("RTX A6000", "rtx a6000", 154.8, 48, 768),
    _gpu("RTX 6000 Ada", "rtx 6000 ada", 364.2, 48, 960),
    _gpu("RTX 5090", "rtx 5090", 209.5, 32, 1792),
    _gpu("RTX 4090", "rtx 4090", 165.2, 24, 1008),
    _gpu("RTX 3090", "rtx 3090", 71, 24, 936),
)
# Words that make another product of a name, with other rates: a slice of a GPU (MIG, or a virtual one such as
# "A40-48Q"), a laptop's, a cut-down or a raised one.
OTHER_PRODUCT = re.compile(r"mig|laptop|mobile|max|d|ti|super|vgpu|\d+[abcq]")


def find_gpu(device_name: str) -> Gpu | None:
    """Return the GPU with this name as the driver reports it, None where it is not in the table.

    Example:
        `find_gpu("NVIDIA H100 80GB HBM3").name == "H100 SXM"`
    """
    words = set(re.findall(r"[a-z0-9]+", device_name.lower()))
    if any(OTHER_PRODUCT.fullmatch(word) for word in words):
        return None
    told = ((gpu, names.split()) for gpu in GPUS for names in gpu.words.split("|"))
    fitting = [(len(names), gpu) for gpu, names in told if words.issuperset(names)]
    return max(fitting, default=(0, None), key=lambda fit: fit[0])[1]  # the most words tell most exactly


def gpu_to_plan_for(accelerator: str) -> Gpu | None:
    """Return the GPU a run on `accelerator` ("auto", "gpu", "cuda", "cpu", …) will most likely use.

    That is this machine's or, where it has none, an H100 whose name says "assumed". None where nobody knows.
    """
    import torch

    if accelerator not in ("auto", "gpu", "cuda"):
        return None
    if torch.cuda.is_available():
        return gpu_of(torch.device("cuda"))
    common = next(gpu for gpu in GPUS if gpu.name == "H100 SXM")
    return common._replace(name=f"{common.name} (assumed, no GPU here)")


def require_gpu(accelerator: str) -> None:
    """Make sure that there is a GPU where one is asked for.

    Raises:
        Failure: torch sees none.
    """
    import torch

    is_here = torch.cuda.is_available() or (accelerator == "gpu" and torch.backends.mps.is_available())
    if accelerator in ("gpu", "cuda") and not is_here:
        raise Failure(
            f"trainer.accelerator={accelerator}, but torch {torch.__version__} sees no GPU here\n"
            "What is wrong: python cli.py doctor; in a job: sbatch --gpus 1; without one: "
            "--trainer.accelerator cpu"
        )


def has_unseen_gpu(drivers: Path = Path("/proc/driver/nvidia/gpus")) -> bool:
    """Tell whether this machine has a GPU that torch does not see, although nobody has hidden it."""
    import torch

    is_there = drivers.is_dir() and any(drivers.iterdir())
    return is_there and os.environ.get("CUDA_VISIBLE_DEVICES") != "" and not torch.cuda.is_available()


def devices_in_all(devices: int | str | list[int], num_nodes: int, accelerator: str) -> int:
    """Return how many devices a Trainer of these settings would use, this machine's where it says "auto"."""
    import torch

    if isinstance(devices, list):
        devices = len(devices)
    if isinstance(devices, str) and devices.isdigit():
        devices = int(devices)
    if not isinstance(devices, int) or devices < 1:
        devices = max(1, torch.cuda.device_count()) if accelerator != "cpu" else 1
    return devices * num_nodes


def gpu_of(device: torch.device) -> Gpu | None:
    """Return what the table says of a device; None for a CPU or an unknown GPU."""
    import torch

    return find_gpu(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def peak_flops_per_s(device: torch.device) -> float | None:
    """Return the device's dense bfloat16 peak in FLOP/s, None where unknown."""
    gpu = gpu_of(device)
    return gpu and gpu.peak_flops_per_s


def measured_cpu_flops_per_s(dtype: torch.dtype, seconds: float = 0.3) -> float:
    """Measure what this CPU's threads reach in a matrix multiplication of 1,024 x 1,024, in FLOP/s."""
    import torch

    size = 1024
    a, b = torch.ones(2, size, size, dtype=dtype)
    out = a @ b
    done, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds or done == 0:
        torch.mm(a, b, out=out)
        done += 1
    return done * 2 * size**3 / elapsed


@cache
def _cpu_flags() -> frozenset[str]:
    """Return the instruction sets the kernel reports; empty where there is no /proc/cpuinfo."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.split(":", 1)[1] for line in lines if line.startswith("flags")), "").split())


def _is_capped(environ: Mapping[str, str]) -> bool:
    """Tell whether torch or oneDNN was told to use less than the CPU has."""
    aten = environ.get("ATEN_CPU_CAPABILITY", "avx512").lower()
    onednn = environ.get("ONEDNN_MAX_CPU_ISA") or environ.get("DNNL_MAX_CPU_ISA") or "DEFAULT"
    allowed = ("ALL", "DEFAULT", "BF16", "FP16", "AMX", "AVX10")
    return "avx512" not in aten or not any(word in onednn.upper() for word in allowed)


def cpu_has_fast_bf16() -> bool:
    """Tell whether the CPU multiplies bfloat16 matrices in hardware (AVX512_BF16 or AMX) and may use it."""
    return bool(_cpu_flags() & {"avx512_bf16", "amx_bf16"}) and not _is_capped(os.environ)


def cuda_has_bf16() -> bool:
    """Tell whether there is a GPU that computes bfloat16 in hardware."""
    import torch

    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def has_fast_bf16(device_type: str) -> bool:
    """Tell whether a kind of device ("cpu", "cuda", …) multiplies bfloat16 matrices faster than float32."""
    if device_type == "cpu":
        return cpu_has_fast_bf16()
    return device_type == "cuda" and cuda_has_bf16()


def has_compiler() -> bool:
    """Tell whether `torch.compile` finds what it needs: `$CXX` or g++ (macOS: clang++), Python's headers."""
    command = shlex.split(os.environ.get("CXX", "")) or ["clang++" if sys.platform == "darwin" else "g++"]
    return shutil.which(command[0]) is not None and Path(sysconfig.get_path("include"), "Python.h").exists()


class PrecisionChoice(NamedTuple):
    """How to compute on this machine.

    Args:
        precision: Lightning's word for it, "bf16-mixed" or "32-true".
        compile_default: whether compiling the model works and pays here.
        reason: why, to be printed.
    """

    precision: str
    compile_default: bool
    reason: str


def choose_precision(accelerator: str = "auto") -> PrecisionChoice:
    """Choose precision by what the accelerator can do; one that is not here is taken for a GPU with bf16.

    Args:
        accelerator: Lightning's name: "auto", "gpu", "cuda", "cpu", "mps", ….
    """
    if uses_gpu(accelerator):
        return _choose_for_gpu()
    if accelerator in ("auto", "cpu"):
        return _choose_for_cpu()
    return PrecisionChoice("32-true", False, f"{accelerator} computes in fp32")


def uses_gpu(accelerator: str) -> bool:
    """Tell whether Lightning's accelerator of this name is a GPU with CUDA."""
    import torch

    return accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available())


def _choose_for_gpu() -> PrecisionChoice:
    import torch

    compiles = has_compiler()  # for the launchers of its kernels
    if not torch.cuda.is_available():
        return PrecisionChoice("bf16-mixed", compiles, "no GPU here; those in use compute in bf16")
    name = torch.cuda.get_device_name()
    if cuda_has_bf16():
        return PrecisionChoice("bf16-mixed", compiles, f"{name} computes in bf16")
    return PrecisionChoice("32-true", compiles, f"{name} has no bf16")


def _choose_for_cpu() -> PrecisionChoice:
    compiles = has_compiler()
    if cpu_has_fast_bf16():
        return PrecisionChoice("bf16-mixed", compiles, "this CPU computes in bf16 (AVX512_BF16 or AMX)")
    return PrecisionChoice(
        "32-true", compiles, "neither AVX512_BF16 nor AMX is usable on this CPU; bf16 would be slower"
    )
