"""What went wrong on the way to a server, or what its status says, in coopfs's errors."""

from __future__ import annotations

import errno
import http.client
import socket
import ssl
from typing import Final

from urllib3 import exceptions

from coopfs.errors import (
    NotAStore,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreIdentity,
    StoreUnavailable,
)

_REASONS: Final = {
    errno.ECONNREFUSED: "the connection was refused; is the server running there?",
    errno.EHOSTUNREACH: "no route to the host; is it switched on, is the line up?",
    errno.ENETUNREACH: "no route to its network; is the line up?",
    errno.ENOENT: "there is no such socket; is the server running?",
    errno.ECONNRESET: "the connection was reset",
}
# What a server's alert says when it does not like the certificate we have shown, or that
# we have shown none (RFC 8446, section 6.2).
_ALERTS_DENIED: Final = (
    *("CERTIFICATE_REQUIRED", "UNKNOWN_CA", "BAD_CERTIFICATE", "CERTIFICATE_UNKNOWN"),
    *("ACCESS_DENIED", "CERTIFICATE_REVOKED", "CERTIFICATE_EXPIRED", "UNSUPPORTED_CERTIFICATE"),
)
_NOT_TLS: Final = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG")
_TEXT_MAX: Final = 200  # characters of a server's own words that a message repeats


def transport_error(exc: BaseException, label: str, where: str) -> StoreError:
    """Return what *exc*, raised by urllib3 or below it, means for whoever uses the store."""
    chain = _chain(exc)
    at = f"{label} at {where}"
    for link in chain:
        if isinstance(link, ssl.SSLCertVerificationError):
            return _stranger(at, link.verify_message)
        if isinstance(link, ssl.CertificateError):
            return _stranger(at, str(link))
    for link in chain:
        if isinstance(link, exceptions.SSLError) and "Fingerprints did not match" in str(link):
            return _stranger(at, "its certificate has another fingerprint than the pinned one")
        if isinstance(link, ssl.SSLError):
            return _tls_error(link, at)
    for link in chain:
        if isinstance(link, exceptions.ClosedPoolError):
            return StoreUnavailable(f"{at}: the store has been closed")
        if isinstance(link, socket.gaierror):
            return StoreUnavailable(
                f"{at}: the name of the host cannot be looked up ({link.strerror})"
            )
        # (urllib3 derives every other failure to connect from this one.)
        if type(link) is exceptions.ConnectTimeoutError:
            return StoreUnavailable(f"{at}: no answer to the attempt to connect")
        if isinstance(link, exceptions.IncompleteRead | http.client.IncompleteRead):
            return StoreUnavailable(f"{at}: the answer was cut off")
        if isinstance(link, exceptions.ReadTimeoutError | TimeoutError):
            return StoreUnavailable(f"{at}: the server has fallen silent or trickles")
        if isinstance(link, http.client.RemoteDisconnected):
            return StoreUnavailable(f"{at}: the server closed the connection without an answer")
        if isinstance(link, http.client.HTTPException | exceptions.HeaderParsingError):
            return NotAStore(
                f"{at}: what answers there speaks no HTTP ({type(link).__name__}); "
                f"is the port the right one, and does it want rest+https://?"
            )
        if isinstance(link, OSError) and not isinstance(link, exceptions.HTTPError):
            return _os_error(link, at)
    return StoreUnavailable(f"{at}: {exc}")


def status_error(status: int, text: str, label: str, where: str) -> StoreError:
    """Return what an HTTP status that is no success means; *text* is the answer's body."""
    at = f"{label} at {where}"
    said = " ".join(text.split())[:_TEXT_MAX]
    said = f" ({said})" if said.isprintable() and said else ""
    if status == 401:
        return StoreDenied(
            f"{at}: the server wants to know who we are, or another user name and password "
            f"than it was given{said}; they are written rest+https://USER:PASSWORD@HOST/ or set in "
            f"COOPFS_REST_USERNAME and COOPFS_REST_PASSWORD"
        )
    if status == 403:
        return StoreDenied(f"{at}: the server does not let us do this (status {status}){said}")
    if status in (413, 507):
        return StoreFull(
            f"{at}: no room left there{said}; make room or have the quota raised, then run it "
            f"again: what was stored is kept"
        )
    if status in (408, 425, 429) or (500 <= status <= 599 and status != 501):
        return StoreUnavailable(f"{at}: the server is in trouble (status {status}){said}")
    if 300 <= status <= 399 or status in (405, 501):
        return NotAStore(
            f"{at}: the server does not speak the restic REST protocol there "
            f"(status {status}){said}"
        )
    return StoreError(f"{at}: the server refused (status {status}){said}")


def _chain(exc: BaseException) -> list[BaseException]:
    """Return *exc* and everything it was made from, the outermost first."""
    found: list[BaseException] = []
    queue: list[object] = [exc]
    while queue:
        link = queue.pop(0)
        if not isinstance(link, BaseException) or link in found or len(found) > 20:
            continue
        found.append(link)
        queue += [*link.args, getattr(link, "reason", None), link.__cause__]
    return found


def _stranger(at: str, why: str) -> StoreIdentity:
    return StoreIdentity(
        f"{at}: not the machine that was expected: {why}; nothing was sent. If its certificate "
        f"was renewed, change what the address says about it; if not, somebody is in between"
    )


def _tls_error(exc: ssl.SSLError, at: str) -> StoreError:
    reason = exc.reason or ""
    if any(alert in reason for alert in _ALERTS_DENIED):
        return StoreDenied(
            f"{at}: the server does not accept our certificate ({reason.lower()}); "
            f"has the partner removed us?"
        )
    if any(sign in reason for sign in _NOT_TLS):
        return NotAStore(
            f"{at}: what answers there speaks no TLS; is the port the right one, or is it "
            f"a server for rest+http://?"
        )
    if isinstance(exc, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return StoreUnavailable(f"{at}: the connection was closed")
    return StoreUnavailable(f"{at}: TLS failed: {reason or exc}")


def _os_error(exc: OSError, at: str) -> StoreError:
    if exc.errno in (errno.EACCES, errno.EPERM):
        return StoreDenied(f"{at}: {exc.strerror}; may we use that socket?")
    reason = _REASONS.get(exc.errno or 0) or exc.strerror or str(exc) or type(exc).__name__
    return StoreUnavailable(f"{at}: {reason}")
