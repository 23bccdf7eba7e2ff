"""How a process gives up its rights, for good: limits, then Landlock where the kernel has it, then seccomp.

Called by the process that is to be locked, before it sees a line of foreign code. As root too: limits alone do not
bind root, which may raise them again, but the call to raise them is not on the list of `seccomp.py`.
"""

from __future__ import annotations

import ctypes
import resource
import signal
import sys
from typing import NamedTuple

from nanochat_pl.sandbox.landlock import forbid_everything
from nanochat_pl.sandbox.seccomp import filter_program, this_machine

MAX_DESCRIPTORS = 32
MAX_STACK_BYTES = 8 * 2**20
# include/uapi/linux/prctl.h and seccomp.h
_SET_PARENT_DEATH_SIGNAL, _SET_DUMPABLE, _SET_SECCOMP, _SET_NO_NEW_PRIVS = 1, 4, 22, 38
_MODE_FILTER = 2


class _Program(ctypes.Structure):
    """`struct sock_fprog`: how many instructions there are, and where."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


class Limits(NamedTuple):
    """What a locked process may use.

    Attributes:
        cpu_s: seconds of processor time, from its start.
        memory_bytes: address space, the interpreter included.
    """

    cpu_s: int
    memory_bytes: int


def limit(limits: Limits) -> None:
    """Set what this process may use; limits a system does not know, or had set lower, are left out."""
    ceilings = {
        "RLIMIT_AS": limits.memory_bytes,
        "RLIMIT_CPU": limits.cpu_s,
        "RLIMIT_STACK": MAX_STACK_BYTES,
        "RLIMIT_NOFILE": MAX_DESCRIPTORS,
        "RLIMIT_FSIZE": 0,
        "RLIMIT_CORE": 0,
    }
    for name, ceiling in ceilings.items():
        try:
            resource.setrlimit(getattr(resource, name), (ceiling, ceiling))
        except (AttributeError, ValueError, OSError):
            continue


def lock() -> list[str]:
    """Give up everything but computing, as far as this system lets a process do so.

    Returns:
        Names of the layers in force: `landlock`, `seccomp`.
    """
    if sys.platform != "linux":
        return []
    libc = ctypes.CDLL(None, use_errno=True)
    _prctl(libc, _SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    _prctl(
        libc, _SET_DUMPABLE, 0
    )  # no core, also where the system pipes cores to a program; no ptrace from outside
    if not _prctl(libc, _SET_NO_NEW_PRIVS, 1):
        return []
    layers = {"landlock": forbid_everything(libc), "seccomp": _filter_calls(libc)}
    return [name for name, is_in_force in layers.items() if is_in_force]


def _filter_calls(libc: ctypes.CDLL) -> bool:
    machine = this_machine()
    if machine is None:
        return False
    instructions = filter_program(machine)
    program = _Program(len(instructions) // 8, instructions)
    return _prctl(libc, _SET_SECCOMP, _MODE_FILTER, ctypes.byref(program))


def _prctl(libc: ctypes.CDLL, option: int, *arguments: object) -> bool:
    """Call prctl with unsigned longs or pointers, zeros to the end; tell whether it worked."""
    passed = [ctypes.c_ulong(value) if isinstance(value, int) else value for value in arguments]
    zeros = [ctypes.c_ulong(0)] * (4 - len(passed))
    return libc.prctl(option, *passed, *zeros) == 0
