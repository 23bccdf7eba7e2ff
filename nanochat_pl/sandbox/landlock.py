"""Landlock, the kernel's second fence: no file, no TCP port, no signal or socket beyond this process.

Nothing here is needed where the list of `seccomp.py` holds; it is there should that list ever be too long by one.
Kernels from 5.13 may have it, and say by a version what they can forbid: everything they can is forbidden.
"""

from __future__ import annotations

import ctypes
import struct

_CREATE_RULESET, _RESTRICT_SELF = 444, 446  # the same on every architecture
_VERSION_FLAG = 1
# Documentation/userspace-api/landlock.rst: how many rights to files each version knows
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_NETWORK_RIGHTS, _SCOPES = 2, 2  # TCP bind and connect from version 4; abstract sockets and signals from 6


def landlock_version(libc: ctypes.CDLL) -> int:
    """Return what this kernel offers, 0 for nothing."""
    return max(0, libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION_FLAG))


def forbid_everything(libc: ctypes.CDLL) -> bool:
    """Forbid this process, for good, all that Landlock can; it must have given up new privileges before.

    Returns:
        Whether the kernel did so.
    """
    version = landlock_version(libc)
    ruleset = _ruleset(version)
    if not ruleset:
        return False
    descriptor = libc.syscall(_CREATE_RULESET, ruleset, ctypes.c_size_t(len(ruleset)), 0)
    return descriptor >= 0 and libc.syscall(_RESTRICT_SELF, descriptor, 0) == 0


def _ruleset(version: int) -> bytes:
    """Return a `struct landlock_ruleset_attr` that handles, and so denies, every right of a version."""
    if version < 1:
        return b""
    rights = [(1 << _FILE_RIGHTS.get(version, 16)) - 1]
    if version >= 4:
        rights.append((1 << _NETWORK_RIGHTS) - 1)
    if version >= 6:
        rights.append((1 << _SCOPES) - 1)
    return struct.pack(f"={len(rights)}Q", *rights)
