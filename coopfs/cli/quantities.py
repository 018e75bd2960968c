"""Sizes and times as people write them: 600G, 30d."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final

from coopfs.errors import UsageError

_SIZE = re.compile(r"(\d{1,12})\s*([KMGTP]?)(?:i?B)?\Z", re.IGNORECASE)
_DAYS = re.compile(r"(\d{1,5})\s*([dwmy]?)\Z", re.IGNORECASE)
_SHIFTS: Final = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40, "P": 50}
_DAYS_OF: Final = {"": 1, "d": 1, "w": 7, "m": 30, "y": 365}


def parse_size(text: str, what: str) -> int:
    """Return the bytes that *text* ("600G", powers of 1024) means (UsageError)."""
    match = _SIZE.match(text.strip())
    if not match:
        raise UsageError(f"{what} {text!r}: expected a size such as 600G or 2T")
    return int(match[1]) << _SHIFTS[match[2].upper()]


def parse_days(text: str, what: str) -> int:
    """Return the days that *text* ("30d", "6w", "1y") means, 1 at least (UsageError)."""
    match = _DAYS.match(text.strip())
    days = int(match[1]) * _DAYS_OF[match[2].lower()] if match else 0
    if not days:
        raise UsageError(f"{what} {text!r}: expected days, weeks or years, such as 30d, 6w or 1y")
    return days


def parse_since(text: str, what: str) -> int:
    """Return the time, ns since 1970, that a local date or time means (UsageError)."""
    try:
        return int(datetime.fromisoformat(text).timestamp()) * 10**9
    except (ValueError, OverflowError) as exc:
        raise UsageError(f'{what} {text!r}: expected 2026-11-23 or "2026-11-23 04:28"') from exc


def show_size(size: int) -> str:
    """Return *size* bytes for people, in powers of 1024 as they were asked for."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1000 or unit == "TiB":
            return f"{value:.0f} {unit}" if value >= 100 or unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("unreachable")
