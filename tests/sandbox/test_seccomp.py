"""The filter: numbers are those of the names, and the program decides as the list says, on both architectures."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from nanochat_pl.sandbox.seccomp import ALLOWED, AUDIT_ARCH, allowed_numbers, filter_program

ALLOW, EPERM, KILL = 0x7FFF0000, 0x00050001, 0x80000000
HEADERS = {
    "x86_64": ["/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h"],
    "aarch64": ["/usr/include/asm-generic/unistd.h"],
}
FORBIDDEN = """
open openat openat2 creat execve execveat fork vfork clone clone3 socket connect bind kill tgkill tkill
ptrace memfd_create unlink unlinkat chmod fchmod fchmodat mkdir symlink link rename truncate ftruncate
prctl seccomp setrlimit prlimit64 process_vm_readv process_vm_writev pidfd_open pidfd_getfd
io_uring_setup bpf mount unshare setns dup dup2 dup3 fcntl ioctl sendmsg sendto recvmsg shmget stat
newfstatat statx access readlink getdents64 chdir setuid setsid
"""


def decide(program: bytes, arch: int, number: int) -> int:
    """Run a filter as the kernel does, for the three kinds of instruction it consists of."""
    instructions = list(struct.iter_unpack("=HBBI", program))
    place, loaded = 0, 0
    while True:
        code, if_true, if_false, operand = instructions[place]
        if code == 0x20:
            loaded = {0: number, 4: arch}[operand]
        elif code == 0x15:
            place += if_true if loaded == operand else if_false
        else:
            assert code == 0x06
            return operand
        place += 1


@pytest.mark.parametrize("machine", AUDIT_ARCH)
def test_the_filter_allows_the_list_and_nothing_else(machine):
    program, allowed = filter_program(machine), set(allowed_numbers(machine).values())
    for number in range(1000):
        expected = ALLOW if number in allowed else EPERM
        assert decide(program, AUDIT_ARCH[machine], number) == expected
    assert decide(program, AUDIT_ARCH[machine], 2**30 + 1) == EPERM  # write, with 32-bit pointers


@pytest.mark.parametrize("machine", AUDIT_ARCH)
def test_another_architecture_is_killed_before_its_number_is_looked_at(machine):
    for other in {*AUDIT_ARCH.values(), 0x40000003} - {AUDIT_ARCH[machine]}:
        assert decide(filter_program(machine), other, allowed_numbers(machine)["read"]) == KILL


@pytest.mark.parametrize("machine", AUDIT_ARCH)
def test_numbers_are_those_of_the_kernels_headers(machine):
    header = next((path for path in map(Path, HEADERS[machine]) if path.exists()), None)
    if header is None:
        pytest.skip("the kernel's headers are not installed")
    defined = re.findall(r"^#define __NR(?:3264)?_(\w+)\s+(\d+)\s*$", header.read_text(), re.MULTILINE)
    numbers = {name: int(number) for name, number in defined}
    for name, number in allowed_numbers(machine).items():
        assert numbers[name] == number, name


def test_only_calls_aarch64_never_had_are_missing_there():
    assert set(ALLOWED) - set(allowed_numbers("aarch64")) == {"poll", "select", "time"}
    assert set(allowed_numbers("x86_64")) == set(ALLOWED)


@pytest.mark.parametrize("name", FORBIDDEN.split())
def test_the_list_names_nothing_that_reaches_outside(name):
    assert name not in ALLOWED


def test_the_filter_fits_a_jump_of_one_byte():
    assert len(filter_program("x86_64")) // 8 < 256
