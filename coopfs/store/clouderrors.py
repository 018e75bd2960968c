"""What obstore's exceptions mean to coopfs: the one translation table for object stores.

obstore says the service's answer in its message only: the HTTP status, the body with
the service's own code, and a dump of the Rust error.  What a service wrote is shown
shortened and printable; request addresses, which may hold signatures, are not shown.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final

from coopfs.errors import (
    CoopfsError,
    NotAStore,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreIdentity,
    StoreUnavailable,
)
from coopfs.store.base import not_found

_STATUS = re.compile(r"status code: (\d{3})\b")
_CODE = re.compile(r"<Code>([^<]{1,80})</Code>")
_MESSAGE = re.compile(r"<Message>([^<]{1,300})")
_DUMP: Final = "\n\nDebug source:"
_SAID_MAX: Final = 200  # characters of what the service wrote

_NO_BUCKET: Final = frozenset({"NoSuchBucket", "ContainerNotFound"})
_FULL: Final = frozenset(
    # Ceph; MinIO; Wasabi and others; Azure.
    (
        *("QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded"),
        *("StorageQuotaExceeded", "InsufficientCapacity", "AccountLimitExceeded"),
    )
)
_CLOCK: Final = frozenset({"RequestTimeTooSkewed", "RequestExpired"})
_CREDENTIALS: Final = frozenset(
    (
        *("SignatureDoesNotMatch", "InvalidAccessKeyId", "InvalidToken", "ExpiredToken"),
        *("TokenRefreshRequired", "AuthenticationFailed", "InvalidAuthenticationInfo"),
    )
)
_REGION: Final = frozenset({"AuthorizationHeaderMalformed", "PermanentRedirect"})
# 409 while two clients put one name: worth another try, as is being told to slow down.
_BUSY: Final = frozenset(
    (
        *("SlowDown", "RequestTimeout", "ServerBusy", "OperationAborted", "Throttling"),
        *("ConditionalRequestConflict", "TooManyRequests", "RequestLimitExceeded"),
    )
)
_BUSY_STATUS: Final = frozenset({408, 425, 429})
# In the dump, from hyper and rustls.
_OTHER_PROTOCOL: Final = ("Parse(", "UnexpectedMessage", "InvalidMessage", "InvalidContentType")
# What only the metadata service of a virtual machine is asked for.
_METADATA: Final = ("/latest/api/token", "/metadata/identity", "computeMetadata")


def status_of(exc: BaseException) -> int | None:
    """Return the HTTP status the service answered with, or None."""
    found = _STATUS.search(_head(exc))
    return int(found[1]) if found else None


def translated(exc: Exception, label: str, address: str) -> CoopfsError:
    """Return the error of coopfs that says what *exc*, raised by obstore, means.

    *label* is the object, *address* the store as the user wrote it.
    """
    status, code = status_of(exc), _code_of(exc)
    what = f"{label} in {address}"
    if code in _NO_BUCKET:
        return NotAStore(
            f"{address}: there is no such bucket; check its name and the endpoint; coopfs makes "
            f"no buckets: make it with the service's own tools"
        )
    if isinstance(exc, FileNotFoundError):
        return not_found(label)
    if any(part in _head(exc) for part in _METADATA):
        return StoreDenied(
            f"{what}: no credentials: neither the environment nor this machine's metadata "
            f"service has any; set them as coopfs-cloud(7) says"
        )
    said = _said(exc, status, code)
    if code in _FULL or status == HTTPStatus.INSUFFICIENT_STORAGE:
        return StoreFull(f"{what}: no room left: {said}")
    if code in _CLOCK:
        return StoreDenied(
            f"{what}: this host's clock differs from the service's too much: {said}; "
            f"set the clock right"
        )
    if code in _REGION or status in (301, 307, 308):
        return StoreError(
            f"{what}: the bucket is in another region or at another endpoint: {said}; "
            f"name it with ?region= or ?endpoint="
        )
    if code in _BUSY or status in _BUSY_STATUS:
        return StoreUnavailable(f"{what}: the service asks for a pause: {said}")
    if status in (401, 403):
        if code in _CREDENTIALS or status == HTTPStatus.UNAUTHORIZED:
            return StoreDenied(f"{what}: the service does not accept the credentials: {said}")
        return StoreDenied(f"{what}: the service does not allow it: {said}")
    if status == HTTPStatus.NOT_IMPLEMENTED:
        return StoreError(f"{what}: the service cannot do it: {said}")
    if status is not None and status >= 500:
        return StoreUnavailable(f"{what}: the service failed: {said}")
    if status is not None:
        return StoreError(f"{what}: the service refused: {said}")
    return _without_answer(exc, what)


def _without_answer(exc: Exception, what: str) -> StoreError:
    """Return the error for a request that got no answer of HTTP; the dump says why."""
    text = str(exc)
    if "InvalidCertificate(" in text or "invalid peer certificate" in text:
        reason = re.search(r"InvalidCertificate\(\s*(?:Other\(\s*OtherError\(\s*)?(\w+)", text)
        return StoreIdentity(
            f"{what}: not the machine that was expected, nothing was sent: its certificate is not "
            f"valid here ({reason[1] if reason else 'unknown reason'}); a private authority's is "
            f"named with ?ca=FILE"
        )
    for marks, meaning in (
        (("dns error",), "the name of the endpoint's host is not known"),
        (("ConnectionRefused",), "the endpoint refuses connections: nobody listens there"),
        (("HostUnreachable", "NetworkUnreachable", "unreachable"), "no route to the endpoint"),
        (("TimedOut", "kind: Timeout"), "the endpoint did not answer in time"),
        (("ConnectionReset", "IncompleteMessage", "BrokenPipe"), "the connection was cut"),
    ):
        if any(mark in text for mark in marks):
            return StoreUnavailable(f"{what}: {meaning}")
    if any(mark in text for mark in _OTHER_PROTOCOL):
        return StoreError(
            f"{what}: what answers at the endpoint speaks another protocol; "
            f"is it https:// where http:// is expected, or the other way round?"
        )
    if "Encountered object with invalid path" in text:
        return StoreError(
            f"{what}: somebody put an object there whose key stops every listing: "
            f"{_shown(_head(exc))}; remove it with the service's own tools"
        )
    if "HTTP error" in text:
        return StoreUnavailable(f"{what}: the connection failed")
    return StoreError(f"{what}: {_shown(_head(exc))}")


def _head(exc: BaseException) -> str:
    return str(exc).partition(_DUMP)[0]


def _code_of(exc: BaseException) -> str | None:
    head = _head(exc)
    if found := _CODE.search(head):
        return found[1]
    # Google's JSON interface says it in words.
    return "NoSuchBucket" if "The specified bucket does not exist" in head else None


def _said(exc: BaseException, status: int | None, code: str | None) -> str:
    message = _MESSAGE.search(_head(exc))
    said = [code or "", message[1] if message else ""]
    if status is not None:
        said.insert(0, f"HTTP {status}")
    return _shown(" ".join(filter(None, said)))


def _shown(text: str) -> str:
    """Return *text* fit for a message: one line, printable, not long, no addresses."""
    text = re.sub(r"https?://\S+", "(address)", " ".join(text.split()))
    shown = "".join(char if char.isprintable() else "?" for char in text)
    return shown if len(shown) <= _SAID_MAX else f"{shown[:_SAID_MAX]}…"
