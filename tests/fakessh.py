"""What a test runs in place of ssh: a real sftp-server, with one thing wrong.

    python fakessh.py FAULT [ARGUMENT] SSH-ARGUMENTS…

It sits between coopfs and the server and looks at the packets, so that a fault can
happen at one exact request.  With ``once=FILE:`` before FAULT it happens only while FILE
is not there, and makes it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

OPEN, READ, WRITE, RENAME, EXTENDED = 3, 5, 6, 18, 200
VERSION, STATUS, DATA, NAME, ATTRS = 2, 101, 103, 104, 105
SFTP_SERVER = shutil.which("sftp-server", path="/usr/lib/openssh:/usr/libexec:/usr/lib/ssh")

Packet = tuple[int, bytes]  # type, and the rest


def command(fault: str, *, once: Path | None = None) -> str:
    """Return what COOPFS_SSH_COMMAND is set to for *fault*."""
    import pytest  # not in the process that stands for ssh: it would take its time

    if SFTP_SERVER is None:
        pytest.skip("no sftp-server here (openssh-sftp-server): FAULTS OF SFTP ARE NOT TESTED")
    prefix = f"once={once}:" if once else ""
    return shlex.join([sys.executable, __file__, prefix + fault])


class Fake:
    """Both directions, packet by packet."""

    def __init__(self, fault: str) -> None:
        self.fault, _, self.argument = fault.partition("=")
        self.reads = 0
        self.lies: set[bytes] = set()
        self.watched: set[bytes] = set()  # ids of requests whose reply matters
        assert SFTP_SERVER is not None
        self.server = subprocess.Popen(
            [SFTP_SERVER, "-e"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def run(self) -> None:
        """Forward until one side ends."""
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        client_in, client_out = sys.stdin.buffer, sys.stdout.buffer
        up = threading.Thread(
            target=_pump, args=(client_in, self.server.stdin, self.request), daemon=True
        )
        up.start()
        _pump(self.server.stdout, client_out, self.reply)
        end()

    def request(self, op: int, rest: bytes) -> list[Packet]:
        """Return what the server is to get for a request, or die."""
        is_link = op == EXTENDED and b"hardlink@openssh.com" in rest
        if self.fault == "lost-name" and (is_link or op == RENAME):
            self.watched.add(rest[:4])
        if self.fault == "die-writing" and op == WRITE:
            offset = struct.unpack(">Q", rest[12:20])[0] if len(rest) > 20 else 0
            if offset >= int(self.argument):
                end()
        if self.fault == "no-links" and is_link:
            # The name of a request the server does not know: it says so.
            return [(op, rest.replace(b"hardlink", b"softlink"))]
        if self.fault == "linked-lies" and is_link:
            self.lies.add(rest[:4])
            return [(op, rest.replace(b"hardlink", b"softlink"))]
        if self.fault == "short-reads" and op == READ:
            (length,) = struct.unpack(">I", rest[-4:])
            return [(op, rest[:-4] + struct.pack(">I", max(length // 3, 1)))]
        if self.fault == "stale-handle" and op == READ:
            self.reads += 1
            if self.reads != int(self.argument):
                return [(op, rest)]
            return [(op, rest[:8] + b"\xff" * 4 + rest[12:])]
        return [(op, rest)]

    def reply(self, op: int, rest: bytes) -> list[Packet]:
        """Return what the client is to get for a reply, or die."""
        if rest[:4] in self.watched:
            end()
        if rest[:4] in self.lies:
            return [(op, rest[:4] + bytes(12))]  # done
        if op == VERSION and self.fault == "no-extensions":
            return [(op, rest[:4])]
        if op == VERSION and self.fault == "linked-lies":
            return [(op, rest.replace(b"fsync@openssh.com", b"fsick@openssh.com"))]
        if op == VERSION and self.fault == "old-version":
            return [(op, struct.pack(">I", 2))]
        if op == NAME and self.fault == "cut-listing":
            sys.stdout.buffer.write(struct.pack(">IB", len(rest) + 1, op) + rest[: len(rest) // 2])
            end()
        if op == NAME and self.fault == "endless-names":
            return [(op, rest[:4] + struct.pack(">I", 0xFFFFFFF0) + rest[8:])]
        if op == ATTRS and self.fault == "short-attrs":
            return [(op, rest[:9])]
        if op == DATA and self.fault == "much-data":
            return [(op, rest[:4] + struct.pack(">I", len(rest)) + rest[8:] + bytes(8))]
        if op == DATA and self.fault == "no-data":
            return [(op, rest[:4] + bytes(4))]
        if op == DATA and self.fault == "wrong-id":
            return [(op, b"\xff\xff\xff\xff" + rest[4:])]
        if op == DATA and self.fault == "die-reading":
            end()
        return [(op, rest)]


def _pump(source: BinaryIO, sink: BinaryIO, change: Callable[[int, bytes], list[Packet]]) -> None:
    while len(head := source.read(5)) == 5:
        length, op = struct.unpack(">IB", head)
        for op_out, rest in change(op, source.read(length - 1)):
            sink.write(struct.pack(">IB", len(rest) + 1, op_out) + rest)
        sink.flush()
    end()


def end() -> None:
    """End at once, as ssh does when the line is gone."""
    sys.stdout.flush()
    os._exit(255)


def main() -> None:
    """See above."""
    fault = sys.argv[1]
    if fault.startswith("once="):
        path, _, fault = fault.removeprefix("once=").partition(":")
        if os.path.exists(path):
            fault = ""
        else:
            Path(path).touch()
    if fault.startswith("says="):
        sys.stderr.write(fault.removeprefix("says="))
        sys.stderr.flush()
        os._exit(255)
    if fault.startswith("prints="):
        sys.stdout.write(fault.removeprefix("prints="))
        sys.stdout.flush()
        sys.stdin.read()
    Fake(fault).run()


if __name__ == "__main__":
    main()
