"""Machines in network namespaces of their own, with cables between them (root only).

Only the calling thread enters one, and what it starts there: commands run in this process
see the namespace's network, and everything else of this machine.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest
from hosts import Ran
from lines import Line
from mounting import Mounted, mounted
from partners import Partner

CLONE_NEWNET = 0x40000000  # <sched.h>
# RFC 2544's, for benchmarks: nobody's real address, should something leak.
ANNAS, BERTAS = "198.18.0.1", "198.18.0.2"


class Namespace:
    """A network of one's own, with loopback and whatever cables end there."""

    def __init__(self, name: str) -> None:
        self.name = name

    def ip(self, *args: str) -> None:
        """Let the program ip work in it."""
        _run("ip", "-n", self.name, *args)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Be in it with this thread, then where it was before."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            inside = os.open(f"/run/netns/{self.name}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                _set_namespace(inside)
            finally:
                os.close(inside)
            try:
                yield
            finally:
                _set_namespace(before)
        finally:
            os.close(before)


def _set_namespace(fd: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _run(*args: str) -> None:
    subprocess.run(args, check=True, capture_output=True, text=True)


@contextmanager
def namespaces(count: int) -> Iterator[list[Namespace]]:
    """Make some, loopback up; skip the test where this machine lets nobody."""
    made = []
    try:
        for _ in range(count):
            namespace = Namespace(f"coopfs-test-{secrets.token_hex(4)}")
            try:
                _run("ip", "netns", "add", namespace.name)
                made.append(namespace)
                namespace.ip("link", "set", "lo", "up")
            except (OSError, subprocess.CalledProcessError) as exc:
                said = getattr(exc, "stderr", "") or exc
                pytest.skip(f"no network namespaces here ({said}): TWO SITES ARE NOT TESTED")
        yield made
    finally:
        for namespace in made:
            _run("ip", "netns", "del", namespace.name)


def plug(one: Namespace, other: Namespace) -> None:
    """Join the two by a cable: ``ANNAS`` at one end, ``BERTAS`` at the other."""
    try:
        peer = ("peer", "name", "cable", "netns", other.name)
        one.ip("link", "add", "cable", "type", "veth", *peer)
    except subprocess.CalledProcessError as exc:
        pytest.skip(f"no veth pairs here ({exc.stderr}): TWO SITES ARE NOT TESTED")
    for end, address in ((one, ANNAS), (other, BERTAS)):
        end.ip("address", "add", f"{address}/30", "dev", "cable")
        end.ip("link", "set", "cable", "up")


@contextmanager
def translated(inside: Namespace, gate: Namespace, port: int) -> Iterator[None]:
    """Let *inside*, which has no cable, reach ``ANNAS`` through *gate*, as behind a NAT.

    Nothing leads the other way.  In user space, as slirp does it: not every kernel that can
    make namespaces can translate addresses.
    """
    inside.ip("address", "add", f"{ANNAS}/32", "dev", "lo")
    with inside.entered():
        line = Line(port, host=ANNAS, at=(ANNAS, port))
    with ExitStack() as stack:
        with gate.entered():  # where its threads are, and connect from
            stack.enter_context(line)
        yield


class Sited(Partner):
    """A partner in a network namespace."""

    def __init__(self, base: Path, name: str, namespace: Namespace, host: str) -> None:
        super().__init__(base, name)
        self.namespace = namespace
        self.ip_address = host

    @property
    def address(self) -> str:
        """Where its server is."""
        return f"{self.ip_address}:{self.port}"

    def successor(self, base: Path) -> Sited:
        """Return the machine that takes its place."""
        return Sited(base, self.name, self.namespace, self.ip_address)

    def run(self, *args: object, stdin: str = "", **environ: str) -> Ran:
        """Run a command on it."""
        with self.namespace.entered():
            return super().run(*args, stdin=stdin, **environ)

    @contextmanager
    def serving(self, *args: object, is_reachable: bool = True) -> Iterator[Popen[str]]:
        """Run its server."""
        with self.namespace.entered(), super().serving(*args, is_reachable=is_reachable) as server:
            yield server

    @contextmanager
    def inviting(self, *args: object) -> Iterator[str]:
        """Invite a partner."""
        with self.namespace.entered(), super().inviting(*args) as code:
            yield code

    @contextmanager
    def mounted(self, path: Path, *args: Any) -> Iterator[Mounted]:
        """Mount its archive."""
        with self.namespace.entered(), mounted(self, path, *args) as mount:
            yield mount
