"""What every store is: named, immutable byte objects and one config.

Owns the interface and the checks all stores share (names, ranges, payloads).
A store knows no key and is trusted with nothing: whoever calls verifies what
comes back.  Layout and rules: coopfs-format(5), "The archive in the store".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Final, Protocol, Self, TypeVar

from coopfs.errors import ObjectCorrupt, ObjectNotFound, StoreError
from coopfs.ids import ID_LEN, ObjectId

# The server needs these too and may not import from here; stores find them here.
from coopfs.objects import CONFIG as CONFIG
from coopfs.objects import CONFIG_LEN_MAX as CONFIG_LEN_MAX
from coopfs.objects import KINDS as KINDS
from coopfs.objects import parse_object_name as parse_object_name
from coopfs.store.line import Line

# Bytes one get() may ask for.  The largest objects are packs (16 MiB, or one big
# chunk) and index objects (tens of MiB): more is a hostile or broken store that
# would have us allocate it.
GET_LEN_MAX: Final = 1 << 30

Piece = bytes | bytearray | memoryview
Payload = Piece | Sequence[Piece]


class Kind(StrEnum):
    """The kinds of objects coopfs itself reads and writes (``locks`` is restic's alone)."""

    DATA = "data"
    INDEX = "index"
    SNAPSHOTS = "snapshots"
    KEYS = "keys"


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object as a listing shows it."""

    name: ObjectId  # SHA-256 of the object's bytes, if the store is honest
    size: int  # bytes


AUDIT_PASSED: Final = "all right"  # what Store.note_audit() is told then


class Store(ABC):
    """Named byte objects at the partner.

    Methods block and may be called from any number of threads at once.  What a
    put() wrote is immutable and whole: no reader ever sees half an object.

    Every method may raise, beside what it names itself:
        StoreUnavailable: temporary (no route, the disk is not mounted, the store is closed).
        StoreDenied: the store does not let us do this.
        StoreError: anything else that went wrong on the other side.
    """

    address: str  # as the user wrote it, without secrets
    is_local: bool  # True: reading is as cheap as a local file, a disk cache gains nothing
    is_durable: bool  # True: once put() has returned, the object survives a power cut
    # True: a writer's key can neither delete nor replace; None: that cannot be seen from here.
    is_guarded: bool | None = False
    can_prove: bool = False  # True: prove() asks whoever keeps it for a proof of possession

    def keep_to(self, line: Line) -> None:
        """Move bodies at the pace of *line* from now on, and close it with the store.

        A local store moves none over any line, and may leave it at that.
        """
        return

    @abstractmethod
    def get(self, kind: Kind, name: bytes, offset: int = 0, length: int | None = None) -> bytes:
        """Return exactly *length* bytes from *offset* on; without *length*, all up to the end.

        Unverified bytes.  The range must lie within the object; an empty one is allowed.

        Raises:
            ObjectNotFound: no such object.
            ObjectCorrupt: it ends before the range does, is no plain object, or more
                than ``GET_LEN_MAX`` bytes were to be read.
        """

    @abstractmethod
    def put(self, kind: Kind, name: bytes, data: Payload) -> None:
        """Store *data* (pieces are concatenated) as *name*, which the caller made its SHA-256.

        Atomic, and durable on return where ``is_durable``.  An object of that name and
        size counts as done, so a put whose answer was lost may simply be repeated.

        Raises:
            ObjectCorrupt: the name is taken by an object of another size, which stays.
            StoreFull: no room; nothing of it stays.
        """

    @abstractmethod
    def list(self, kind: Kind) -> Iterator[ObjectInfo]:
        """Yield every whole object of *kind*, in no particular order.

        Whatever is not named by 64 lower-case hex digits is not an object and is left
        out.  Objects put or deleted meanwhile may or may not appear.  Errors are raised
        by the call or by the iteration.
        """

    @abstractmethod
    def size(self, kind: Kind, name: bytes) -> int:
        """Return the object's size in bytes.

        Raises:
            ObjectNotFound: no such object.
        """

    @abstractmethod
    def delete(self, kind: Kind, name: bytes) -> None:
        """Delete the object; after a power cut it may be there again.

        Raises:
            ObjectNotFound: no such object.
        """

    def file_of(self, kind: Kind, name: bytes) -> str | None:
        """Return the path of the file that the object is, or would be, on this machine.

        None where objects are no files here, or are not to be read past the store.
        """
        return None

    def prove(self, name: bytes, key: bytes) -> bytes:
        """Return what the keeper says is BLAKE3, keyed with *key*, of the pack *name*.

        Only where ``can_prove``.

        Raises:
            ObjectNotFound: the keeper says that it has no such pack.
        """
        raise StoreError(f"{object_label(Kind.DATA, name)}: this store cannot be asked for a proof")

    def damaged_packs(self) -> Sequence[ObjectId]:
        """Return packs of which the keeper itself says that they are damaged; untrusted."""
        return ()

    def note_audit(self, time_ns: int, outcome: str) -> None:
        """Remember, where partners are listed, how an audit went: *outcome* in a few words."""
        return

    def clock_ahead_s(self) -> float | None:
        """Return how far the keeper's clock is ahead of ours, as it last said; untrusted.

        Nothing is asked for it.  None where no clock was told.
        """
        return None

    @abstractmethod
    def get_config(self) -> bytes:
        """Return the config, whole and unverified.

        Raises:
            ObjectNotFound: there is none.
            ObjectCorrupt: it is longer than any config (``CONFIG_LEN_MAX``).
        """

    @abstractmethod
    def put_config(self, data: bytes) -> None:
        """Store the config, as atomically and durably as an object.

        The same bytes again are done.

        Raises:
            StoreError: another config is there; it stays.
            StoreFull: no room; nothing of it stays.
        """

    @abstractmethod
    def free_bytes(self) -> int | None:
        """Return how many more bytes we may put, or None where the store cannot tell."""

    @abstractmethod
    def close(self) -> None:
        """Let go of files and connections.  May be called again; other calls then fail."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


# --- what the stores share ----------------------------------------------------


def object_label(kind: Kind, name: bytes) -> str:
    """Return how messages name the object: its kind and its whole name in hex."""
    return f"{kind}/{name.hex()}"


def object_hex(name: bytes) -> str:
    """Return *name* as the store spells it: 64 lower-case hex digits.

    Raises:
        ValueError: not 32 bytes (a mistake of the caller, who made the name).
    """
    if len(name) != ID_LEN:
        raise ValueError(f"an object's name is {ID_LEN} bytes, not {len(name)}")
    return name.hex()


def pieces_of(data: Payload) -> list[memoryview]:
    """Return *data* as flat byte views, none of them copied."""
    pieces = [data] if isinstance(data, bytes | bytearray | memoryview) else data
    return [memoryview(piece).cast("B") for piece in pieces]


def range_len(label: str, size: int, offset: int, length: int | None) -> int:
    """Return how many bytes the range has in an object of *size* bytes.

    Raises:
        ObjectCorrupt: the range does not lie within the object, or is absurdly long.
        ValueError: a negative offset or length (a mistake of the caller).
    """
    if offset < 0 or (length is not None and length < 0):
        raise ValueError(f"{label}: negative range ({offset}, {length})")
    wanted = max(size - offset, 0) if length is None else length
    if offset + wanted > size:
        raise truncated(label, offset, wanted, size)
    if wanted > GET_LEN_MAX:
        raise ObjectCorrupt(
            f"{label}: {wanted} bytes to read at once, more than any object of coopfs has "
            f'({GET_LEN_MAX}); run "coopfs check"'
        )
    return wanted


def truncated(label: str, offset: int, length: int, size: int) -> ObjectCorrupt:
    """Return the error for an object that ends before the range does."""
    return ObjectCorrupt(
        f"{label}: truncated: expected {length} bytes from {offset} on, "
        f'the object has {size} bytes; run "coopfs check"'
    )


def size_conflict(label: str, found: int, expected: int) -> ObjectCorrupt:
    """Return the error for a name that is taken by an object of another size."""
    return ObjectCorrupt(
        f"{label}: the store holds {found} bytes under this name where {expected} belong; "
        f'nothing was overwritten; run "coopfs check"'
    )


def not_found(label: str) -> ObjectNotFound:
    """Return the error for an object the store does not have."""
    return ObjectNotFound(
        f'{label}: the store has no such object; if it should, run "coopfs check"'
    )


class Makable(Protocol):
    """A store that can be made where it is."""

    def create(self) -> None:
        """Make it, new and empty."""

    def close(self) -> None:
        """See :meth:`Store.close`."""


M = TypeVar("M", bound=Makable)


def created(store: M) -> M:
    """Return *store* once it is made; where that fails it is closed, and the error passes."""
    try:
        store.create()
    except BaseException:
        store.close()
        raise
    return store
