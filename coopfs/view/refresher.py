"""New snapshots while mounted: looks at the store, replaces the catalogue.

Owns when the store is looked at: every *refresh* seconds, and, where that costs
nothing (a local store), whenever somebody looks at the folders above the snapshots.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

import trio

from coopfs.archive.archive import Archive
from coopfs.archive.snapshots import Snapshot
from coopfs.errors import CoopfsError, StoreError
from coopfs.view.catalogue import VirtualNode, build_catalogue
from coopfs.view.options import MountOptions

LOOK_INTERVAL_S = 1.0  # attributes above the snapshots are believed for as long

log = logging.getLogger(__name__)


class Refresher:
    """Keeps the catalogue up to date; used from the event loop only."""

    def __init__(
        self,
        archive: Archive,
        options: MountOptions,
        show: Callable[[VirtualNode], None] | None = None,
    ) -> None:
        """Build the first catalogue from what *archive* knows; later ones go to *show*."""
        self._archive = archive
        self._options = options
        self.show = show
        self._mounted_ns = time.time_ns()
        self._shown: list[Snapshot] = []
        self._lock = trio.Lock()
        self._last_look = -math.inf
        self._reported: set[str] = set()
        self.last_success_ns: int | None = None
        self.failure = archive.away  # of the last look at the store; empty: it went well
        self._packs_seen = -1  # packs in the index when their metadata was last fetched
        self.catalogue = self._build(archive.snapshots())

    def _build(self, snapshots: list[Snapshot]) -> VirtualNode:
        self._shown = list(snapshots)
        return build_catalogue(snapshots, shadow=self._options.shadow, mounted_ns=self._mounted_ns)

    @property
    def snapshot_count(self) -> int:
        """Snapshots shown."""
        return len(self._shown)

    @property
    def distrusted_count(self) -> int:
        """How many of those are by distrusted writers."""
        return sum(snapshot.is_distrusted for snapshot in self._shown)

    async def run(self) -> None:
        """Look every *refresh* seconds until cancelled."""
        while True:
            await self.fetch_metadata()
            await trio.sleep(self._options.refresh_s)
            await self.look()

    async def fetch_metadata(self) -> None:
        """Have all trees of a remote store here, so that names never wait for the partner."""
        archive = self._archive
        if archive.store.is_local or self.failure or self._packs_seen == archive.index.pack_count:
            return
        count = archive.index.pack_count
        try:
            await trio.to_thread.run_sync(archive.fetch_metadata, abandon_on_cancel=True)
        except CoopfsError as exc:
            log.info("%s; names not seen yet may have to wait for the partner", exc)
        else:
            self._packs_seen = count

    async def looked_at(self) -> None:
        """Somebody lists names above the snapshots: look first if that costs nothing."""
        is_due = trio.current_time() - self._last_look >= LOOK_INTERVAL_S
        if is_due and self._archive.store.is_local:
            await self.look()

    async def look(self) -> None:
        """Look at the store now; a failure is reported once and what was known stays shown."""
        started = trio.current_time()
        async with self._lock:
            if self._last_look > started:
                return  # somebody else looked while we waited
            snapshots = None
            try:
                snapshots = await trio.to_thread.run_sync(self._look, abandon_on_cancel=True)
            except CoopfsError as exc:
                self.failure = str(exc)
                self._report(logging.WARNING if isinstance(exc, StoreError) else logging.ERROR)
            else:
                if self.failure:
                    log.warning("the store answers again")
                self.failure = ""
                self.last_success_ns = time.time_ns()
            self._last_look = trio.current_time()
            for warning in self._archive.warnings:
                if warning not in self._reported:
                    self._reported.add(warning)
                    log.warning("%s", warning)
            if snapshots is not None and snapshots != self._shown:
                self.catalogue = self._build(snapshots)
                if self.show is not None:
                    self.show(self.catalogue)

    def _look(self) -> list[Snapshot]:
        self._archive.refresh()
        return self._archive.snapshots()

    def _report(self, level: int) -> None:
        if self.failure not in self._reported:
            self._reported.add(self.failure)
            log.log(level, "%s; showing what was known before", self.failure)
