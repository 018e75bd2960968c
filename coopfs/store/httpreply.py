"""An HTTP answer: its head, read without the email package, and its body.

http.client and urllib3 take an answer's headers for a mail's, which costs a client that
reads 16 KiB over loopback a third of its CPU time (2 cores, Python 3.11).  RFC 9112,
sections 4 and 5.
"""

from __future__ import annotations

import http.client
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self

from urllib3.exceptions import HTTPError

from coopfs.errors import StoreError
from coopfs.store.httperrors import transport_error
from coopfs.store.line import FREE_LINE, Pace

DRAIN_MAX: Final = 64 << 10  # bytes; more of an unwanted answer costs more than a new connection
_LINE_LEN_MAX: Final = 64 << 10  # bytes; these two as in http.client
_HEADERS_MAX: Final = 100
_CONTINUES_MAX: Final = 10  # heads; one is usual


class Headers(http.client.HTTPMessage):
    """What http.client and urllib3 ask a message for: it has no body and no defects."""

    def __init__(self, items: list[tuple[str, str]]) -> None:
        super().__init__()
        self._items = items
        self._values = {name.lower(): value for name, value in reversed(items)}

    def get(self, name: str, failobj: Any = None) -> Any:
        """Return the first value of the header *name*."""
        return self._values.get(name.lower(), failobj)

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._values

    def items(self) -> list[tuple[str, str]]:
        """Return all headers in order."""
        return self._items

    def is_multipart(self) -> bool:
        """Say yes, so that no body of a mail is asked for."""
        return True


class Reply(http.client.HTTPResponse):
    """An answer whose head is read as lines; its body is http.client's business."""

    # What typeshed keeps to itself.
    code: int
    _method: str | None
    _close_conn: Any
    _check_close: Any
    _read_status: Any

    def begin(self) -> None:
        """Read the head, past any "100 Continue".

        Raises:
            http.client.IncompleteRead: it was cut off.
            http.client.HTTPException: it is no HTTP.
        """
        for _ in range(_CONTINUES_MAX):
            version, status, reason = self._read_status()
            if status != http.HTTPStatus.CONTINUE:
                break
            self._read_headers()
        else:  # as much would be an answer that neither comes nor times out
            raise http.client.HTTPException('nothing but "100 Continue"')
        self.code = self.status = status
        self.reason = reason.strip()
        if not version.startswith("HTTP/1."):
            raise http.client.UnknownProtocol(version)
        self.version = 10 if version == "HTTP/1.0" else 11
        self.headers = self.msg = headers = self._read_headers()
        self.chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        self.chunk_left = None
        length = headers.get("content-length", "")
        self.length = int(length) if length.isdecimal() and length.isascii() else None
        if self.chunked:
            self.length = None
        has_no_body = status in (http.HTTPStatus.NO_CONTENT, http.HTTPStatus.NOT_MODIFIED)
        if has_no_body or self._method == "HEAD":
            self.length = 0
        # Where nothing says how long the body is, the end of the connection does.
        is_open_ended = not self.chunked and self.length is None
        self.will_close = self._check_close() or is_open_ended

    def _read_headers(self) -> Headers:
        items: list[tuple[str, str]] = []
        while (line := self.fp.readline(_LINE_LEN_MAX + 1)) not in (b"\r\n", b"\n"):
            if not line.endswith(b"\n"):
                if len(line) > _LINE_LEN_MAX:
                    raise http.client.LineTooLong("header line")
                raise http.client.IncompleteRead(line)
            name, colon, value = line.decode("latin-1").partition(":")
            if not colon or name != name.strip() or not name or len(items) >= _HEADERS_MAX:
                raise http.client.HTTPException("no header line, or too many of them")
            items.append((name, value.strip()))
        return Headers(items)


# What urllib3, http.client and the socket raise; TLS errors are OSErrors.
FOREIGN: Final = (HTTPError, http.client.HTTPException, OSError)


class Answer:
    """What the server said; its body may be read once, before it is closed."""

    def __init__(
        self,
        reply: Reply,
        label: str,
        where: str,
        give_back: Callable[[bool], object],
        pace: Pace = FREE_LINE.down,
    ) -> None:
        """*give_back* takes the connection, and whether it is good for another request."""
        self.status = reply.status
        self.headers = reply.headers
        self._reply = reply
        self._label = label
        self._where = where
        self._give_back: Callable[[bool], object] | None = give_back
        self._pace = pace

    @property
    def body_len(self) -> int | None:
        """The length of the body in bytes if the server told it."""
        if self._reply.chunked:  # then what else is said of it does not count
            return None
        text = self.headers.get("Content-Length", "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None

    def read_exactly(self, length: int) -> bytes:
        """Return the whole body, which the caller knows to have *length* bytes.

        Raises:
            StoreUnavailable: it was cut off.
            StoreError: the server announced, or sent, another length.
        """
        if self.body_len is None:  # sent in pieces, by a proxy perhaps
            found = self.read_up_to(length + 1)
        elif self.body_len == length:
            if self._pace.piece_len(length) < length:
                found = self.read_up_to(length)
            else:
                found = self._read_at_once()
        else:
            raise self._another_length(length, self.body_len)
        if len(found) != length:
            raise self._another_length(length, len(found))
        return found

    def _read_at_once(self) -> bytes:
        try:
            found = self._reply.read()  # without a copy
        except FOREIGN as exc:
            raise self._broken(exc) from exc
        self._pace.passed(len(found))
        return found

    def _broken(self, exc: BaseException) -> StoreError:
        self._reply.will_close = True
        self._reply.close()
        return transport_error(exc, self._label, self._where)

    def _another_length(self, expected: int, found: int) -> StoreError:
        return StoreError(
            f"{self._label} at {self._where}: expected an answer of {expected} bytes, "
            f"the server sent {found}"
        )

    def read_up_to(self, limit: int) -> bytes:
        """Return the body, or its first *limit* bytes if it is longer (StoreUnavailable)."""
        parts: list[bytes] = []
        left = limit
        try:
            while left > 0 and (part := self._reply.read(self._pace.piece_len(left))):
                parts.append(part)
                left -= len(part)
                self._pace.passed(len(part))
            if left > 0 and self._reply.length:
                raise http.client.IncompleteRead(b"", self._reply.length)
        except FOREIGN as exc:
            raise self._broken(exc) from exc
        return b"".join(parts)

    def close(self) -> None:
        """Give the connection back, or close it when too much of the answer is left."""
        give_back, self._give_back = self._give_back, None
        if give_back is None:
            return
        reply = self._reply
        with suppress(*FOREIGN):
            if not reply.isclosed() and (reply.length or DRAIN_MAX) <= DRAIN_MAX:
                reply.read(DRAIN_MAX)
        is_good = reply.isclosed() and not reply.will_close
        reply.close()
        give_back(is_good)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
