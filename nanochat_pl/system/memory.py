"""How much memory is in use, of how much, and what was killed for the lack of it: this machine's, or this container's.

Linux only; elsewhere nothing is known. What is not known is None.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

UNLIMITED = 1 << 60  # version 1 of cgroups writes "no limit" as a number near 2**63
ACCOUNTS = Path("/sys/fs/cgroup")


class Memory(NamedTuple):
    """Memory that cannot be taken back, and how much there may be."""

    used_bytes: int
    limit_bytes: int

    @property
    def share(self) -> float:
        """The part in use, 0 to 1."""
        return self.used_bytes / self.limit_bytes


def memory() -> Memory | None:
    """Return what is in use of the tighter limit, the machine's or the container's."""
    known = [found for found in (_of_machine(), _of_container()) if found]
    return max(known, key=lambda found: found.share, default=None)


def _of_machine() -> Memory | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    kibibytes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    total = kibibytes["MemTotal"]
    return Memory((total - kibibytes.get("MemAvailable", total)) * 1024, total * 1024)


def _of_container() -> Memory | None:
    """Return the memory of the cgroup this process is in; files that were read count as free."""
    for folder in _account_folders():
        limit = _number(folder / "memory.max") or _number(folder / "memory.limit_in_bytes")
        used = _number(folder / "memory.current") or _number(folder / "memory.usage_in_bytes")
        if limit and used and limit < UNLIMITED:
            files = _facts(folder / "memory.stat").get("inactive_file", 0)
            return Memory(max(0, used - files), limit)
    return None


def out_of_memory_kills() -> int | None:
    """Return how many processes of this container were killed for the lack of memory so far."""
    for folder in _account_folders():
        for name in ("memory.events", "memory.oom_control"):
            kills = _facts(folder / name).get("oom_kill")
            if kills is not None:
                return kills
    return None


def _account_folders() -> list[Path]:
    """Return the folders that may hold this process's account, the most specific first."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    folders = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "" or "memory" in controllers.split(","):
            root = ACCOUNTS / "memory" if controllers else ACCOUNTS
            folders += [root / path.lstrip("/"), root]
    return folders


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):  # "max" means no limit
        return None


def _facts(path: Path) -> dict[str, int]:
    """Return the numbers of a file of lines such as `oom_kill 3`."""
    try:
        pairs = [line.split() for line in path.read_text(encoding="ascii").splitlines()]
    except (OSError, ValueError):
        return {}
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}
