"""What we hold for a partner: for the person at the server, on the disk, without the line.

Works while ``coopfs serve`` runs and while it does not; the server notices.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from coopfs.errors import NotFound, UsageError
from coopfs.ids import SHORT_HEX
from coopfs.oserrors import store_error
from coopfs.server.clock import ClockJump, ClockWatch
from coopfs.server.depot import CLOCK_FILE, PARTNERS, Depot
from coopfs.server.quota import Terms, Usage
from coopfs.server.scrub import Finding, ScrubState
from coopfs.server.trash import Trashed, Undeleted

TRASH_SHOWN: Final = 1000  # objects of a trash that are listed one by one


@dataclass(frozen=True, slots=True)
class Held:
    """What lies here for one partner, and in which state."""

    name: str
    usage: Usage
    retention_days: int
    oldest_deleted_ns: int | None  # of what is in the trash; wall clock
    newest_deleted_ns: int | None
    trash: tuple[Trashed, ...]  # the newest first, ``TRASH_SHOWN`` at most
    findings: tuple[Finding, ...]  # damaged, and not put again yet
    scrub: ScrubState
    clock_jump: ClockJump | None  # why no trash is emptied at present


def look_at_held(root: Path, terms: Terms) -> Held:
    """Return what is held for the partner; counts every file, so it may take seconds.

    Raises:
        NotFound: nothing was ever kept here for it.
        StoreError: the disk cannot be read.
    """
    with opened_depot(root, terms) as depot:
        trash = sorted(depot.trash(), key=lambda found: -found.deleted_ns)
        return Held(
            name=terms.name,
            usage=depot.usage(),
            retention_days=terms.retention_days,
            oldest_deleted_ns=trash[-1].deleted_ns if trash else None,
            newest_deleted_ns=trash[0].deleted_ns if trash else None,
            trash=tuple(trash[:TRASH_SHOWN]),
            findings=depot.findings(),
            scrub=depot.scrub_state(),
            clock_jump=depot.clock.jump(),
        )


def undelete_held(
    root: Path, terms: Terms, names: Collection[str] | None = None, since_ns: int | None = None
) -> Undeleted:
    """Restore from the partner's trash: all, those named, those deleted since *since_ns*.

    *names* are whole or begin at least as shown in listings (eight digits).

    Raises:
        UsageError: something is no name, or begins several.
        NotFound: nothing in the trash has that name, or nothing was ever kept here.
        StoreError: the disk cannot be read or written.
    """
    with opened_depot(root, terms) as depot:
        chosen = None if names is None else _whole_names(depot, names)
        return depot.undelete(chosen, since_ns=since_ns)


def clock_doubt(root: Path) -> ClockJump | None:
    """Return why this server's clock is not believed, or None.

    Raises:
        NotFound: there is no server's folder.
    """
    return _watch(root).jump()


def confirm_clock(root: Path) -> ClockJump | None:
    """Take the server's clock as it is for right, for all partners; return what it had done.

    What lies in a trash gets no older by it: it has its full time from then on.

    Raises:
        NotFound: there is no server's folder.
        StoreError: it cannot be written down.
    """
    try:
        return _watch(root).confirm()
    except OSError as exc:
        raise store_error(exc, CLOCK_FILE, str(root)) from exc


def _watch(root: Path) -> ClockWatch:
    if not root.is_dir():
        raise NotFound(f"{root}: there is no such folder of a server; see coopfs serve --root")
    return ClockWatch(Path(os.path.abspath(root)) / CLOCK_FILE)


@contextmanager
def opened_depot(root: Path, terms: Terms) -> Iterator[Depot]:
    """Open what is kept for a partner, beside a server that may run (NotFound, StoreError)."""
    # A Depot makes what is missing, and a slip in --root must not make a partner.
    if not (root / PARTNERS / terms.name).is_dir():
        raise NotFound(f"{root}: nothing is kept here for a partner called {terms.name!r}")
    depot = Depot(root, terms, is_server=False)
    try:
        yield depot
    finally:
        depot.close()


def _whole_names(depot: Depot, wanted: Collection[str]) -> set[str]:
    there = {found.name for found in depot.trash()}
    chosen = set()
    for start in wanted:
        start = start.lower()
        if len(start) < SHORT_HEX or start.strip("0123456789abcdef"):
            raise UsageError(
                f"{start!r}: expected an object's name, or {SHORT_HEX} of its hex digits at least"
            )
        found = {name for name in there if name.startswith(start)}
        if not found:
            raise NotFound(f"{start}: nothing in the trash has this name")
        if len(found) > 1:
            raise UsageError(f"{start}: {len(found)} names in the trash begin so; give more digits")
        chosen |= found
    return chosen
