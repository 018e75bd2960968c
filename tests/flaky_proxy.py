"""An HTTP proxy for tests that misbehaves on demand, in front of a real server.

Requests pass unchanged, their Host and signature included.
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Literal

from loopback import http_server


@dataclass(frozen=True)
class Answer:
    """Do not ask the server; answer this in its place."""

    status: int
    code: str = ""  # the service's own, in the body

    def body(self) -> bytes:
        """What an S3 service sends with it."""
        said = f"<Error><Code>{self.code}</Code><Message>told to \x1b fail</Message></Error>"
        return said.encode() if self.code else b""


# cut: close the connection before the server is asked; lose: after it has answered;
# half: in the middle of its answer's body.
Fault = Answer | Literal["cut", "lose", "half"]


@dataclass
class _Rule:
    method: str
    fault: Fault
    times: int
    skip: int


class FlakyProxy:
    """What is done to the requests; attributes may be set at any time."""

    def __init__(self, target: str) -> None:
        self.target = target  # host:port
        self.host = ""  # where it listens, host:port
        self.requests: list[tuple[str, str]] = []  # (method, path), faults included
        # What requests that have the header, given in lower case, are answered.
        self.refused_headers: dict[str, Answer] = {}
        self._rules: list[_Rule] = []
        self._lock = threading.Lock()

    @property
    def endpoint(self) -> str:
        """The URL it is reached at."""
        return f"http://{self.host}"

    def fail(self, method: str, fault: Fault, times: int = 1, skip: int = 0) -> None:
        """Let *fault* happen to the next *times* requests, *skip* of them passing first."""
        with self._lock:
            self._rules.append(_Rule(method, fault, times, skip))

    def count(self, method: str) -> int:
        """Return how many requests of the method there were."""
        return sum(found == method for found, _ in self.requests)

    def fault_for(self, method: str, path: str) -> Fault | None:
        """Note the request and return what is to happen to it."""
        with self._lock:
            self.requests.append((method, path))
            for rule in self._rules:
                if rule.method != method or not rule.times:
                    continue
                if rule.skip:
                    rule.skip -= 1
                    return None
                rule.times -= 1
                return rule.fault
        return None


@contextmanager
def flaky_proxy(target: str) -> Iterator[FlakyProxy]:
    """Run a proxy in front of *target* (host:port) on a free port of loopback."""
    proxy = FlakyProxy(target)

    class Handler(_Handler):
        rules = proxy

    with http_server(Handler) as place:
        proxy.host = place
        yield proxy


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    rules: FlakyProxy

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.rules.fault_for(self.command, self.path)
        for name in self.headers:
            fault = self.rules.refused_headers.get(name.lower(), fault)
        if isinstance(fault, Answer):
            self._answer(fault.status, [("Content-Type", "application/xml")], fault.body())
            return
        if fault == "cut":
            self.close_connection = True
            return
        status, headers, data = self._ask(body)
        if fault == "lose":
            self.close_connection = True
            return
        self._answer(status, headers, data, sent=len(data) // 2 if fault == "half" else None)

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self.rules.target, timeout=60)
        try:
            connection.putrequest(
                self.command, self.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in self.headers.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _answer(
        self, status: int, headers: list[tuple[str, str]], data: bytes, sent: int | None = None
    ) -> None:
        self.send_response_only(status)
        has_length = False
        for name, value in headers:
            if name.lower() not in ("transfer-encoding", "connection"):
                self.send_header(name, value)
                has_length = has_length or name.lower() == "content-length"
        if not has_length:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[:sent])
        if sent is not None:
            self.close_connection = True

    do_GET: Callable[[_Handler], None] = _serve
    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET
