"""A store behind the restic REST protocol, version 2: rest-server, rclone, coopfs serve.

Range reads cost one round trip.  What servers do differently is settled here: some
replace an object that is put again, some answer 403, some list nothing as ``null``.
https://restic.readthedocs.io/en/stable/REST_backend.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from coopfs.errors import NotAStore, ObjectCorrupt, ObjectNotFound, StoreError, StoreUnavailable
from coopfs.store.base import (
    CONFIG,
    CONFIG_LEN_MAX,
    GET_LEN_MAX,
    KINDS,
    Kind,
    ObjectInfo,
    Payload,
    Store,
    created,
    not_found,
    object_hex,
    object_label,
    pieces_of,
    range_len,
    size_conflict,
)
from coopfs.store.http import Answer, Requests
from coopfs.store.httperrors import status_error
from coopfs.store.line import FREE_LINE, Line
from coopfs.store.restaddress import parse_address
from coopfs.store.restlist import LIST_LEN_MAX, MEDIA_TYPE, parse_listing
from coopfs.store.retry import Patience, Retrier

RECEIPT_HEADER: Final = "X-Coopfs-Receipt"  # coopfs-format(5), "Receipt"
FEATURES_HEADER: Final = "X-Coopfs"  # "1" from coopfs serve: it never replaces an object
_OFFSET_MAX: Final = 1 << 62  # beyond it servers do not agree on what a number is
_LIST_MISSES_MAX: Final = 3
_TAKEN: Final = frozenset({403, 409})
_REASON_LEN: Final = 500  # bytes of an error's text that are read
_CONTENT_RANGE = re.compile(r"bytes (.{1,50})/(\d{1,19})", re.ASCII)
_FIRST_LAST = re.compile(r"(\d{1,19})-(\d{1,19})", re.ASCII)


class RestStore(Store):
    """See :class:`Store`.  Connects when first used; *address* is taken apart by the caller.

    To be subclassed for servers that are known in another way or can do more: hand
    ``__init__`` a pool of your own, and see :meth:`_note`.
    """

    is_local = False
    is_durable = True  # until a server says that it is rclone
    is_guarded: bool | None = None  # --append-only does not show

    def __init__(self, address: str, pool: Requests, path: str, patience: Patience) -> None:
        """*address* is shown, without secrets; *path*, quoted, begins and ends with a slash."""
        self.address = address
        self._pool = pool
        self._line = FREE_LINE
        self._base = path
        self._retrier = Retrier(patience)
        # Does the server refuse to replace an object?  Known only from coopfs serve.
        self._never_replaces = False
        self._is_rclone = False

    def keep_to(self, line: Line) -> None:
        """See :meth:`Store.keep_to`."""
        self._line = self._pool.line = line

    # --- objects ----------------------------------------------------------------

    def get(self, kind: Kind, name: bytes, offset: int = 0, length: int | None = None) -> bytes:
        """See :meth:`Store.get`; one round trip."""
        path, label = self._path(kind, name), object_label(kind, name)
        if offset < 0 or (length is not None and length < 0):
            range_len(label, 0, offset, length)  # says so
        if kind is Kind.DATA:
            self._line.reading()
        return self._retrier.read(label, lambda: self._get(path, label, offset, length))

    def size(self, kind: Kind, name: bytes) -> int:
        """See :meth:`Store.size`."""
        path, label = self._path(kind, name), object_label(kind, name)
        return self._retrier.read(label, lambda: self._size(path, label))

    def put(self, kind: Kind, name: bytes, data: Payload) -> None:
        """See :meth:`Store.put`.

        A server that could replace the object is asked for it first.
        """
        path, label = self._path(kind, name), object_label(kind, name)
        upload = _Upload(self, path, label, pieces_of(data))
        self._retrier.write(label, upload.attempt)
        if upload.receipt:
            self._receive(upload.receipt, kind, name, upload.size)

    def list(self, kind: Kind) -> Iterator[ObjectInfo]:
        """See :meth:`Store.list`; the whole listing is in memory before the first is yielded."""
        label = f"{kind}/"
        misses = 0

        def list_once() -> bytes:
            nonlocal misses
            listing = self._list(kind)
            if listing is not None:
                return listing
            # A stock rest-server says 404 too when a file went away while it listed.
            misses += 1
            if misses <= _LIST_MISSES_MAX:
                raise StoreUnavailable(f"{label} at {self.address}: nothing to list there (404)")
            raise NotAStore(
                f"{self.address}: no store there: it has no {label}; a new one is made by "
                f'"coopfs init"'
            )

        yield from parse_listing(self._retrier.read(label, list_once), self.address)

    def delete(self, kind: Kind, name: bytes) -> None:
        """See :meth:`Store.delete`."""
        path, label = self._path(kind, name), object_label(kind, name)
        is_first = True

        def delete_once() -> None:
            nonlocal is_first
            # Servers differ in what they say when there is nothing to delete.
            if is_first:
                self._size(path, label)
            is_first = False
            with self._request("DELETE", path, label) as answer:
                # Gone by now, by our first try perhaps, whose answer was lost.
                if answer.status != 404:
                    self._expect(answer, label)

        self._retrier.write(label, delete_once)

    # --- config and the rest ------------------------------------------------------

    def get_config(self) -> bytes:
        """See :meth:`Store.get_config`."""
        return self._retrier.read(CONFIG, self._get_config)

    def put_config(self, data: bytes) -> None:
        """See :meth:`Store.put_config`.

        Read back: a server may write it less carefully than an object, or replace it.
        """
        self._retrier.write(CONFIG, lambda: self._put_config(data))

    def free_bytes(self) -> int | None:
        """See :meth:`Store.free_bytes`: the protocol does not tell."""
        return None

    def create(self) -> None:
        """Make a new, empty store here, or complete what an interrupted run has made of one.

        Raises:
            StoreError: there is a store already.
            NotAStore: there are objects, but no config.
        """
        with self._request("HEAD", f"{self._base}{CONFIG}", CONFIG) as answer:
            if answer.status == 200:
                raise StoreError(
                    f"{self.address}: holds a store already; choose another path, or use the "
                    f"archive in it"
                )
            if answer.status != 404:
                raise self._error(answer, CONFIG)
        for kind in KINDS:
            listing = self._list(kind)
            if listing is not None and any(True for _ in parse_listing(listing, self.address)):
                raise NotAStore(
                    f"{self.address}: has objects in {kind}/ but no config: a damaged store? "
                    f"Choose another path"
                )
        with self._request("POST", f"{self._base}?create=true", "the new store") as answer:
            self._expect(answer, "the new store")

    def close(self) -> None:
        """See :meth:`Store.close`."""
        self._line.close()
        self._retrier.close()
        self._pool.close()

    # --- within -------------------------------------------------------------------

    def _note(self, answer: Answer, label: str) -> None:
        """Learn from *answer*, about *label*, what the server is; for subclasses to extend."""
        if FEATURES_HEADER in answer.headers:
            self._never_replaces = self.is_guarded = True
        elif answer.headers.get("Server", "").startswith("rclone/"):
            self._is_rclone = True
            self.is_durable = self.is_guarded = False

    def _receive(self, receipt: str, kind: Kind, name: bytes, size: int) -> None:
        """Take what the server signed, in base64, about an object put; for subclasses to keep."""

    def _pool_for(self, method: str) -> Requests:
        """Return who makes requests of *method*; for subclasses to choose by it."""
        return self._pool

    def _request(
        self,
        method: str,
        path: str,
        label: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Payload | None = None,
    ) -> Answer:
        pool = self._pool_for(method)
        answer = pool.request(method, path, label, headers=headers, body=body)
        try:
            self._note(answer, label)
        except BaseException:
            answer.close()
            raise
        return answer

    def _path(self, kind: Kind, name: bytes) -> str:
        return f"{self._base}{kind}/{object_hex(name)}"

    def _error(self, answer: Answer, label: str) -> StoreError:
        if answer.status == 404:
            return not_found(label)
        text = answer.read_up_to(_REASON_LEN).decode(errors="replace")
        return status_error(answer.status, text, label, self.address)

    def _expect(self, answer: Answer, label: str) -> None:
        if not 200 <= answer.status < 300:
            raise self._error(answer, label)

    def _size(self, path: str, label: str) -> int:
        with self._request("HEAD", path, label) as answer:
            self._expect(answer, label)
            if answer.body_len is None:
                raise StoreError(f"{label} at {self.address}: the server does not tell its size")
            return answer.body_len

    def _get(self, path: str, label: str, offset: int, length: int | None) -> bytes:
        if length == 0 or offset + (length or 0) > _OFFSET_MAX:
            range_len(label, self._size(path, label), offset, length)  # an empty one, or none
            return b""
        headers = {}
        if length is not None:
            headers["Range"] = f"bytes={offset}-{offset + length - 1}"
        elif offset:
            headers["Range"] = f"bytes={offset}-"
        with self._request("GET", path, label, headers=headers) as answer:
            if answer.status == 206:
                return self._read_part(answer, label, offset, length)
            if answer.status == 200:
                return self._read_of_whole(answer, label, offset, length)
            if answer.status != 416:
                raise self._error(answer, label)
            total = _content_range(answer)[2]
        if total is None:
            total = self._size(path, label)
        if range_len(label, total, offset, length) == 0:
            return b""
        raise StoreError(f"{label} at {self.address}: the server refused a range that is there")

    def _read_part(self, answer: Answer, label: str, offset: int, length: int | None) -> bytes:
        first, last, total = _content_range(answer)
        if total is None:
            raise StoreError(f"{label} at {self.address}: the server does not say what it sends")
        wanted = range_len(label, total, offset, length)
        if wanted == 0:
            return b""
        if (first, last) != (offset, offset + wanted - 1):
            raise StoreError(
                f"{label} at {self.address}: expected the bytes {offset} to "
                f"{offset + wanted - 1}, the server sent {first} to {last}"
            )
        return answer.read_exactly(wanted)

    def _read_of_whole(self, answer: Answer, label: str, offset: int, length: int | None) -> bytes:
        """Return the range from an answer that is the whole object, asked for or not."""
        total = answer.body_len
        if total is None:  # sent in pieces, by a proxy perhaps
            body = answer.read_up_to(GET_LEN_MAX + 1)
            return body[offset : offset + range_len(label, len(body), offset, length)]
        wanted = range_len(label, total, offset, length)
        if wanted == total:
            return answer.read_exactly(wanted)
        range_len(label, total, 0, None)  # more than we would ever read?
        return answer.read_exactly(total)[offset : offset + wanted]

    def _list(self, kind: str) -> bytes | None:
        """Return a listing as it was sent; None where there is nothing to list."""
        label = f"{kind}/"
        headers = {"Accept": MEDIA_TYPE}
        with self._request("GET", f"{self._base}{label}", label, headers=headers) as answer:
            if answer.status == 404:
                return None
            self._expect(answer, label)
            body = answer.read_up_to(LIST_LEN_MAX + 1)
            if len(body) > LIST_LEN_MAX:
                raise NotAStore(
                    f"{label} at {self.address}: an endless listing (over {LIST_LEN_MAX} bytes)"
                )
            return body

    def _get_config(self) -> bytes:
        with self._request("GET", f"{self._base}{CONFIG}", CONFIG) as answer:
            self._expect(answer, CONFIG)
            found = answer.read_up_to(CONFIG_LEN_MAX + 1)
        if len(found) > CONFIG_LEN_MAX:
            raise ObjectCorrupt(
                f"config of {self.address}: more than {CONFIG_LEN_MAX} bytes: not written by coopfs"
            )
        return found

    def _put_config(self, data: bytes) -> None:
        denied = None
        try:
            found = self._get_config()
        except ObjectNotFound:
            with self._request("POST", f"{self._base}{CONFIG}", CONFIG, body=data) as answer:
                if answer.status in _TAKEN:
                    denied = self._error(answer, CONFIG)
                else:
                    self._expect(answer, CONFIG)
            try:
                found = self._get_config()
            except ObjectNotFound:
                raise denied or StoreError(
                    f"config of {self.address}: the server took it and has none"
                ) from None
        if found != data:
            raise StoreError(
                f"config of {self.address}: another one is there ({len(found)} bytes); it is "
                f"never replaced: choose another path for a new archive"
            )


class _Upload:
    """One put(), over all its attempts."""

    def __init__(
        self, store: RestStore, path: str, label: str, pieces: Sequence[memoryview]
    ) -> None:
        self._store = store
        self._path = path
        self._label = label
        self._pieces = pieces
        self.size = sum(map(len, pieces))
        self.receipt = ""  # what the server signed, if it did
        self._attempts = 0

    def attempt(self) -> None:
        """Send the object unless it is there."""
        store = self._store
        self._attempts += 1
        is_first = self._attempts == 1
        if not (is_first and store._never_replaces) and self._is_there():
            return
        with store._request("POST", self._path, self._label, body=self._pieces) as answer:
            if answer.status not in _TAKEN:
                store._expect(answer, self._label)
                self.receipt = answer.headers.get(RECEIPT_HEADER, "")
                return
            denied = store._error(answer, self._label)
        # That is how servers say that the name is taken, and how they say no.
        if not self._is_there():
            raise denied

    def _is_there(self) -> bool:
        """Tell whether the object is there (ObjectCorrupt: it has another size)."""
        store = self._store
        try:
            found = store._size(self._path, self._label)
        except ObjectNotFound:
            return False
        if found == self.size:
            return True
        if store._is_rclone and found < self.size and self._is_cut_off(found):
            return False
        raise size_conflict(self._label, found, self.size)

    def _is_cut_off(self, found: int) -> bool:
        """Tell whether the *found* bytes there are the beginning of ours.

        On remotes that are file systems rclone writes under the final name: when it dies
        in the middle it leaves a piece there, which is no object and may be replaced.
        """
        try:
            beginning = self._store._get(self._path, self._label, 0, found)
        except (ObjectCorrupt, ObjectNotFound) as exc:
            raise StoreUnavailable(
                f"{self._label}: somebody else is putting or deleting it just now"
            ) from exc
        position = 0
        for piece in self._pieces:
            part = beginning[position : position + len(piece)]
            if piece[: len(part)] != part:
                return False
            position += len(piece)
        return True


def _content_range(answer: Answer) -> tuple[int | None, int | None, int | None]:
    """Return first and last byte and the object's size, as far as the answer says.

    The size counts even where the rest is nonsense: rclone sends "bytes 9--1/0".
    """
    found = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if not found:
        return None, None, None
    total = int(found[2])
    ends = _FIRST_LAST.fullmatch(found[1])
    return (int(ends[1]), int(ends[2]), total) if ends else (None, None, total)


# --- for store/open.py ---------------------------------------------------------------


def open_rest(address: str) -> RestStore:
    """Open the store at *address*, without connecting (UsageError, ConfigError)."""
    parsed, patience = parse_address(address), Patience.from_environment()
    return RestStore(parsed.shown, parsed.connections(patience), parsed.path, patience)


def create_rest(address: str) -> RestStore:
    """Make a new store at *address*; see ``create_store`` for the errors."""
    return created(open_rest(address))
