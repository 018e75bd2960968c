"""A double of Google Cloud Storage for tests: of its XML interface what obstore speaks.

No emulator that can be had does: fake-gcs-server and gcp-storage-emulator know uploads by
the JSON interface only, and neither heeds x-goog-if-generation-match.  This one was written
after Google's "XML API" reference, not after obstore: a method, header or parameter that it
does not know is answered 501 and noted in :attr:`GoogleService.strange`.

Every request must carry a token signed by the service account's own key (RFC 7519, RS256).
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from loopback import http_server

PAGE_LEN = 50  # keys; Google's is 1000: so that the tests' listings have several pages
EMAIL = "coopfs@tests.iam.gserviceaccount.com"
_MESSAGES = {
    "NoSuchBucket": "The specified bucket does not exist.",
    "NoSuchKey": "The specified key does not exist.",
    "PreconditionFailed": "At least one of the pre-conditions you specified did not hold.",
    "AuthenticationRequired": "Authentication required.",
    "AccessDenied": "Access denied.",
}


class GoogleService:
    """The buckets, who may use them, and what was asked.  Thread-safe."""

    def __init__(self, folder: Path) -> None:
        self.endpoint = ""
        self.account_file = folder / "account.json"
        self.strange: list[str] = []  # requests that the real one's reference does not have
        self.conditions: list[str | None] = []  # x-goog-if-generation-match of each upload
        self.is_reader = False  # the account may only read
        self.lock = threading.Lock()
        self.buckets: dict[str, dict[str, bytes]] = {"shared": {}}
        self._known: dict[str, float] = {}  # tokens that were verified; until when they hold
        self._key = rsa.generate_private_key(65537, 2048)
        self.write_account(self.account_file, self._key)

    def write_account(self, path: Path, key: rsa.RSAPrivateKey) -> None:
        """Write a service account's file, as Google hands it out, with *key*."""
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        account = {
            "type": "service_account",
            "project_id": "tests",
            "private_key_id": "1",
            "private_key": pem.decode(),
            "client_email": EMAIL,
            "token_uri": "https://oauth2.invalid/token",
        }
        path.write_text(json.dumps(account))

    def is_authorised(self, header: str) -> bool:
        """Tell whether the header carries a token the account signed, valid now."""
        if self._known.get(header, 0) > time.time():
            return True
        scheme, _, token = header.partition(" ")
        signed, _, signature = token.rpartition(".")
        try:
            self._key.public_key().verify(
                _decoded(signature), signed.encode(), padding.PKCS1v15(), hashes.SHA256()
            )
            claims = json.loads(_decoded(signed.partition(".")[2]))
        except (InvalidSignature, ValueError):
            return False
        is_right = (
            scheme == "Bearer"
            and claims["iss"] == claims["sub"] == EMAIL
            and claims["iat"] - 300 <= time.time() < claims["exp"]
            and claims["scope"].startswith("https://www.googleapis.com/auth/")
        )
        if is_right:
            self._known[header] = claims["exp"]
        return bool(is_right)


@contextmanager
def google_service(folder: Path) -> Iterator[GoogleService]:
    """Run the double on a free port of loopback, with one bucket called shared."""
    service = GoogleService(folder)

    class Handler(_Handler):
        google = service

    with http_server(Handler) as place:
        service.endpoint = f"http://{place}"
        yield service


class _Refused(Exception):
    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status, self.code = status, code


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16  # an answer in one piece; flushed after each request
    google: GoogleService

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        if len(body) < length:  # cut off: as if it had never come
            self.close_connection = True
            return
        url = urlsplit(self.path)
        bucket, _, key = unquote(url.path).lstrip("/").partition("/")
        try:
            if not self.google.is_authorised(self.headers.get("Authorization", "")):
                raise _Refused(401, "AuthenticationRequired")
            with self.google.lock:
                if bucket not in self.google.buckets:
                    raise _Refused(404, "NoSuchBucket")
                self._dispatch(self.google.buckets[bucket], key, parse_qs(url.query), body)
        except _Refused as exc:
            message = _MESSAGES.get(exc.code, exc.code)
            said = f"<Error><Code>{exc.code}</Code><Message>{message}</Message></Error>"
            self._answer(exc.status, said.encode(), {"Content-Type": "application/xml"})

    do_GET = do_HEAD = do_PUT = do_DELETE = do_POST = _serve

    def _dispatch(
        self, objects: dict[str, bytes], key: str, query: dict[str, list[str]], body: bytes
    ) -> None:
        if self.command == "GET" and not key and query.get("list-type") == ["2"]:
            self._list(objects, query)
        elif not key or query or self.command == "POST":
            self._refuse_strange()
        elif self.command == "PUT":
            self._put(objects, key, body)
        elif key not in objects:
            raise _Refused(404, "NoSuchKey")
        elif self.command == "DELETE":
            self._check_may_write()
            del objects[key]
            self._answer(204, b"", {})
        else:
            self._get(objects[key])

    def _refuse_strange(self) -> None:
        self.google.strange.append(f"{self.command} {self.path}")
        raise _Refused(501, "NotImplemented")

    def _check_may_write(self) -> None:
        if self.google.is_reader:
            raise _Refused(403, "AccessDenied")

    def _put(self, objects: dict[str, bytes], key: str, body: bytes) -> None:
        self._check_may_write()
        condition = self.headers.get("x-goog-if-generation-match")
        self.google.conditions.append(condition)
        if condition not in (None, "0") or "Content-Range" in self.headers:
            self._refuse_strange()
        if condition == "0" and key in objects:
            raise _Refused(412, "PreconditionFailed")
        objects[key] = body
        self._answer(200, b"", _facts(body))

    def _get(self, data: bytes) -> None:
        wanted = self.headers.get("Range")
        if wanted is None:
            self._answer(200, data, _facts(data))
            return
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        start = int(first)
        end = min(int(last) + 1 if last else len(data), len(data))
        if start >= len(data):
            raise _Refused(416, "InvalidRange")
        place = {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}"}
        self._answer(206, data[start:end], _facts(data) | place)

    def _list(self, objects: dict[str, bytes], query: dict[str, list[str]]) -> None:
        known = {"list-type", "prefix", "continuation-token", "start-after", "max-keys"}
        if not query.keys() <= known:
            self._refuse_strange()
        prefix = query.get("prefix", [""])[0]
        after = max(query.get(name, [""])[0] for name in ("continuation-token", "start-after"))
        keys = sorted(key for key in objects if key.startswith(prefix) and key > after)
        page, rest = keys[:PAGE_LEN], keys[PAGE_LEN:]
        parts = [f"<Prefix>{escape(prefix)}</Prefix><KeyCount>{len(page)}</KeyCount>"]
        if rest:
            parts.append(f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>")
        parts.append(f"<IsTruncated>{str(bool(rest)).lower()}</IsTruncated>")
        parts += [
            f"<Contents><Key>{escape(key)}</Key><Size>{len(objects[key])}</Size>"
            f"<LastModified>2026-01-02T03:04:05.678Z</LastModified>"
            f"<ETag>{_facts(objects[key])['ETag']}</ETag></Contents>"
            for key in page
        ]
        text = f"<ListBucketResult>{''.join(parts)}</ListBucketResult>"
        self._answer(200, text.encode(), {"Content-Type": "application/xml"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _facts(data: bytes) -> dict[str, str]:
    digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
    return {
        "ETag": f'"{digest}"',
        "Last-Modified": formatdate(usegmt=True),
        "x-goog-generation": "1700000000000000",
        "Content-Type": "application/octet-stream",
    }


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
