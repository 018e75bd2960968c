"""What FTP servers answer when asked for a folder: bytes to values.

Pure functions; MLSD is RFC 3659, section 7.  Names are as the server spells them, those
that are no UTF-8 escaped; lines that make no sense are left out.
"""

from __future__ import annotations

import calendar
import re
from typing import Final

from coopfs.store.remotefiles import FileInfo

_TIME = re.compile(r"(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(?:\.\d+)?", re.ASCII)
_SELF: Final = frozenset({"cdir", "pdir"})  # the folder itself and the one above


def parse_mlsd(listing: bytes) -> list[FileInfo]:
    """Return the entries of an MLSD listing."""
    entries = []
    for line in _lines(listing):
        facts_text, space, name = line.partition(" ")
        if not space or not name:
            continue
        facts = {}
        for fact in facts_text.split(";"):
            key, _, value = fact.partition("=")
            facts[key.lower()] = value
        kind = facts.get("type", "").lower()
        size = facts.get("size", "")
        if kind in _SELF or name in (".", ".."):
            continue
        has_size = size.isascii() and size.isdigit() and len(size) < 20
        entries.append(
            FileInfo(
                name,
                int(size) if has_size else 0,
                is_file=kind == "file" and has_size,
                is_folder=kind == "dir",
                mtime_s=_time(facts.get("modify", "")),
            )
        )
    return entries


def parse_nlst(listing: bytes) -> list[str]:
    """Return the names of an NLST listing, without the folder some servers put before."""
    names = (line.rstrip("/").rpartition("/")[2] for line in _lines(listing))
    return [name for name in names if name not in ("", ".", "..")]


def _lines(listing: bytes) -> list[str]:
    text = listing.decode("utf-8", "surrogateescape")
    return [line.removesuffix("\r") for line in text.split("\n") if line.removesuffix("\r")]


def _time(text: str) -> int | None:
    found = _TIME.fullmatch(text)
    if not found:
        return None
    year, month, day, hour, minute, second = map(int, found.groups())
    return calendar.timegm((year, month, day, hour, minute, second))
