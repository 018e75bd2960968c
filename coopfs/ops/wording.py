"""Numbers as sentences have them: counts, sizes, ages, days; and text that is not ours."""

from __future__ import annotations

import time
from typing import Final

_AGES: Final = ((86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))


def printable(text: str) -> str:
    """Return *text* without what would steer a terminal; stored text is not ours."""
    return "".join(c if c.isprintable() else "?" for c in text)


def printable_lines(text: str) -> str:
    """Do as :func:`printable`, but keep line ends."""
    return "\n".join(map(printable, text.split("\n")))


def count(number: int, what: str, plural: str = "") -> str:
    """Return "1 pack" or "1,234 packs"."""
    return f"{number:,} {what if number == 1 else plural or what + 's'}"


def size_text(size: int) -> str:
    """Return *size* in bytes with a decimal unit: 1234567 is "1.2 MB"."""
    if size < 1000:
        return f"{size} B"
    value = float(size)
    for unit in ("kB", "MB", "GB", "TB", "PB"):
        value /= 1000
        if value < 999.5 or unit == "PB":
            break
    return f"{value:.1f} {unit}" if value < 99.95 else f"{value:.0f} {unit}"


def duration_text(seconds: float) -> str:
    """Return a duration as "59 s", "3:05 min" or "2:07 h"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02} min"
    return f"{whole // 3600}:{whole // 60 % 60:02} h"


def age_text(seconds: float) -> str:
    """Return "3 days", "26 hours" or "5 minutes": whole ones, two at least where there are."""
    whole = max(int(seconds), 0)
    for unit_s, name in _AGES:
        if whole >= 2 * unit_s:
            return count(whole // unit_s, name)
    return count(whole, "second")


def day_text(time_ns: int) -> str:
    """Return "2026-11-23 04:28", local time."""
    try:
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(time_ns / 1e9))
    except (OverflowError, ValueError, OSError):  # what others say of times may be anything
        return f"{time_ns / 1e9:.0f} s after 1970"
