"""How an operation says how far it is, without knowing who listens."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """What snapshot, restore and check report to; cheap enough to call for every file.

    All numbers are totals since :meth:`start`, so a lost update does no harm.
    """

    def start(self, total_files: int | None, total_bytes: int | None) -> None:
        """Begin (again); None where a total is not known yet. May be called once more with it."""

    def update(self, *, files: int, bytes_: int, current: bytes | str = "") -> None:
        """Store what is done so far, and the path being worked on."""

    def close(self) -> None:
        """Stop showing anything; may be called again."""


class NoProgress:
    """Shows nothing."""

    def start(self, total_files: int | None, total_bytes: int | None) -> None:
        """See :class:`Progress`."""

    def update(self, *, files: int, bytes_: int, current: bytes | str = "") -> None:
        """See :class:`Progress`."""

    def close(self) -> None:
        """See :class:`Progress`."""
