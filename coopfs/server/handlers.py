"""What each request of the REST protocol does with a partner's objects, by who asks.

Generators for worker threads, see :mod:`coopfs.server.exchange`.  Owns the table of who
may do what: a writer puts, gets and lists, and deletes its own locks (restic's); an
admin deletes, too.  Nobody overwrites.
"""

from __future__ import annotations

import base64
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Final

from coopfs.errors import (
    CoopfsError,
    ObjectCorrupt,
    ObjectNotFound,
    StateBusy,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
    UsageError,
)
from coopfs.format.receipt import sign_receipt
from coopfs.objects import CONFIG, KINDS
from coopfs.server import beyond
from coopfs.server.depot import LOCKS, Depot
from coopfs.server.exchange import Exchange, Handler, Steps
from coopfs.server.protocol import (
    LISTING_V1,
    LISTING_V2,
    OCTETS,
    Refused,
    Target,
    body_len_max,
    parse_range,
)
from coopfs.server.visitors import Role, Visitor
from coopfs.server.wire import ConnectionLost

log = logging.getLogger("coopfs.serve")

RECEIPT_HEADER: Final = "X-Coopfs-Receipt"  # base64 of the receipt; coopfs-format(5)
LEFT_HEADER: Final = "X-Coopfs-Left"  # bytes that may still be put
_LISTING_PIECE: Final = 64 << 10  # characters of a listing sent at once


def find_handler(exchange: Exchange, target: Target, visitor: Visitor) -> Handler:
    """Return what carries out the request.

    Raises:
        Refused: nothing does, or not for this visitor.
    """
    method = exchange.head.method
    if exchange.body_len > body_len_max(target):
        raise Refused(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"a body of {exchange.body_len} bytes; expected {body_len_max(target)} at most",
        )
    if target.kind is None:
        return _find_for_whole(method, target, visitor)
    if target.kind == CONFIG:
        methods = _CONFIG_METHODS
    else:
        methods = _OBJECT_METHODS if target.name else _LISTING_METHODS
    if method not in methods:
        raise _not_allowed(method, methods)
    if method == "DELETE" and visitor.role is not Role.ADMIN and target.kind in _ADMIN_DELETES:
        raise _only_admin("delete objects")
    handler = methods[method]
    return lambda exchange: handler(exchange, target, visitor)


def carry_out(exchange: Exchange, target: Target, visitor: Visitor) -> Steps:
    """Answer one request, whatever comes of it.

    Raises:
        ConnectionLost: the client went, or an answer that was begun cannot be finished.
    """
    try:
        yield from find_handler(exchange, target, visitor)(exchange)
        return
    except Refused as exc:
        refused = exc
    except CoopfsError as exc:
        refused = refusal_of(exc, visitor)
    if exchange.status is not None:
        log.error("%s: %s: the answer was cut short: %s", visitor.desk.name, target, refused.text)
        raise ConnectionLost(f"the answer was cut short: {refused.text}") from refused
    yield from exchange.refuse(refused)


def _find_for_whole(method: str, target: Target, visitor: Visitor) -> Handler:
    """Return what handles a request for the archive as a whole."""
    match method, target.query:
        case "POST", "create=true":
            return _create
        case "DELETE", "":
            if visitor.role is not Role.ADMIN:
                raise _only_admin("delete an archive")
            raise Refused(
                HTTPStatus.NOT_IMPLEMENTED,
                "an archive is not deleted at once; delete its objects, or ask the partner",
            )
        case _, query if query.startswith("coopfs="):
            return beyond.find_handler(method, query.removeprefix("coopfs="), visitor)
        case "GET" | "HEAD" | "POST", _:
            raise Refused(HTTPStatus.BAD_REQUEST, "expected config, a kind of object, or a query")
    raise _not_allowed(method, ("POST", "DELETE"))


def _only_admin(what: str) -> Refused:
    return Refused(
        HTTPStatus.FORBIDDEN, f"this key may not {what}: that takes the archive's admin key"
    )


def _not_allowed(method: str, methods: Iterable[str]) -> Refused:
    allowed = ", ".join(methods)
    return Refused(
        HTTPStatus.METHOD_NOT_ALLOWED, f"{method}: here only {allowed}", (("Allow", allowed),)
    )


# --- REST ---------------------------------------------------------------------


def _create(exchange: Exchange) -> Steps:
    # The depot made its folders when the partner came to be.
    yield from exchange.answer(HTTPStatus.OK)


def _get_config(exchange: Exchange, target: Target, visitor: Visitor) -> Steps:
    config = visitor.desk.depot.get_config()
    yield from exchange.answer(HTTPStatus.OK, config, content_type=OCTETS)


def _put_config(exchange: Exchange, target: Target, visitor: Visitor) -> Steps:
    yield from exchange.let_client_go_on()
    config = yield from exchange.receive_whole()
    try:
        visitor.desk.depot.put_config(config)
    except StoreError as exc:
        if type(exc) is StoreError and visitor.desk.depot.get_config() != config:
            raise Refused(HTTPStatus.CONFLICT, str(exc)) from exc
        raise
    yield from exchange.answer(HTTPStatus.OK)


def _list(exchange: Exchange, target: Target, visitor: Visitor) -> Steps:
    accepts_v2 = LISTING_V2 in exchange.head.headers.get("accept", "")
    pieces = _listing(visitor.desk.depot, target.kind or "", with_sizes=accepts_v2)
    # The first piece before the head: what is wrong with the disk shows as such.
    first = next(pieces)

    def all_pieces() -> Iterator[bytes]:
        yield first
        yield from pieces

    kind = LISTING_V2 if accepts_v2 else LISTING_V1
    yield from exchange.answer_pieces(all_pieces(), kind)


