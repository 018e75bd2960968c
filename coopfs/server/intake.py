"""Letting objects in: who may put what, and the steps that make it an object."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Final

from coopfs import durable
from coopfs.errors import ObjectCorrupt, StoreFull, StoreUnavailable, UsageError
from coopfs.format.receipt import Receipt
from coopfs.ids import ObjectId
from coopfs.objects import LOCKS
from coopfs.oserrors import free_bytes
from coopfs.server.clock import ClockWatch
from coopfs.server.faults import translated
from coopfs.server.places import Places, label_of
from coopfs.server.quota import Ledger, day_of
from coopfs.server.reading import plain_size
from coopfs.server.upload import Buffers, Upload

LOCK_LEN_MAX: Final = 4096  # bytes; restic's have about 150


class Intake:
    """The desk of :class:`~coopfs.server.upload.Upload`.  Thread-safe."""

    def __init__(
        self,
        places: Places,
        ledger: Ledger,
        clock: ClockWatch,
        drop_others: Sequence[Callable[[str, str], None]],
    ) -> None:
        """Call each of *drop_others* (kind, name) once an object is durable."""
        self._places, self._ledger, self._clock = places, ledger, clock
        self._drop_others = drop_others
        self._buffers = Buffers()
        self._number_lock = threading.Lock()
        self._begun = 0

    def begin(self, kind: str, name: str, size: int, *, is_admin: bool) -> Upload:
        """See :meth:`coopfs.server.depot.Depot.begin_put`; OSError is not translated."""
        path, label = self._places.object(kind, name), label_of(kind, name)
        if size < 0:
            raise UsageError(f"{label}: a size of {size} bytes")
        if self._is_there(path, label, size):
            return Upload(self, self._buffers, kind, name, size, None)
        free = free_bytes(self._places.top)
        if size > free:
            raise StoreFull(
                f"{label}: {size} bytes are more than the {free} that are free on the "
                f"partner's disk; ask the partner to make room"
            )
        # Without its lock restic could not even restore from a store that is full.
        is_needed = is_admin or (kind == LOCKS and size <= LOCK_LEN_MAX)
        self._ledger.reserve(label, size, day_of(self._clock), is_admin=is_needed)
        with self._number_lock:
            self._begun += 1
            temporary = f"{self._places.incoming}/{os.getpid()}-{self._begun}"
        return Upload(self, self._buffers, kind, name, size, temporary)

    def publish(self, upload: Upload) -> Receipt:
        """See :class:`~coopfs.server.upload.Desk`."""
        path = self._places.object(upload.kind, upload.name)
        is_new = False
        if upload.temporary is not None:
            day = day_of(self._clock)
            # Together, so that a recount finds the object once, in the sum or on the disk.
            with self._ledger.lock:
                is_new = durable.link_new(upload.temporary, path)
                if is_new:
                    self._ledger.put(upload.size, day)
        if not is_new:
            if not self._is_there(path, upload.label, upload.size):
                raise StoreUnavailable(
                    f"{upload.label}: was deleted by somebody while it was being put; put it again"
                )
            # Linked by a server that was killed before its last step, or brought by hand.
            durable.sync_file(path)
        durable.sync_folder(os.path.dirname(path))
        if is_new:  # verified just now; of what was there already nobody knows what it is worth
            for drop in self._drop_others:
                drop(upload.kind, upload.name)
        name = ObjectId(bytes.fromhex(upload.name))
        return Receipt(upload.kind, name, upload.size, self._clock.wall_ns())

    def close_upload(self, upload: Upload) -> None:
        """See :class:`~coopfs.server.upload.Desk`."""
        if upload.temporary is not None:
            self._ledger.release(upload.size)

    def translated(self, label: str) -> AbstractContextManager[None]:
        """See :class:`~coopfs.server.upload.Desk`."""
        return translated(self._places, label)

    def _is_there(self, path: str, label: str, size: int) -> bool:
        """Tell whether the object is there; ObjectCorrupt if it has another size."""
        try:
            found = plain_size(os.lstat(path), label)
        except FileNotFoundError:
            return False
        if found != size:
            raise ObjectCorrupt(
                f"{label}: the store holds {found} bytes under this name where {size} belong; "
                f'nothing was overwritten; run "coopfs check"'
            )
        return True
