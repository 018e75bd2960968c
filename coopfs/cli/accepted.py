"""How commands show what is missing from an archive and was accepted so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coopfs.archive.heads import Accepted

_SHOWN = 5


def accepted_lines(accepted: Sequence[Accepted]) -> list[str]:
    """Return what to print of what was accepted as missing: nothing when nothing was."""
    if not accepted:
        return []
    plural = "" if len(accepted) == 1 else "s"
    lines = [f"missing, and accepted so on this machine: {len(accepted)} snapshot{plural}"]
    lines += [f"  {item.text}" for item in accepted[:_SHOWN]]
    if len(accepted) > _SHOWN:
        lines.append(f"  and {len(accepted) - _SHOWN} more (--json has all)")
    return lines


def accepted_json(item: Accepted) -> dict[str, Any]:
    """Return one of them for --json."""
    return {
        "id": item.snapshot_id.hex(),
        "host": item.host,
        "series": item.series,
        "number": item.number,
        "accepted_ns": item.accepted_ns,
    }
