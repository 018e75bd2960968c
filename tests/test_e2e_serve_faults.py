"""``coopfs serve`` killed at each step, the line cut, the disk full: nothing lost, nobody in."""

from __future__ import annotations

import http.client
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from serving import (
    ADMIN,
    DEADLINE_S,
    Serving,
    admit_anna,
    name_of,
    raw_answers,
    statuses,
    wait_until,
)

from coopfs.server.places import TRASH, Places
from coopfs.server.protocol import LISTING_V2

DAY_NS = 24 * 3600 * 10**9

# Kills the process at the nth call of a function of `os` while the file ARMED exists: what a
# start does is not counted, nor fsync of anything but objects and their folders (what the
# server notes of itself now and then).
BOMB = """
import os, signal
def lay(name, nth, when, armed):
    real = getattr(os, name)
    left = [nth]
    def counted(*args, **kwargs):
        hits = os.path.exists(armed)
        if hits and name == "fsync":
            path = os.readlink("/proc/self/fd/%d" % args[0])
            hits = "/incoming/" in path or "/objects/" in path
        if hits:
            left[0] -= 1
        if hits and when == "before" and left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            return real(*args, **kwargs)
        finally:
            if hits and when == "after" and left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    setattr(os, name, counted)
lay({name!r}, {nth}, {when!r}, {armed!r})
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    admit_anna(folder)
    return folder


def with_bomb(root: Path, name: str, nth: int, when: str) -> Serving:
    """Return a server that will be killed at that step, once :func:`arm` was called."""
    armed = str(root.parent / "armed")
    return Serving(root, prelude=BOMB.format(name=name, nth=nth, when=when, armed=armed))


def arm(root: Path) -> None:
    (root.parent / "armed").touch()


def disarm(root: Path) -> None:
    (root.parent / "armed").unlink(missing_ok=True)


def asks_in_vain(
    server: Serving, method: str, path: str, body: bytes | None, **who: object
) -> None:
    """Ask for something that the server does not survive."""
    with pytest.raises((OSError, http.client.HTTPException)):
        server.ask(method, path, body, **who)  # type: ignore[arg-type]
    server.wait()


def check_sound(server: Serving, expected: dict[str, bytes]) -> None:
    """Everything *expected* is there, whole, and listed; nothing else is, anywhere."""
    listing = server.ask("GET", "/anna/data/", Accept=LISTING_V2).json()
    assert {(o["name"], o["size"]) for o in listing} == {(n, len(d)) for n, d in expected.items()}
    for name, data in expected.items():
        assert server.ask("GET", f"/anna/data/{name}").body == data
    assert list((server.root / "partners/anna/incoming").iterdir()) == []
    status = server.ask("GET", "/anna/?coopfs=status").json()
    assert status["objects"] == len(expected)
    assert status["used"] == sum(map(len, expected.values()))


@pytest.mark.parametrize(
    ("step", "nth", "when", "is_there"),
    [
        ("fsync", 1, "before", False),  # the bytes are not on the disk yet
        ("fsync", 1, "after", False),  # between fsync and link
        ("link", 1, "after", True),  # it has its name, which is not durable yet
        ("fsync", 2, "after", True),  # all is done: only the answer is lost
    ],
)
def test_put_killed_at_any_step_is_whole_or_absent_and_done_the_next_time(
    root: Path, step: str, nth: int, when: str, is_there: bool
) -> None:
    kept = b"kept all the while"
    data = os.urandom(3 << 20)
    name = name_of(data)
    with with_bomb(root, step, nth, when) as server:
        server.put(kept)
        arm(root)
        asks_in_vain(server, "POST", f"/anna/data/{name}", data)
        disarm(root)
    with Serving(root) as server:
        expected = {name_of(kept): kept}
        check_sound(server, expected | ({name: data} if is_there else {}))
        server.put(data)
        check_sound(server, expected | {name: data})


@pytest.mark.parametrize(
    ("step", "nth", "when"), [("link", 1, "before"), ("link", 1, "after"), ("unlink", 1, "after")]
)
def test_delete_killed_at_any_step_loses_nothing(
    root: Path, step: str, nth: int, when: str
) -> None:
    data = b"deleted, or nearly so"
    path = f"/anna/data/{name_of(data)}"
    with with_bomb(root, step, nth, when) as server:
        server.put(data)
        arm(root)
        asks_in_vain(server, "DELETE", path, None, who=ADMIN)
        disarm(root)
    with Serving(root) as server:
        status = server.ask("GET", "/anna/?coopfs=status").json()
        assert status["objects"] + status["trash_objects"] == 1
        assert server.ask("DELETE", path, who=ADMIN).status in (200, 404)
        assert server.ask("GET", "/anna/?coopfs=status").json()["trash_objects"] == 1
        server.put(data)  # in the trash or not
        check_sound(server, {name_of(data): data})


def test_emptying_killed_in_the_middle_goes_on_the_next_time(root: Path) -> None:
    with Serving(root) as server:
        for number in range(6):
            name = server.put(b"to go %d" % number)
            assert server.ask("DELETE", f"/anna/data/{name}", who=ADMIN).status == 200
        kept = server.put(b"deleted today")
        assert server.ask("DELETE", f"/anna/data/{kept}", who=ADMIN).status == 200
    places = Places(root / "partners/anna")
    for aside in list(places.list_aside(TRASH)):
        if aside.name != kept:  # it has lain there for longer than was agreed
            older = places.aside(TRASH, aside.kind, aside.name, aside.since_ns - 31 * DAY_NS)
            os.rename(aside.path, older)
    arm(root)
    server = with_bomb(root, "unlink", 3, "after")
    with suppress(AssertionError):  # the trash is looked into at once, or a moment after
        server.start()
    server.wait()
    disarm(root)
    left = {aside.name for aside in places.list_aside(TRASH)}
    assert kept in left and 1 < len(left) < 7
    with Serving(root):
        wait_until(
            lambda: {aside.name for aside in places.list_aside(TRASH)} == {kept}, "the emptying"
        )


def test_line_cut_in_the_middle_leaves_nothing_and_the_next_attempt_completes(root: Path) -> None:
    data = os.urandom(5 << 20)
    head = f"POST /anna/data/{name_of(data)} HTTP/1.1\r\nHost: x\r\n"
    head += f"Content-Length: {len(data)}\r\n\r\n"
    with Serving(root) as server:
        for cut in (0, 1, 100_000, len(data) - 1):
            sock = server.connect()
            sock.sendall(head.encode() + data[:cut])
            sock.close()
        wait_until(lambda: server.log().count("not ended") == 4, "the ends of the uploads")
        check_sound(server, {})
        # The whole body arrives, the answer does not: done all the same.
        sock = server.connect()
        sock.sendall(head.encode() + data)
        sock.close()
        path = f"/anna/data/{name_of(data)}"
        wait_until(lambda: server.ask("HEAD", path).status == 200, "the object")
        server.put(data)
        check_sound(server, {name_of(data): data})


def test_server_killed_under_many_uploads_keeps_every_one_it_acknowledged(root: Path) -> None:
    import threading

    acknowledged: dict[str, bytes] = {}
    server = Serving(root)

    def upload(number: int) -> None:
        try:
            with server.client() as client:
                for turn in range(1000):
                    data = os.urandom(300_000 + number) + bytes([turn % 256])
                    if client.ask("POST", f"/anna/data/{name_of(data)}", data).status == 200:
                        acknowledged[name_of(data)] = data
        except (OSError, http.client.HTTPException):
            pass  # the kill

    with server:
        threads = [threading.Thread(target=upload, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(acknowledged) > 20, "some uploads")
        server.kill()
        for thread in threads:
            thread.join()
    with Serving(root) as server:
        for name, data in acknowledged.items():
            assert server.ask("GET", f"/anna/data/{name}").body == data
        assert list((root / "partners/anna/incoming").iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    path = tmp_path / "small"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(path)], check=False
    )
    if mounted.returncode:
        pytest.skip("no tmpfs can be mounted here: A FULL DISK IS NOT TESTED")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.mark.root
def test_full_disk_is_a_507_and_the_next_attempt_completes(small_disk: Path) -> None:
    root = small_disk / "root"
    root.mkdir()
    admit_anna(root)
    pieces = [os.urandom(8 << 20) for _ in range(3)]
    with Serving(root) as server:
        server.put(pieces[0])
        assert server.ask("POST", f"/anna/data/{name_of(b'')}", os.urandom(20 << 20)).status == 507
        # Both would fit when they begin; the disk fills up while they come.
        socks = []
        for piece in pieces[1:]:
            sock = server.connect()
            sock.settimeout(DEADLINE_S)
            head = f"POST /anna/data/{name_of(piece)} HTTP/1.1\r\nHost: x\r\n"
            sock.sendall(f"{head}Content-Length: {len(piece)}\r\n\r\n".encode() + piece[:1000])
            socks.append(sock)
        wait_until(lambda: len(list((root / "partners/anna/incoming").iterdir())) == 2, "both")
        first = statuses(raw_answers_until_answer(socks[0], pieces[1][1000:]))
        second = statuses(raw_answers_until_answer(socks[1], pieces[2][1000:]))
        assert first + second in ([200, 507], [507, 200])
        lost = pieces[2] if second == [507] else pieces[1]
        assert list((root / "partners/anna/incoming").iterdir()) == []
        assert server.ask("HEAD", f"/anna/data/{name_of(lost)}").status == 404
        name = name_of(pieces[0])
        assert server.ask("DELETE", f"/anna/data/{name}", who=ADMIN).status == 200
        for trashed in (root / "partners/anna/trash/data").rglob("*.*"):
            trashed.unlink()  # the partner makes room
        assert server.put(lost)


def raw_answers_until_answer(sock: object, data: bytes) -> bytes:
    """Send the rest of a body and return the answer; the server may hang up before the end."""
    import ssl

    assert isinstance(sock, ssl.SSLSocket)
    with sock:
        try:
            sock.sendall(data)
            return sock.recv(1 << 16)
        except OSError:
            return raw_answers(sock, b"")


def test_server_stopped_dead_lets_its_clients_wait_no_longer_than_they_want(root: Path) -> None:
    import signal

    with Serving(root) as server, server.client() as client:
        assert client.ask("HEAD", "/anna/config").status == 404
        server.signal(signal.SIGSTOP)
        threads = Path(f"/proc/{server.pid}/task")
        wait_until(
            lambda: all(") T" in (task / "stat").read_text() for task in threads.iterdir()),
            "every thread to stop",
        )
        assert client.connection.sock is not None
        client.connection.sock.settimeout(0.5)
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            client.ask("HEAD", "/anna/config")
        assert time.monotonic() - began < 30
        server.signal(signal.SIGCONT)
        assert server.ask("HEAD", "/anna/config").status == 404
