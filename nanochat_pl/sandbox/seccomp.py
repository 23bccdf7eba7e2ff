"""The list of system calls a locked process may still make, as a BPF program for the kernel.

It may compute, use the memory and descriptors it has, sleep, and end. It may open, create, delete, start, signal and
connect nothing. What is not on the list answers EPERM rather than death: the interpreter itself tries to open files
(the source line of a traceback, a module to import) and goes on without them, so honest programs get an exception
they can be judged by. Only calls in the convention of another architecture, whose numbers mean other things, kill.

Linux on x86_64 and aarch64. How a process takes the program upon itself stands in `confine.py`.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
from typing import NamedTuple


class Numbers(NamedTuple):
    """The number of a system call on each architecture; None where the architecture lacks it."""

    x86_64: int | None
    aarch64: int | None


# Numbers: the kernel's arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h.
ALLOWED = {
    # descriptors it was given
    "read": Numbers(0, 63),
    "write": Numbers(1, 64),
    "close": Numbers(3, 57),
    "fstat": Numbers(5, 80),
    "lseek": Numbers(8, 62),
    "poll": Numbers(7, None),
    "ppoll": Numbers(271, 73),
    "select": Numbers(23, None),
    "pselect6": Numbers(270, 72),
    # its own memory
    "brk": Numbers(12, 214),
    "mmap": Numbers(9, 222),
    "mprotect": Numbers(10, 226),
    "munmap": Numbers(11, 215),
    "mremap": Numbers(25, 216),
    "madvise": Numbers(28, 233),
    # its own signals and locks
    "rt_sigaction": Numbers(13, 134),
    "rt_sigprocmask": Numbers(14, 135),
    "rt_sigreturn": Numbers(15, 139),
    "sigaltstack": Numbers(131, 132),
    "futex": Numbers(202, 98),
    # time, chance, who am I
    "clock_gettime": Numbers(228, 113),
    "clock_getres": Numbers(229, 114),
    "clock_nanosleep": Numbers(230, 115),
    "nanosleep": Numbers(35, 101),
    "gettimeofday": Numbers(96, 169),
    "time": Numbers(201, None),
    "times": Numbers(100, 153),
    "getrusage": Numbers(98, 165),
    "getrandom": Numbers(318, 278),
    "getpid": Numbers(39, 172),
    "gettid": Numbers(186, 178),
    "sched_yield": Numbers(24, 124),
    "restart_syscall": Numbers(219, 128),
    # the end
    "exit": Numbers(60, 93),
    "exit_group": Numbers(231, 94),
}
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # include/uapi/linux/audit.h

# include/uapi/linux/bpf_common.h and seccomp.h
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_NUMBER_OFFSET, _ARCH_OFFSET = 0, 4
_ALLOW, _ERRNO, _KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000


def this_machine() -> str | None:
    """Return the architecture of this interpreter if there is a filter for it."""
    is_known = sys.platform == "linux" and sys.maxsize > 2**32 and os.uname().machine in AUDIT_ARCH
    return os.uname().machine if is_known else None


def allowed_numbers(machine: str) -> dict[str, int]:
    """Return name and number of what is allowed on `x86_64` or `aarch64`."""
    numbers = {name: getattr(both, machine) for name, both in ALLOWED.items()}
    return {name: number for name, number in numbers.items() if number is not None}


def filter_program(machine: str) -> bytes:
    """Return the BPF instructions for an architecture, eight bytes each (`struct sock_filter`).

    The calls of x86_64 with 32-bit pointers have numbers beyond 2**30, so they are not on the list either.
    """
    numbers = list(allowed_numbers(machine).values())
    program = [
        _instruction(_LOAD, _ARCH_OFFSET),
        _instruction(_JUMP_IF_EQUAL, AUDIT_ARCH[machine], if_true=1),
        _instruction(_RETURN, _KILL_PROCESS),
        _instruction(_LOAD, _NUMBER_OFFSET),
    ]
    for place, number in enumerate(numbers):
        to_allow = len(numbers) - place  # over the tests that are left, and the refusal
        program.append(_instruction(_JUMP_IF_EQUAL, number, if_true=to_allow))
    program += [_instruction(_RETURN, _ERRNO | errno.EPERM), _instruction(_RETURN, _ALLOW)]
    return b"".join(program)


def _instruction(code: int, operand: int, *, if_true: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, 0, operand)
