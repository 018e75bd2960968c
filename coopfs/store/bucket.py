"""One bucket of an object store, through obstore: the one edge to that library.

Keys are relative to the store's prefix.  Only obstore's own short retries happen here;
everything raised is an error of coopfs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotSupportedError,
    PreconditionError,
)
from obstore.store import AzureStore, GCSStore, S3Store

from coopfs.errors import ObjectCorrupt, ObjectNotFound, StoreDenied, UsageError
from coopfs.store.cloudaddress import AZ, GS, CloudAddress
from coopfs.store.clouderrors import status_of, translated
from coopfs.store.line import FREE_LINE, Pace

if TYPE_CHECKING:
    from obstore import GetResult, ObjectMeta, PutMode
    from obstore.store import BackoffConfig, ClientConfig, ObjectStore, RetryConfig, S3Config

CONNECT_TIMEOUT_S: Final = 10.0
# Between two pieces of an answer, and from the last byte sent to its first.  obstore counts
# it from the beginning of a request, uploads included, so there it is left out.
READ_TIMEOUT_S: Final = 60.0
# obstore repeats what a second or two may mend; for more there is store/retry.py, which
# makes a new request (obstore repeats the old one, with its old signature and clock).
_RETRIES: Final = 3
_RETRY_S: Final = 20.0
_BACKOFF_FIRST_S: Final = 0.1
_BACKOFF_MAX_S: Final = 2.0
PAGE_LEN: Final = 1000  # keys a request for a listing brings, at most, with every service


@dataclass(frozen=True, slots=True)
class Entry:
    """One object as a listing shows it."""

    key: str
    size: int  # bytes


class Unconditional(Exception):
    """An answer, caught in cloud.py: the service knows no If-None-Match; nothing was put."""


class Bucket:
    """The bucket at an address; methods may be called from any thread."""

    def __init__(self, address: CloudAddress, retry_s: float = _RETRY_S) -> None:
        """Connect nothing yet.  obstore's own retries end after *retry_s* seconds.

        Raises:
            UsageError: what the environment or the address says makes no client.
        """
        self._address = address.text
        self.line = FREE_LINE  # at whose pace objects are received
        self._reads = _client(address, retry_s, read_timeout_s=READ_TIMEOUT_S)
        self._writes = _client(address, retry_s, read_timeout_s=None)

    def size(self, key: str, label: str) -> int:
        """Return the object's size in bytes.

        Raises:
            ObjectNotFound: no such object.
            NotAStore: no such bucket.
        """
        try:
            with self._translated(label):
                return obstore.head(self._reads, key)["size"]
        except (ObjectNotFound, StoreDenied):
            # An answer to HEAD has no body, so it does not say whether the object or the
            # whole bucket is missing, the credentials are wrong or allow too little; the
            # answer to a GET does.
            with self._translated(label):
                return obstore.get(self._reads, key, options={"range": (0, 1)}).meta["size"]

    def get(self, key: str, label: str, size_max: int) -> tuple[bytes, int]:
        """Return the object and its size in bytes; of one larger than *size_max* nothing.

        Raises:
            ObjectNotFound, NotAStore: as :meth:`size`.
            ObjectCorrupt: more came than the size said.
        """
        with self._translated(label):
            answer = obstore.get(self._reads, key)
            size = answer.meta["size"]
            if size > size_max:
                return b"", size
            return _body(answer, size, label, self.line.down), size

    def get_range(
        self, key: str, label: str, start: int, length: int | None
    ) -> tuple[bytes, int] | None:
        """Return what the object has of the range, and its whole size; None: nothing of it.

        *length* is at least 1 byte; None: up to the end.

        Raises:
            ObjectNotFound, NotAStore: as :meth:`size`.
        """
        with self._translated(label):
            try:
                if length is None:
                    answer = obstore.get(self._reads, key, options={"range": {"offset": start}})
                else:
                    end = start + length
                    answer = obstore.get(self._reads, key, options={"range": (start, end)})
            except BaseError as exc:
                # Not every service says 416 to a range that begins where the object ends.
                if status_of(exc) == 416 or "Wanted range starting at" in str(exc):
                    return None
                raise
            start, end = answer.range
            if length is not None and end - start > length:
                raise _too_much(label, length)
            return _body(answer, end - start, label, self.line.down), answer.meta["size"]

    def put(
        self, key: str, label: str, pieces: Sequence[memoryview], *, is_conditional: bool
    ) -> bool:
        """Store the pieces as one object; return False if the name was taken.

        Without *is_conditional* what is there is replaced.

        Raises:
            Unconditional: the service cannot put conditionally.
            StoreFull: no room.
        """
        # In one request: only that is atomic and conditional with every service, and no
        # parts stay behind (and are paid for) when it is cut off.
        mode: PutMode = "create" if is_conditional else "overwrite"
        data = pieces[0] if len(pieces) == 1 else pieces
        with self._translated(label):
            try:
                obstore.put(self._writes, key, data, mode=mode, use_multipart=False)
            except (AlreadyExistsError, PreconditionError):
                return False
            except BaseError as exc:
                if is_conditional and _is_about_the_condition(exc):
                    raise Unconditional from exc
                raise
            return True

    def delete(self, key: str, label: str) -> None:
        """Delete the object, if it is there."""
        with self._translated(label):
            try:
                obstore.delete(self._writes, key)
            except FileNotFoundError as exc:  # only some services tell
                if not isinstance(translated(exc, label, self._address), ObjectNotFound):
                    raise

    def pages(self, prefix: str | None, label: str, after: str | None) -> Iterator[list[Entry]]:
        """Yield the objects below the folder *prefix*, whose keys follow *after*, in pages."""
        with self._translated(label):
            pages = obstore.list(self._reads, prefix, offset=after, chunk_size=PAGE_LEN)
        while True:
            page: Sequence[ObjectMeta] | None
            with self._translated(label):
                page = next(pages, None)
            if page is None:
                return
            yield [Entry(found["path"], found["size"]) for found in page]

    @contextmanager
    def _translated(self, label: str) -> Iterator[None]:
        try:
            yield
        except (BaseError, FileNotFoundError, ValueError) as exc:
            raise translated(exc, label, self._address) from exc


def _body(answer: GetResult, length: int, label: str, pace: Pace) -> bytes:
    """Return what came, at most *length* bytes: a hostile service may send without an end."""
    parts: list[bytes] = []
    left = length
    piece_len = pace.piece_len(length)
    for part in answer.stream(min_chunk_size=length + 1 if piece_len == length else piece_len):
        parts.append(part)
        left -= len(part)
        pace.passed(len(part))
        if left < 0:
            raise _too_much(label, length)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_much(label: str, length: int) -> ObjectCorrupt:
    return ObjectCorrupt(f"{label}: the service sends more than the {length} bytes asked for")


def _is_about_the_condition(exc: BaseError) -> bool:
    """Tell whether a put was refused for its If-None-Match.

    Most services that do not know it say 501; Backblaze's says 400 and names the header.
    """
    status = status_of(exc)
    return (
        isinstance(exc, NotSupportedError)
        or status == 501
        or (status == 400 and "none-match" in str(exc).lower())
    )


def _client(address: CloudAddress, retry_s: float, *, read_timeout_s: float | None) -> ObjectStore:
    """Return obstore's client for the bucket; it connects when it is first used."""
    options: ClientConfig = {
        "allow_http": address.is_plain_http,
        "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
        "timeout": timedelta(seconds=address.timeout_s),
        "user_agent": "coopfs",
    }
    if read_timeout_s is not None:
        options["read_timeout"] = timedelta(seconds=min(read_timeout_s, address.timeout_s))
    if address.ca_file is not None:
        options["root_certificate"] = _read_certificates(address.ca_file)
    backoff: BackoffConfig = {
        "init_backoff": timedelta(seconds=_BACKOFF_FIRST_S),
        "max_backoff": timedelta(seconds=_BACKOFF_MAX_S),
    }
    retries: RetryConfig = {
        "max_retries": _RETRIES if retry_s > 0 else 0,
        "retry_timeout": timedelta(seconds=min(retry_s, _RETRY_S)),
        "backoff": backoff,
    }
    prefix, endpoint = address.prefix or None, address.endpoint
    try:
        if address.scheme == GS:
            return GCSStore(
                address.bucket,
                prefix=prefix,
                config={"base_url": endpoint} if endpoint else None,
                client_options=options,
                retry_config=retries,
            )
        if address.scheme == AZ:
            return AzureStore(
                address.bucket,
                prefix=prefix,
                config={"endpoint": endpoint} if endpoint else None,
                client_options=options,
                retry_config=retries,
            )
        return S3Store(
            address.bucket,
            prefix=prefix,
            config=_s3_config(address),
            client_options=options,
            retry_config=retries,
        )
    except (BaseError, ValueError, OSError) as exc:
        reason = str(exc).partition("\n")[0]
        raise UsageError(
            f"{address.text}: cannot be used as the environment is set: {reason}; "
            f"the variables are listed in coopfs-cloud(7)"
        ) from exc


def _s3_config(address: CloudAddress) -> S3Config:
    # One DELETE for one object: not every service knows the request for many at once.
    config: S3Config = {"disable_bulk_delete": True}
    if address.endpoint is not None:
        config["endpoint"] = address.endpoint
    if address.region is not None:
        config["region"] = address.region
    if address.is_virtual_host:
        config["virtual_hosted_style_request"] = True
    return config


def _read_certificates(path: str) -> bytes:
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except OSError as exc:
        raise UsageError(
            f"{path}: the certificates named by the option ca cannot be read: {exc.strerror}"
        ) from exc
