"""Text fit for a terminal."""

from __future__ import annotations

import re

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # C0 but tab and newline, DEL, C1


def size_text(size: float) -> str:
    """Return a number of bytes as people read it, such as `5.6 GB`; decimal units."""
    for unit, bytes_ in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= bytes_:
            return f"{size / bytes_:,.1f} {unit}"
    return f"{size:.0f} bytes"


def printable(text: str) -> str:
    """Return text without the characters that command a terminal."""
    return _CONTROL.sub("", text)
