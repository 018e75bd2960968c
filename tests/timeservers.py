"""Time servers for tests on loopback, honest and otherwise, and a fake ``chronyc``."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from coopfs.format.invitation import Endpoint

NTP_EPOCH_S = 2_208_988_800
PACKET = struct.Struct(">BBbbII4s8sQQQ")
CHRONY_LINE = (
    "C0000201,192.0.2.1,2,1732000000.123456789,{offset},0.000001000,0.000002000,-12.345,"
    "0.001,0.010,0.012345678,0.001234567,64.2,{leap}"
)

Reply = Callable[[bytes], bytes | None]


def ntp_time(unix_s: float) -> int:
    """Return a time in NTP's format, of whatever era."""
    return int((unix_s + NTP_EPOCH_S) * (1 << 32)) & ((1 << 64) - 1)


def answer(
    question: bytes,
    *,
    ahead_s: float = 0.0,
    leap: int = 0,
    stratum: int = 1,
    refid: bytes = b"GPS\0",
    now_s: float | None = None,
) -> bytes:
    """Return what a server whose clock is *ahead_s* ahead of ours says to *question*."""
    now = ntp_time((time.time() if now_s is None else now_s) + ahead_s)
    first = leap << 6 | 4 << 3 | 4
    return PACKET.pack(first, stratum, 6, -20, 0, 0, refid, question[40:48], now, now, now)


@contextmanager
def time_server(reply: Reply) -> Iterator[Endpoint]:
    """Answer each datagram on a port of 127.0.0.1 with what *reply* makes of it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        line.bind(("127.0.0.1", 0))

        def serve() -> None:
            while True:
                data, sender = line.recvfrom(1024)
                if not data:
                    return
                said = reply(data)
                if said is not None:
                    line.sendto(said, sender)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield Endpoint("127.0.0.1", line.getsockname()[1])
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stopper:
                stopper.sendto(b"", line.getsockname())
            thread.join()


def fake_program(folder: Path, name: str, script: str) -> None:
    """Make a program of that name in *folder*, a shell script."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def fake_chronyc(folder: Path, offset: str = "0.000012345", leap: str = "Normal") -> None:
    """Make a ``chronyc`` whose daemon says that our clock is *offset* seconds slow."""
    line = CHRONY_LINE.format(offset=offset, leap=leap)
    fake_program(folder, "chronyc", f"echo '{line}'")
