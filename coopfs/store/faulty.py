"""A store that misbehaves on demand, around another one.  For tests.

Owns no objects: what it damages is damaged in the answers only, and what is put
lies in the inner store, where a test can look at it afterwards.  It follows the
contract of :class:`Store` except where it was told not to.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal

from blake3 import blake3

from coopfs.errors import (
    CoopfsError,
    DataError,
    ObjectNotFound,
    StoreError,
    StoreFull,
    StoreUnavailable,
)
from coopfs.ids import ObjectId
from coopfs.store.base import (
    CONFIG,
    Kind,
    ObjectInfo,
    Payload,
    Store,
    not_found,
    object_label,
    pieces_of,
    range_len,
    size_conflict,
)
from coopfs.store.line import Line

Operation = Literal["get", "put", "list", "size", "delete", "prove"]
Place = Kind | Literal["config"]  # "config" for get_config() and put_config()
When = Literal["before", "after"]

_GATE_TIMEOUT_S: Final = 60  # a test that never opens its gate should fail, not hang


class SimulatedCrash(BaseException):
    """The process is as good as dead; no ``except Exception`` may get hold of it."""


@dataclass(slots=True)
class _Fault:
    operation: Operation
    place: Place | None  # None: any
    skip: int  # how many matching requests still pass unharmed
    times: int  # how many fail after those
    when: When  # "after": the inner store has done it, only the answer is lost
    error: BaseException


class FaultyStore(Store):
    """The store *inner*, which it owns and closes, plus the faults asked for.

    Counters (read them when no request is running): ``requests`` by (operation, kind),
    ``bytes_got`` and ``bytes_put`` by kind, with "config" as the kind of the config.
    Attributes to set at any time:

    - ``delay_s``: every request takes that much longer.
    - ``gate``: if set, every request waits until this event is set.
    - ``is_local``, ``is_durable``: as the inner store's unless given.
    """

    def __init__(
        self, inner: Store, *, is_local: bool | None = None, is_durable: bool | None = None
    ) -> None:
        self.inner = inner
        self.address = inner.address
        self.can_prove = inner.can_prove
        self.is_local = inner.is_local if is_local is None else is_local
        self.is_durable = inner.is_durable if is_durable is None else is_durable
        self.is_guarded = inner.is_guarded
        self.delay_s = 0.0
        self.gate: threading.Event | None = None
        self.requests: Counter[tuple[str, str]] = Counter()
        self.bytes_got: Counter[str] = Counter()
        self.bytes_put: Counter[str] = Counter()
        self.has_crashed = False
        self._is_away = False
        self._room: int | None = None  # bytes that still fit
        self._faults: list[_Fault] = []
        # What the answers say instead of the truth; None: no such object.
        self._altered: dict[tuple[Place, bytes], bytes | None] = {}
        self._lock = threading.Lock()

    # --- damage at rest -------------------------------------------------------------

    def lose(self, kind: Kind, name: bytes) -> None:
        """Have the object not be there, until it is put again."""
        self._alter(kind, name, None)

    def flip(self, kind: Kind, name: bytes, offset: int, mask: int = 0x01) -> None:
        """Invert the bits of *mask* in the byte at *offset* (from the end if negative)."""
        damaged = bytearray(self._truth(kind, name))
        damaged[offset] ^= mask
        self._alter(kind, name, bytes(damaged))

    def truncate(self, kind: Kind, name: bytes, size: int) -> None:
        """Have the object end after *size* bytes."""
        self._alter(kind, name, self._truth(kind, name)[:size])

    def replace(self, kind: Kind, name: bytes, data: bytes) -> None:
        """Have the object, which need not exist, be *data*."""
        self._alter(kind, name, data)

    def replace_config(self, data: bytes | None) -> None:
        """Have the config be *data*; None: be gone."""
        self._alter(CONFIG, b"", data)

    def mend(self) -> None:
        """Show the truth again, fail no more and come back; counters stay as they are."""
        with self._lock:
            self._altered.clear()
            self._faults.clear()
            self._is_away = self.has_crashed = False
            self._room = None

    def _truth(self, kind: Kind, name: bytes) -> bytes:
        _, altered = self._told(kind, name)
        return self.inner.get(kind, name) if altered is None else altered

    def _told(self, place: Place, name: bytes) -> tuple[bool, bytes | None]:
        """Return whether to lie about the object, and what it then is (None: not there)."""
        with self._lock:
            key = (place, name)
            return key in self._altered, self._altered.get(key)

    def _alter(self, place: Place, name: bytes, data: bytes | None) -> None:
        with self._lock:
            self._altered[place, name] = data

    # --- requests that fail ---------------------------------------------------------

    def fail(
        self,
        operation: Operation,
        kind: Place | None = None,
        *,
        times: int = 1,
        skip: int = 0,
        when: When = "before",
        error: StoreError | DataError | None = None,
    ) -> None:
        """Fail the next *times* such requests, *skip* of them passing first.

        With ``when="after"`` the request is carried out and only its answer is lost.
        """
        error = error or StoreUnavailable(f"{operation} {kind or 'anything'}: told to fail")
        with self._lock:
            self._faults.append(_Fault(operation, kind, skip, times, when, error))

    def crash(
        self,
        operation: Operation,
        kind: Place | None = None,
        *,
        nth: int = 1,
        when: When = "before",
    ) -> None:
        """Raise SimulatedCrash at the *nth* such request from now on, and at all that follow.

        ``when`` tells whether that request itself is still carried out.
        """
        crash = SimulatedCrash(f"{when} {operation} number {nth} of {kind or 'anything'}")
        with self._lock:
            self._faults.append(_Fault(operation, kind, nth - 1, 1, when, crash))

    def go_away(self) -> None:
        """Answer nothing but StoreUnavailable until :meth:`come_back`."""
        self._is_away = True

    def come_back(self) -> None:
        """Be reachable again."""
        self._is_away = False

    def fill_after(self, room: int | None) -> None:
        """Take *room* more bytes, then be full; None: be as large as the inner store."""
        with self._lock:
            self._room = room

    @contextmanager
    def _request(self, operation: Operation, place: Place) -> Iterator[None]:
        """Count a request, and fail it before or after its body as told."""
        with self._lock:
            self.requests[operation, place] += 1
            late = self._due_fault(operation, place)
        if self.gate is not None and not self.gate.wait(_GATE_TIMEOUT_S):
            raise AssertionError(f"{operation} {place}: nobody opened the gate")
        if self.delay_s:
            time.sleep(self.delay_s)
        self._refuse_if_gone(operation, place)
        yield
        self._refuse_if_gone(operation, place)
        if late is not None:
            self._raise(late)

    def _due_fault(self, operation: Operation, place: Place) -> BaseException | None:
        """Raise what is due before the request; return what is due after it.  Lock held."""
        late = None
        for fault in tuple(self._faults):
            if fault.operation != operation or fault.place not in (None, place):
                continue
            if fault.skip:
                fault.skip -= 1
                continue
            fault.times -= 1
            if not fault.times:
                self._faults.remove(fault)
            if fault.when == "before":
                self._raise(fault.error)
            late = fault.error
        return late

    def _raise(self, error: BaseException) -> None:
        if isinstance(error, SimulatedCrash):
            # Other threads of the "dead" process must not reach the store either.
            self.has_crashed = True
        raise error

    def _refuse_if_gone(self, operation: Operation, place: Place) -> None:
        if self.has_crashed:
            raise SimulatedCrash(f"{operation} {place} after the crash")
        if self._is_away:
            raise StoreUnavailable(f"{operation} {place}: the store went away, as told")

    # --- Store ----------------------------------------------------------------------

    def get(self, kind: Kind, name: bytes, offset: int = 0, length: int | None = None) -> bytes:
        """See :meth:`Store.get`."""
        label = object_label(kind, name)
        with self._request("get", kind):
            is_altered, altered = self._told(kind, name)
            if not is_altered:
                data = self.inner.get(kind, name, offset, length)
            elif altered is None:
                raise not_found(label)
            else:
                wanted = range_len(label, len(altered), offset, length)
                data = altered[offset : offset + wanted]
        self._count(self.bytes_got, kind, len(data))
        return data

    def get_config(self) -> bytes:
        """See :meth:`Store.get_config`."""
        with self._request("get", CONFIG):
            is_altered, altered = self._told(CONFIG, b"")
            if is_altered and altered is None:
                raise not_found(CONFIG)
            data = self.inner.get_config() if altered is None else altered
        self._count(self.bytes_got, CONFIG, len(data))
        return data

    def put(self, kind: Kind, name: bytes, data: Payload) -> None:
        """See :meth:`Store.put`."""
        label, size = object_label(kind, name), sum(map(len, pieces_of(data)))
        with self._request("put", kind):
            _, altered = self._told(kind, name)
            if altered is not None:  # a name that is taken stays as it is, damaged or not
                if len(altered) != size:
                    raise size_conflict(label, len(altered), size)
            else:
                with self._taking(label, size, is_there=self._has(kind, name)):
                    self.inner.put(kind, name, data)
                with self._lock:
                    self._altered.pop((kind, name), None)
        self._count(self.bytes_put, kind, size)

    def put_config(self, data: bytes) -> None:
        """See :meth:`Store.put_config`."""
        with self._request("put", CONFIG):
            _, altered = self._told(CONFIG, b"")
            if altered is not None:
                if altered != data:
                    raise StoreError("config: another one is there; it is never replaced")
            else:
                with self._taking(CONFIG, len(data), is_there=False):
                    self.inner.put_config(data)
                with self._lock:
                    self._altered.pop((CONFIG, b""), None)
        self._count(self.bytes_put, CONFIG, len(data))

    def list(self, kind: Kind) -> Iterator[ObjectInfo]:
        """See :meth:`Store.list`."""
        with self._request("list", kind):
            sizes = {found.name: found.size for found in self.inner.list(kind)}
        with self._lock:
            altered = dict(self._altered)
        for (place, name), data in altered.items():
            if place != kind:
                continue
            if data is None:
                sizes.pop(ObjectId(name), None)
            else:
                sizes[ObjectId(name)] = len(data)
        return iter([ObjectInfo(name, size) for name, size in sizes.items()])

    def size(self, kind: Kind, name: bytes) -> int:
        """See :meth:`Store.size`."""
        with self._request("size", kind):
            is_altered, altered = self._told(kind, name)
            if is_altered and altered is None:
                raise not_found(object_label(kind, name))
            return self.inner.size(kind, name) if altered is None else len(altered)

    def prove(self, name: bytes, key: bytes) -> bytes:
        """Answer for what it shows of the pack, as a keeper who has just that would."""
        with self._request("prove", Kind.DATA):
            return blake3(self.get(Kind.DATA, name), key=key).digest()

    def keep_to(self, line: Line) -> None:
        """See :meth:`Store.keep_to`."""
        self.inner.keep_to(line)

    def delete(self, kind: Kind, name: bytes) -> None:
        """See :meth:`Store.delete`."""
        with self._request("delete", kind):
            with self._lock:
                is_altered = (kind, name) in self._altered
                altered = self._altered.pop((kind, name), None)
            try:
                self.inner.delete(kind, name)
            except ObjectNotFound:
                if altered is None:
                    raise
            if is_altered and altered is None:  # lost before
                raise not_found(object_label(kind, name))

    def free_bytes(self) -> int | None:
        """See :meth:`Store.free_bytes`."""
        return self.inner.free_bytes() if self._room is None else self._room

    def close(self) -> None:
        """Close the inner store."""
        self.inner.close()

    # --- within ---------------------------------------------------------------------

    def _has(self, kind: Kind, name: bytes) -> bool:
        try:
            self.inner.size(kind, name)
        except CoopfsError:
            return False
        return True

    @contextmanager
    def _taking(self, label: str, size: int, *, is_there: bool) -> Iterator[None]:
        """Take *size* bytes off the room left, unless the put fails or adds nothing."""
        taken = 0 if is_there else size
        with self._lock:
            if self._room is not None:
                if taken > self._room:
                    raise StoreFull(
                        f"{label}: no room for {size} bytes, {self._room} bytes are free"
                    )
                self._room -= taken
        try:
            yield
        except BaseException:
            with self._lock:
                if self._room is not None:
                    self._room += taken
            raise

    def _count(self, counter: Counter[str], place: Place, size: int) -> None:
        with self._lock:
            counter[place] += size
