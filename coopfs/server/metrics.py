"""Figures for Prometheus, in its text format, on a local address.

Only sums and names of partners: nothing from a request goes out.
https://prometheus.io/docs/instrumenting/exposition_formats/ (version 0.0.4).
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

from coopfs.errors import CoopfsError
from coopfs.server.visitors import Desk

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counts since the server started.

    Connections are counted by the event loop alone, requests by worker threads as well.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the last three
        self.connections = 0  # open now
        self.connections_refused = 0
        self.handshakes_failed = 0
        self.too_slow = 0
        self._requests: Counter[tuple[str, str, int]] = Counter()  # partner, method, status
        self._bytes_in: Counter[str] = Counter()
        self._bytes_out: Counter[str] = Counter()

    def count_request(self, partner: str, method: str, status: int) -> None:
        """Count a request that was answered (status 0: the client went first)."""
        with self._lock:
            self._requests[partner, method, status] += 1

    def count_bytes(self, partner: str, bytes_in: int, bytes_out: int) -> None:
        """Count bodies."""
        with self._lock:
            self._bytes_in[partner] += bytes_in
            self._bytes_out[partner] += bytes_out

    def render(self, usages: str) -> bytes:
        """Return everything as text; *usages* is :func:`render_usages`'s."""
        with self._lock:
            requests = sorted(self._requests.items())
            bytes_in, bytes_out = Counter(self._bytes_in), Counter(self._bytes_out)
        lines = [
            *_metric("connections", "gauge", "Open connections.", [("", self.connections)]),
            *_metric(
                "connections_refused_total",
                "counter",
                "Connections closed at once: too many of them.",
                [("", self.connections_refused)],
            ),
            *_metric(
                "handshakes_failed_total",
                "counter",
                "Connections that showed no partner's key.",
                [("", self.handshakes_failed)],
            ),
            *_metric(
                "slow_clients_total",
                "counter",
                "Connections cut off because nothing came.",
                [("", self.too_slow)],
            ),
            *_metric(
                "requests_total",
                "counter",
                "Requests by partner, method and status.",
                [
                    (f'{{partner="{partner}",method="{method}",status="{status}"}}', count)
                    for (partner, method, status), count in requests
                ],
            ),
            *_metric("received_bytes_total", "counter", "Bodies in.", _by(bytes_in)),
            *_metric("sent_bytes_total", "counter", "Bodies out.", _by(bytes_out)),
        ]
        return ("\n".join(lines) + "\n" + usages).encode()


def render_usages(desks: Iterable[Desk]) -> str:
    """Return what each partner uses, as text; looks at the disk."""
    usages = []
    for desk in desks:
        try:
            usages.append((f'{{partner="{desk.name}"}}', desk.depot.usage()))
        except CoopfsError:
            continue  # its disk is away; the requests' statuses say so
    lines = [
        line
        for name, kind, text, value in (
            ("objects", "gauge", "Objects kept.", "objects"),
            ("used_bytes", "gauge", "Bytes of them.", "used"),
            ("quota_bytes", "gauge", "What was granted; 0: no limit.", "quota"),
            ("left_bytes", "gauge", "What may still be put.", "left"),
            ("trash_bytes", "gauge", "Deleted, and kept for a while.", "trash_used"),
            ("rotten_objects", "gauge", "Objects found damaged.", "rotten_objects"),
            ("today_bytes", "gauge", "Put since midnight UTC.", "today"),
        )
        for line in _metric(
            f"partner_{name}",
            kind,
            text,
            [(label, getattr(usage, value)) for label, usage in usages],
        )
    ]
    last_seen = [(f'{{partner="{d.name}"}}', d.last_seen_ns // 10**9) for d in desks]
    lines += _metric("partner_last_seen_seconds", "gauge", "Time of its last request.", last_seen)
    return "\n".join(lines) + "\n"


def _by(counts: Counter[str]) -> list[tuple[str, int]]:
    return [(f'{{partner="{partner}"}}', count) for partner, count in sorted(counts.items())]


def _metric(name: str, kind: str, text: str, samples: list[tuple[str, int]]) -> Iterator[str]:
    yield f"# HELP coopfs_{name} {text}"
    yield f"# TYPE coopfs_{name} {kind}"
    for label, value in samples:
        yield f"coopfs_{name}{label} {value}"