def _listing(depot: Depot, kind: str, *, with_sizes: bool) -> Iterator[bytes]:
    """Yield a listing's JSON; never the whole of it: there may be a million objects."""
    text, comma = ["["], ""
    length = 0
    for name, size in depot.list(kind):
        entry = f'{comma}{{"name":"{name}","size":{size}}}' if with_sizes else f'{comma}"{name}"'
        text.append(entry)
        comma = ","
        length += len(entry)
        if length >= _LISTING_PIECE:
            yield "".join(text).encode()
            text, length = [], 0
    text.append("]")
    yield "".join(text).encode()


def _head(exchange: Exchange, target: Target, visitor: Visitor) -> Steps:
    size = visitor.desk.depot.size(target.kind or "", target.name or "")
    yield from exchange.answer_length(size)


def _get(exchange: Exchange, target: Target, visitor: Visitor) -> Steps:
    fd, size = visitor.desk.depot.open_object(target.kind or "", target.name or "")
    try:
        part = parse_range(exchange.head.headers.get("range"), size)
        with visitor.desk.restoring():
            yield from exchange.answer_file(fd, size, part, visitor.desk.send_buckets)
    finally:
        os.close(fd)


def _put(exchange: Exchange, target: Target, visitor: Visitor) -> Steps:
    kind, name = target.kind or "", target.name or ""
    is_admin = visitor.role is Role.ADMIN
    if (until := visitor.desk.settings.keeps_until) and kind != LOCKS:
        raise Refused(
            HTTPStatus.FORBIDDEN,
            f"this partner leaves and takes nothing new; what is here stays until {until}",
        )
    try:
        upload = visitor.desk.depot.begin_put(kind, name, exchange.body_len, is_admin=is_admin)
    except ObjectCorrupt as exc:
        raise Refused(HTTPStatus.CONFLICT, str(exc)) from exc
    with upload, _owned(visitor, kind, name):
        yield from exchange.let_client_go_on()
        while exchange.body_left:
            # Decrypted to where it is hashed and written from.
            upload.took((yield from exchange.receive(upload.room(), visitor.desk.receive_buckets)))
        try:
            receipt = upload.finish()
        except ObjectCorrupt as exc:
            raise Refused(HTTPStatus.BAD_REQUEST, str(exc)) from exc
    signed = sign_receipt(receipt, visitor.signer)
    headers = [(RECEIPT_HEADER, base64.b64encode(signed).decode())]
    yield from exchange.answer(HTTPStatus.OK, headers=headers)


@contextmanager
def _owned(visitor: Visitor, kind: str, name: str) -> Iterator[None]:
    """Note whose a lock is before it can be seen, and nothing of one that never comes.

    What is noted is in no quota, and a client may begin as many as it likes.
    """
    is_new = kind == LOCKS and visitor.desk.locks.remember(name, visitor.pin)
    try:
        yield
    except BaseException:
        if is_new:
            try:
                visitor.desk.depot.size(kind, name)
            except ObjectNotFound:
                visitor.desk.locks.forget(name)
        raise


def _delete(exchange: Exchange, target: Target, visitor: Visitor) -> Steps:
    kind, name = target.kind or "", target.name or ""
    if kind == LOCKS:
        visitor.desk.depot.size(kind, name)  # what is not there is not somebody else's
        is_own = visitor.desk.locks.owner_of(name) == visitor.pin
        if not is_own and visitor.role is not Role.ADMIN:
            raise _only_admin("delete locks of others")
    visitor.desk.depot.delete(kind, name)
    if kind == LOCKS:
        visitor.desk.locks.forget(name)
    yield from exchange.answer(HTTPStatus.OK)


def _keep_config(exchange: Exchange, target: Target, visitor: Visitor) -> Steps:
    refused = Refused(HTTPStatus.FORBIDDEN, "the config is never deleted and never replaced")
    yield from exchange.refuse(refused)


_CONFIG_METHODS: Final = {
    "GET": _get_config,
    "HEAD": _get_config,
    "POST": _put_config,
    "DELETE": _keep_config,
}
_LISTING_METHODS: Final = {"GET": _list}
_OBJECT_METHODS: Final = {"GET": _get, "HEAD": _head, "POST": _put, "DELETE": _delete}
_ADMIN_DELETES: Final = frozenset(KINDS) - {LOCKS}


# --- errors -------------------------------------------------------------------


def refusal_of(exc: CoopfsError, visitor: Visitor) -> Refused:
    """Return the answer that says what went wrong, in words that are the visitor's business."""
    text = str(exc)
    match exc:
        case StoreFull():
            left = visitor.desk.depot.usage().left
            return Refused(HTTPStatus.INSUFFICIENT_STORAGE, text, ((LEFT_HEADER, str(left)),))
        case ObjectNotFound():
            return Refused(HTTPStatus.NOT_FOUND, text)
        case StoreDenied():
            return Refused(HTTPStatus.FORBIDDEN, text)
        case ObjectCorrupt() | StateBusy():
            return Refused(HTTPStatus.CONFLICT, text)
        case StoreUnavailable():
            return Refused(HTTPStatus.SERVICE_UNAVAILABLE, text)
        case UsageError():
            return Refused(HTTPStatus.BAD_REQUEST, text)
    return Refused(HTTPStatus.INTERNAL_SERVER_ERROR, text)
