"""What this host's clock is worth: time servers, the local daemon, the kernel, the partner.

Owns whom to ask and whom to believe.  Everything is asked at once, in threads of its own
that nothing waits for longer than :data:`LATE_S`: a snapshot is not held up by it.  What
is found is recorded and reported; it changes no time and no order (DESIGN, "Clock").
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from coopfs.archive.kernelclock import read_kernel_clock
from coopfs.format.invitation import Endpoint
from coopfs.format.snapshot import ClockFacts
from coopfs.format.sntp import (
    COOKIE_LEN,
    STRATUM_UNSYNCHRONISED,
    TimeAnswer,
    decode_answer,
    encode_question,
)

TIMEOUT_S: Final = 2.0  # for each server and each program
ASK_AGAIN_S: Final = 0.7  # a datagram may be lost
LATE_S: Final = 0.5  # how much longer the end of a short run waits for an answer
SOURCE_LEN_MAX: Final = 256  # coopfs-format(5), "Snapshot"
_DATAGRAM_MAX: Final = 2048
_NS: Final = 1_000_000_000
UNKNOWN: Final = ClockFacts("", 0, STRATUM_UNSYNCHRONISED, is_synchronised=False)


class ClockProbe:
    """One round of asking, begun when it is made.  Thread-safe."""

    def __init__(self, servers: Sequence[Endpoint]) -> None:
        """Ask *servers*; and the local daemon or the kernel, who count if no server answers."""
        self._lock = threading.Condition()
        self._answers: list[tuple[str, TimeAnswer]] = []
        self._local: ClockFacts | None = None
        self._open_servers = len(servers)
        self._is_local_open = True
        for server in servers:
            self._start(lambda server=server: self._ask_server(server))  # type: ignore[misc]
        self._start(self._ask_here)

    def facts(self, wait_s: float = 0.0) -> ClockFacts:
        """Return what is known, after *wait_s* at most; :data:`UNKNOWN` if nobody answered."""
        with self._lock:
            self._lock.wait_for(self._is_done, wait_s)
            if self._answers:
                # The one in the middle: of three one may lie, and no matter by how much.
                in_order = sorted(self._answers, key=lambda item: item[1].offset_ns)
                name, answer = in_order[(len(in_order) - 1) // 2]
                source = f"{name} ({answer.reference})"[:SOURCE_LEN_MAX]
                return ClockFacts(source, answer.offset_ns, answer.stratum, is_synchronised=True)
            return self._local or UNKNOWN

    def _is_done(self) -> bool:
        if self._open_servers:
            return False
        return bool(self._answers) or not self._is_local_open

    def _start(self, ask: Callable[[], None]) -> None:
        # Daemons: a name server that does not answer must not hold up the end of the process.
        threading.Thread(target=ask, name="coopfs-clock", daemon=True).start()

    def _ask_server(self, server: Endpoint) -> None:
        answer = None
        try:
            answer = ask_server(server, TIMEOUT_S)
        finally:
            with self._lock:
                self._open_servers -= 1
                if isinstance(answer, TimeAnswer):
                    self._answers.append((str(server.host), answer))
                self._lock.notify_all()

    def _ask_here(self) -> None:
        found = None
        try:
            found = ask_daemon() or ask_kernel()
        finally:
            with self._lock:
                self._local, self._is_local_open = found, False
                self._lock.notify_all()


# --- a time server --------------------------------------------------------------


def ask_server(server: Endpoint, timeout_s: float) -> TimeAnswer | str:
    """Return what a time server answers, or why it is of no use."""
    try:
        family, _, _, _, address = socket.getaddrinfo(
            server.host, server.port, type=socket.SOCK_DGRAM
        )[0]
        with socket.socket(family, socket.SOCK_DGRAM) as line:
            line.connect(address)
            return _exchange(line, timeout_s)
    except OSError as exc:
        return exc.strerror or str(exc)
    except UnicodeError:  # how Python says that no host can have that name
        return "no such host"


def _exchange(line: socket.socket, timeout_s: float) -> TimeAnswer | str:
    ends = time.monotonic() + timeout_s
    for ask_until in (min(time.monotonic() + ASK_AGAIN_S, ends), ends):
        if time.monotonic() >= ends:
            break
        cookie = os.urandom(COOKIE_LEN)
        sent_ns, sent = time.time_ns(), time.monotonic_ns()
        line.send(encode_question(cookie))
        while (left_s := ask_until - time.monotonic()) > 0:
            line.settimeout(left_s)
            try:
                data = line.recv(_DATAGRAM_MAX)
            except TimeoutError:
                break
            # By the clock that only counts: the other may be set just now.
            received_ns = sent_ns + time.monotonic_ns() - sent
            answer = decode_answer(data, cookie, sent_ns, received_ns)
            if answer is not None:  # else noise, or forged: the true one may come yet
                return answer
    return "no answer"


# --- the local daemon -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Daemon:
    command: tuple[str, ...]
    parse: Callable[[str], ClockFacts | None]


def ask_daemon() -> ClockFacts | None:
    """Return what the local chronyd or ntpd says; None where neither runs."""
    for daemon in (
        _Daemon(("chronyc", "-n", "-c", "tracking"), parse_chronyc),
        _Daemon(("ntpq", "-n", "-c", "rv"), parse_ntpq),
    ):
        program = shutil.which(daemon.command[0])
        if program is None:
            continue
        try:
            ran = subprocess.run(
                [program, *daemon.command[1:]],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=TIMEOUT_S,
                check=False,
                env={**os.environ, "LC_ALL": "C"},
            )
        except (OSError, subprocess.SubprocessError):
            continue
        if ran.returncode == 0 and (found := daemon.parse(ran.stdout.decode("utf-8", "replace"))):
            return found
    return None


def parse_chronyc(text: str) -> ClockFacts | None:
    """Read ``chronyc -c tracking``: 14 fields; the fifth is how slow our clock is, in seconds."""
    fields = text.strip().split(",")
    if len(fields) < 14:
        return None
    try:
        stratum, offset_ns = int(fields[2]), round(float(fields[4]) * _NS)
    except (ValueError, OverflowError):
        return None
    is_synchronised = fields[13] != "Not synchronised"
    return _daemon_facts("chronyd", fields[1], offset_ns, stratum, is_synchronised=is_synchronised)


_RV_FIELD: Final = re.compile(r'(\w+)=("[^"]*"|[^,\s]*)')


def parse_ntpq(text: str) -> ClockFacts | None:
    """Read ``ntpq -c rv``: name=value pairs; ``offset`` is in milliseconds, theirs minus ours."""
    found: Mapping[str, str] = dict(_RV_FIELD.findall(text))
    try:
        stratum, offset_ns = int(found["stratum"]), round(float(found["offset"]) * 1_000_000)
        leap = int(found["leap"], 2)
    except (KeyError, ValueError, OverflowError):
        return None
    return _daemon_facts(
        "ntpd", found.get("refid", ""), offset_ns, stratum, is_synchronised=leap != 3
    )


def _daemon_facts(
    name: str, reference: str, offset_ns: int, stratum: int, *, is_synchronised: bool
) -> ClockFacts | None:
    if not 0 <= stratum <= STRATUM_UNSYNCHRONISED or abs(offset_ns) >= 1 << 62:
        return None
    if stratum == STRATUM_UNSYNCHRONISED or not is_synchronised:
        return ClockFacts(name, offset_ns, STRATUM_UNSYNCHRONISED, is_synchronised=False)
    shown = "".join(c for c in reference if c.isprintable())
    source = f"{name} ({shown})" if shown else name
    return ClockFacts(source[:SOURCE_LEN_MAX], offset_ns, stratum, is_synchronised=True)


def ask_kernel() -> ClockFacts | None:
    """Return what the kernel says; it does not know whom the clock follows (stratum 0)."""
    kernel = read_kernel_clock()
    if kernel is None:
        return None
    stratum = 0 if kernel.is_synchronised else STRATUM_UNSYNCHRONISED
    return ClockFacts("kernel", kernel.offset_ns, stratum, kernel.is_synchronised)


# --- the partner ------------------------------------------------------------------


def with_second_opinion(facts: ClockFacts, partner: str, ahead_s: float | None) -> ClockFacts:
    """Return *facts*, or where nobody has told an offset the partner's word (untrusted).

    It says how far the clocks are apart, never that ours is synchronised.
    """
    if ahead_s is None or facts.is_synchronised or facts.offset_ns:
        return facts
    return ClockFacts(
        partner[:SOURCE_LEN_MAX],
        round(ahead_s * _NS),
        STRATUM_UNSYNCHRONISED,
        is_synchronised=False,
    )
