"""Modules a program may want, imported before the door is locked: afterwards no file can be opened.

Every word of the source that names a module of the standard library counts as wanted, and of a package also its
parts. So `import math` costs the start of `math` only, and a name built at run time is not found.
"""

from __future__ import annotations

import importlib
import os
import re
import sys

_NEVER = {
    "antigravity",
    "idlelib",
    "site",
    "test",
    "this",
    "tkinter",
    "turtle",
    "turtledemo",
}  # act on import
_ALWAYS = ("encodings", "unicodedata")  # of `\N{...}` and of the codecs that are mentioned
_ALSO = {"datetime": "_strptime", "time": "_strptime", "functools": "typing"}  # what these import when called


def preload(sources: list[str]) -> None:
    """Import what these programs mention of the standard library."""
    words = set(re.findall(r"[A-Za-z]\w*", " ".join(sources)))
    for name in [*sorted(words & sys.stdlib_module_names - _NEVER), *_ALWAYS]:
        _load(name, words)
        if name in _ALSO:
            _load(_ALSO[name], words)


def _load(name: str, words: set[str]) -> None:
    """Import a module, and of a package the parts that are mentioned."""
    try:
        module = importlib.import_module(name)
    except Exception:  # of another system, or without the library it needs
        return
    for folder in getattr(module, "__path__", ()):
        for part in sorted(_parts(folder) & words):
            _load(f"{name}.{part}", words)


def _parts(folder: str) -> set[str]:
    try:
        names = {entry.partition(".")[0] for entry in os.listdir(folder)}
    except OSError:
        return set()
    return {name for name in names if not name.startswith(("__", "test"))}
