"""A store in a bucket of an object store: ``s3://``, ``gs://`` and ``az://``.

    config  data/<first byte>/<name>  index/<name>  snapshots/<name>  keys/<name>  locks/

below the address's prefix: the keys restic uses, so that its tools, rclone and a sync of
the bucket agree.  obstore, an optional part, is imported when a bucket is first needed.
Addresses: store/cloudaddress.py.  Requests and errors: store/bucket.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Self, TypeVar

from coopfs.errors import (
    NotAStore,
    ObjectCorrupt,
    ObjectNotFound,
    StoreError,
    StoreUnavailable,
    UsageError,
)
from coopfs.ids import ObjectId
from coopfs.store.base import (
    CONFIG,
    CONFIG_LEN_MAX,
    GET_LEN_MAX,
    KINDS,
    Kind,
    ObjectInfo,
    Payload,
    Store,
    object_hex,
    object_label,
    parse_object_name,
    pieces_of,
    range_len,
    size_conflict,
    truncated,
)
from coopfs.store.cloudaddress import CloudAddress, parse_cloud_address
from coopfs.store.inflight import InFlight
from coopfs.store.line import FREE_LINE, Line
from coopfs.store.retry import Retrier

if TYPE_CHECKING:
    from coopfs.store.bucket import Bucket, Entry

_Result = TypeVar("_Result")

REQUESTS_MAX: Final = 8  # in flight at once, whoever many threads there are
_OFFSET_MAX: Final = 1 << 62  # bytes; obstore computes ends of ranges in 64 bits
_NAMES_SHOWN: Final = 5  # in a message about a bucket that is not a store


class CloudStore(Store):
    """See :class:`Store`.  What was put is as durable as the service promises."""

    is_local = False
    is_durable = True
    is_guarded = None  # policies and object locks do not show

    def __init__(self, address: str, *, is_new: bool = False) -> None:
        """Name the store at *address*; nothing is connected before the first call.

        That call then raises NotAStore where neither a config nor a snapshot is there,
        unless the store *is_new*.

        Raises:
            UsageError: the address, the environment or obstore's absence forbids it.
        """
        self.address = address
        self._place = parse_cloud_address(address)
        self._retrier = Retrier()
        self._bucket = _bucket(self._place, self._retrier.patience.read_s)
        self._requests = InFlight(
            REQUESTS_MAX, lambda: StoreUnavailable(f"the store {address} has been closed")
        )
        self._is_seen = is_new  # is known to be a store, or is to become one
        self._is_conditional = self._place.is_conditional
        self._line = FREE_LINE

    def keep_to(self, line: Line) -> None:
        """See :meth:`Store.keep_to`; obstore takes an object whole, so puts are paced by those."""
        self._line = self._bucket.line = line

    @classmethod
    def open(cls, address: str) -> Self:
        """Return the store at *address*, looked at unless it cannot be reached just now.

        Raises:
            UsageError: as :class:`CloudStore`.
            NotAStore: no such bucket, or no store in it.
            StoreDenied: the credentials do not open it.
        """
        store = cls(address)
        try:
            # Without patience: a mount must come up with the service out of reach.
            with suppress(StoreUnavailable):
                store._requests.run(store._look)
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    def create(cls, address: str) -> Self:
        """Return the store to be made at *address*: in a bucket that exists, where nothing is.

        Nothing is put: the config makes it a store.

        Raises:
            UsageError: as :class:`CloudStore`.
            StoreError: there is a store already.
            NotAStore: no such bucket, or something else is below the prefix.
        """
        store = cls(address, is_new=True)
        try:
            store._refuse_what_is_there()
        except BaseException:
            store.close()
            raise
        return store

    # --- objects ----------------------------------------------------------------

    def get(self, kind: Kind, name: bytes, offset: int = 0, length: int | None = None) -> bytes:
        """See :meth:`Store.get`."""
        key, label = _key(kind, name), object_label(kind, name)
        if kind is Kind.DATA:
            self._line.reading()
        return self._read(label, lambda: self._get_range(key, label, offset, length))

    def put(self, kind: Kind, name: bytes, data: Payload) -> None:
        """See :meth:`Store.put`."""
        key, label, pieces = _key(kind, name), object_label(kind, name), pieces_of(data)
        with self._line.up.moving(sum(map(len, pieces))):
            self._write(label, lambda: self._put_once(key, label, pieces))

    def list(self, kind: Kind) -> Iterator[ObjectInfo]:
        """See :meth:`Store.list`."""
        for found in self._entries(kind, f"{kind}/"):
            if name := _name_of(found, kind):
                yield ObjectInfo(name, found.size)

    def size(self, kind: Kind, name: bytes) -> int:
        """See :meth:`Store.size`."""
        key, label = _key(kind, name), object_label(kind, name)
        return self._read(label, lambda: self._bucket.size(key, label))

    def delete(self, kind: Kind, name: bytes) -> None:
        """See :meth:`Store.delete`."""
        key, label = _key(kind, name), object_label(kind, name)
        # Most services answer alike whether or not it was there, so it is asked before.
        self._read(label, lambda: self._bucket.size(key, label))
        self._write(label, lambda: self._bucket.delete(key, label))

    # --- config and the rest ------------------------------------------------------

    def get_config(self) -> bytes:
        """See :meth:`Store.get_config`."""
        data, size = self._read(
            CONFIG, lambda: self._bucket.get(CONFIG, CONFIG, size_max=CONFIG_LEN_MAX)
        )
        if size > CONFIG_LEN_MAX:
            raise ObjectCorrupt(
                f"config of {self.address}: {size} bytes, expected at most "
                f"{CONFIG_LEN_MAX}: not written by coopfs"
            )
        return data

    def put_config(self, data: bytes) -> None:
        """See :meth:`Store.put_config`."""
        refusal = StoreError(
            f"config of {self.address}: another one is there; it is never replaced: "
            f"choose another bucket or prefix for a new archive"
        )
        # Looked at before, as some services take If-None-Match and ignore it, and after, as
        # two clients of such a service may both have seen nothing.
        with suppress(ObjectNotFound):
            if self.get_config() != data:
                raise refusal
            return
        pieces = pieces_of(data)
        try:
            self._write(CONFIG, lambda: self._put_once(CONFIG, CONFIG, pieces))
        except ObjectCorrupt as exc:  # another length
            raise refusal from exc
        if self.get_config() != data:
            raise refusal

    def free_bytes(self) -> int | None:
        """Return None: no object store can tell."""
        return None

    def close(self) -> None:
        """See :meth:`Store.close`."""
        self._line.close()
        self._retrier.close()
        self._requests.close()

    # --- one try of each ------------------------------------------------------------

    def _get_range(self, key: str, label: str, offset: int, length: int | None) -> bytes:
        is_sane = length is None or 0 < length <= GET_LEN_MAX
        if not is_sane or not 0 <= offset <= _OFFSET_MAX:
            # Nothing to fetch, or nothing that can be asked for: the size says which.
            range_len(label, self._bucket.size(key, label), offset, length)
            return b""
        if offset == 0 and length is None:
            data, size = self._bucket.get(key, label, GET_LEN_MAX)
        else:
            found = self._bucket.get_range(key, label, offset, length)
            data, size = found or (b"", self._bucket.size(key, label))
        wanted = range_len(label, size, offset, length)
        if len(data) != wanted:
            raise truncated(label, offset, wanted, offset + len(data))
        return data

    def _put_once(self, key: str, label: str, pieces: Sequence[memoryview]) -> None:
        from coopfs.store.bucket import Unconditional

        size = sum(map(len, pieces))
        if self._is_conditional:
            try:
                is_new = self._bucket.put(key, label, pieces, is_conditional=True)
            except Unconditional:
                self._is_conditional = False  # nor will it learn to
            else:
                if is_new:
                    return
                found = self._size_or_none(key, label)
                if found is None:
                    raise StoreUnavailable(
                        f"{label}: was deleted by somebody while it was being put; put it again"
                    )
                if found != size:
                    raise size_conflict(label, found, size)
                return
        found = self._size_or_none(key, label)
        if found is None:
            self._bucket.put(key, label, pieces, is_conditional=False)
        elif found != size:
            raise size_conflict(label, found, size)

    def _size_or_none(self, key: str, label: str) -> int | None:
        try:
            return self._bucket.size(key, label)
        except ObjectNotFound:
            return None

    # --- within -------------------------------------------------------------------

    def _entries(self, folder: str | None, label: str) -> Iterator[Entry]:
        """Yield every object below *folder*; a broken listing goes on where it stopped."""
        pages: Iterator[Sequence[Entry]] | None = None
        last: str | None = None

        def next_page() -> Sequence[Entry] | None:
            nonlocal pages
            if pages is None:
                pages = self._bucket.pages(folder, label, last)
            try:
                return next(pages, None)
            except BaseException:
                pages = None
                raise

        while page := self._read(label, next_page):
            yield from page
            last = page[-1].key

    def _read(self, label: str, call: Callable[[], _Result]) -> _Result:
        return self._retrier.read(label, lambda: self._requests.run(lambda: self._run(call)))

    def _write(self, label: str, call: Callable[[], _Result]) -> _Result:
        return self._retrier.write(label, lambda: self._requests.run(lambda: self._run(call)))

    def _run(self, call: Callable[[], _Result]) -> _Result:
        if not self._is_seen:
            self._look()
        return call()

    def _look(self) -> None:
        """See whether there is a store (NotAStore)."""
        if self._size_or_none(CONFIG, CONFIG) is None:
            snapshots = next(self._bucket.pages(Kind.SNAPSHOTS, "snapshots/", None), [])
            if not any(_name_of(found, Kind.SNAPSHOTS) for found in snapshots):
                raise NotAStore(
                    f'{self.address}: not a store: expected an object "config", found '
                    f'{_names_in(self._first_page())}; a new store is made by "coopfs init"'
                )
        self._is_seen = True

    def _refuse_what_is_there(self) -> None:
        """Raise unless create() may use the place."""

        def look() -> tuple[int | None, Sequence[Entry]]:
            return self._size_or_none(CONFIG, CONFIG), self._first_page()

        config_len, entries = self._read(CONFIG, look)
        if config_len is not None:
            raise StoreError(
                f"{self.address}: holds a store already; choose another bucket or prefix, or use "
                f"the archive in it"
            )
        # Empty objects for folders are made by the services' own web pages.
        strangers = [e for e in entries if e.size or e.key.rstrip("/") not in ("", *KINDS)]
        if strangers:
            raise NotAStore(
                f"{self.address}: not empty, so no store is made in it: found "
                f"{_names_in(strangers)}; choose an empty or a new prefix"
            )

    def _first_page(self) -> Sequence[Entry]:
        return next(self._bucket.pages(None, f"{self.address}/", None), [])


def _bucket(address: CloudAddress, retry_s: float) -> Bucket:
    try:
        from coopfs.store.bucket import Bucket
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.partition(".")[0] != "obstore":
            raise
        raise UsageError(
            f"{address.scheme}:// needs an optional part of coopfs that is not installed here; "
            f'install it with: pip install "coopfs[cloud]"'
        ) from exc
    return Bucket(address, retry_s)


def _key(kind: Kind, name: bytes) -> str:
    digits = object_hex(name)
    return f"data/{digits[:2]}/{digits}" if kind is Kind.DATA else f"{kind}/{digits}"


def _name_of(found: Entry, kind: Kind) -> ObjectId | None:
    """Return the name of the object of *kind* that *found* is; None: a stranger.

    Under another key get() would not find it.
    """
    name = parse_object_name(found.key.rpartition("/")[2])
    return name if name is not None and found.key == _key(kind, name) else None


def _names_in(entries: Sequence[Entry]) -> str:
    """Return what is there, for a message: a few names, and whether there are more."""
    if not entries:
        return "nothing"
    shown = ", ".join(ascii(found.key) for found in entries[:_NAMES_SHOWN])
    return shown if len(entries) <= _NAMES_SHOWN else f"{shown} and more"
