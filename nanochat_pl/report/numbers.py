"""Numbers, spans of time and moments as people read them.

Floats have four places and whole numbers from 10,000 on commas, as in nanochat's report; what four places would not
tell, the very small and the very large, is in powers of ten.
"""

from __future__ import annotations

import math
import time

NOTHING = "—"
SMALL, LARGE = 0.001, 1e15
NOT_FINITE = {
    "nan": "not a number",
    "inf": "infinite",
    "-inf": "infinite",
}  # what `number_text` says, in words


def number_text(value: float | None) -> str:
    """Return a float with four places, an integer with commas from 10,000 on, a dash for None."""
    if value is None:
        return NOTHING
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if not math.isfinite(value):
        return str(value)  # nan, inf: what the file says
    if 0 < abs(value) < SMALL or abs(value) >= LARGE:
        return f"{value:.3e}"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4f}"


def count_text(value: float | None) -> str:
    """Return a number that counts something, and may come as a float."""
    if value is None or not math.isfinite(value) or abs(value) >= LARGE:
        return number_text(value)
    return number_text(round(value))


def share_text(value: float | None) -> str:
    """Return a share in percent."""
    return NOTHING if value is None else f"{value:.1%}"


def bytes_text(value: float | None) -> str:
    """Return an amount of memory in GiB."""
    return NOTHING if value is None else f"{value / 2**30:,.2f} GiB"


def span_text(seconds: float | None) -> str:
    """Return a span of time: `3h51m`, `4m02s`, `12.3s`."""
    if seconds is None or not math.isfinite(seconds):
        return NOTHING
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60:,}h{minutes % 60:02d}m" if minutes >= 60 else f"{minutes}m{rest:02d}s"


def dollars_text(value: float | None) -> str:
    """Return an amount of money."""
    return NOTHING if value is None else f"${value:,.2f}"


def moment_text(moment: float | None) -> str:
    """Return a moment, given in Unix seconds, in universal time."""
    if moment is None:
        return NOTHING
    try:
        return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(moment))
    except (ValueError, OverflowError, OSError):
        return NOTHING
