"""Plain tables and texts: one row a line, so that grep and awk can be used on them."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

from coopfs.ops.wording import count as count
from coopfs.ops.wording import printable as printable


def width_of(text: str) -> int:
    """Return how many columns of a terminal *text* takes."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(bool(unicodedata.combining(c)) for c in text)


def table(titles: Sequence[str], rows: Iterable[Sequence[str]], *, right: str = "") -> list[str]:
    """Return the lines of a table, titles first.

    Titles in *right* (separated by spaces) belong to columns of numbers.
    """
    cells = [list(titles), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(width_of(row[i]) for row in cells) for i in range(len(titles))]
    on_right = [title in right.split() for title in titles]
    lines = []
    for row in cells:
        parts = []
        for cell, width, is_right in zip(row, widths, on_right, strict=True):
            space = " " * (width - width_of(cell))
            parts.append(space + cell if is_right else cell + space)
        lines.append("  ".join(parts).rstrip())
    return lines
