from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from lines import Line, Words, answer
from servers import Server, free_port, make_certificate, rclone_server, rest_server, write_htpasswd
from store_suite import name_of, put_new, sizes, some_bytes

from coopfs.errors import (
    CoopfsError,
    NotAStore,
    ObjectCorrupt,
    ObjectNotFound,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreIdentity,
    StoreUnavailable,
)
from coopfs.store import http, rest
from coopfs.store.base import Kind, Store
from coopfs.store.open import create_store, open_store

NAME = name_of(b"an object")


@pytest.fixture
def starting() -> Iterator[ExitStack]:
    """Yield what ends the servers and closes the stores of a test."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up after a second."""
    monkeypatch.setenv("COOPFS_STORE_TIMEOUT", "1")


class Served:
    """A stock rest-server, a store on it, and the line between them."""

    def __init__(self, starting: ExitStack, root: Path, *options: str | Path) -> None:
        port = free_port()
        self.root = root
        root.mkdir()
        self.server: Server = starting.enter_context(rest_server(root, port, *options))
        self.line = starting.enter_context(Line(port))
        self.address = f"rest+http://127.0.0.1:{self.line.port}/here/"
        self.store: Store = starting.enter_context(create_store(self.address))
        self.line.requests.clear()

    def files(self) -> list[Path]:
        return [path for path in self.root.rglob("*") if path.is_file()]


@pytest.fixture
def served(starting: ExitStack, tmp_path: Path) -> Served:
    return Served(starting, tmp_path / "served")


def told(
    starting: ExitStack, say: Callable[[str, socket.socket], bytes | None]
) -> tuple[Store, Words]:
    """Return a store whose server says what *say* returns."""
    words = starting.enter_context(Words(say))
    return starting.enter_context(open_store(f"rest+http://127.0.0.1:{words.port}/")), words


# --- the line and the server fail -----------------------------------------------------


def test_a_server_killed_in_the_middle_of_an_upload_gets_it_when_it_is_back(
    served: Served,
) -> None:
    def restart() -> None:
        served.server.kill()
        served.server.start()

    served.line.on_cut = restart
    served.line.cut_after = 5 << 20
    data = some_bytes(16 << 20)
    name = put_new(served.store, data)
    assert served.line.cuts == 1
    assert served.line.requests["POST"] == 2
    assert served.store.get(Kind.DATA, name) == data
    assert sizes(served.store, Kind.DATA) == {name: 16 << 20}


def test_an_upload_whose_answer_was_lost_is_done_and_not_sent_again(served: Served) -> None:
    served.line.lose_answers = 1
    name = put_new(served.store, b"arrived")
    assert served.line.cuts == 1
    assert served.line.requests["POST"] == 1
    assert served.store.get(Kind.DATA, name) == b"arrived"


def test_a_config_whose_answer_was_lost_is_done(served: Served) -> None:
    served.line.lose_answers = 1
    served.store.put_config(b"config")
    assert served.line.requests["POST"] == 1
    assert served.store.get_config() == b"config"


def test_a_deletion_whose_answer_was_lost_is_done(served: Served) -> None:
    name = put_new(served.store, b"goes")
    served.line.lose_method, served.line.lose_answers = "DELETE", 1
    served.store.delete(Kind.DATA, name)
    assert served.line.cuts == 1
    with pytest.raises(ObjectNotFound):
        served.store.size(Kind.DATA, name)


def test_an_answer_cut_off_in_the_middle_is_asked_for_again(
    starting: ExitStack, served: Served
) -> None:
    data = some_bytes(300_000)
    whole = answer(200, data)
    answers = [whole[:-1], whole[:100_000], whole]

    def say(_first: str, sock: socket.socket) -> bytes | None:
        said = answers.pop(0)
        sock.sendall(said)
        return b"" if said == whole else None

    store, words = told(starting, say)
    assert store.get(Kind.DATA, NAME) == data
    assert len(words.requests) == 3


def test_a_server_that_was_restarted_is_reached_again(served: Served) -> None:
    name = put_new(served.store, b"stays")
    for _ in range(3):
        served.server.kill()
        served.line.drop_all()
        served.server.start()
        assert served.store.get(Kind.DATA, name, 1, 3) == b"tay"


def test_connections_pulled_out_under_many_threads_lose_nothing(served: Served) -> None:
    objects = [some_bytes(1 << 20, seed) for seed in range(24)]
    is_done = threading.Event()

    def pull() -> None:
        while not is_done.wait(0.1):
            served.line.drop_all()

    with ThreadPoolExecutor(9) as pool:
        pulling = pool.submit(pull)
        try:
            list(pool.map(lambda data: put_new(served.store, data), objects))
        finally:
            is_done.set()
        pulling.result()
    assert sizes(served.store, Kind.DATA) == {name_of(data): 1 << 20 for data in objects}
    assert all(served.store.get(Kind.DATA, name_of(data)) == data for data in objects)


@pytest.mark.usefixtures("impatient")
def test_a_server_that_falls_silent_is_given_up_on_and_used_when_it_is_back(
    served: Served,
) -> None:
    name = put_new(served.store, b"an object")
    served.server.pause()
    for call in (
        lambda: served.store.get(Kind.DATA, name),
        lambda: put_new(served.store, some_bytes(1 << 20)),
        lambda: list(served.store.list(Kind.DATA)),
        served.store.get_config,
    ):
        begun = time.monotonic()
        with pytest.raises(StoreUnavailable, match="fallen silent"):
            call()
        assert time.monotonic() - begun < 10
    served.server.go_on()
    assert served.store.get(Kind.DATA, name) == b"an object"


@pytest.mark.usefixtures("impatient")
def test_what_hinders_a_connection_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look_up(host: str, *args: object, **kwargs: object) -> object:
        if host.endswith(".invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(host, *args, **kwargs)

    real: Callable[..., object] = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    addresses = {
        f"rest+http://127.0.0.1:{free_port()}/": "refused",
        "rest+http://no-such-host.invalid/": "name of the host",
        f"rest+http+unix://{tmp_path}/absent:/": "no such socket",
    }
    for address, reason in addresses.items():
        with (
            open_store(address) as store,
            pytest.raises(StoreUnavailable, match=rf"data/{NAME.hex()} at .*{reason}"),
        ):
            store.get(Kind.DATA, NAME)


def test_a_server_in_trouble_is_tried_again(starting: ExitStack) -> None:
    statuses = [500, 503, 429, 200]
    store, words = told(starting, lambda *_: answer(statuses.pop(0), b"busy"))
    assert store.get(Kind.DATA, NAME) == b"busy"
    assert len(words.requests) == 4


@pytest.mark.usefixtures("impatient")
def test_a_server_that_stays_in_trouble_is_reported_in_its_own_words(starting: ExitStack) -> None:
    store, words = told(starting, lambda *_: answer(503, b"down for\r\n maintenance"))
    with pytest.raises(StoreUnavailable, match=r"status 503.*\(down for maintenance\).*tries"):
        store.get(Kind.DATA, NAME)
    assert len(words.requests) > 1


# --- what may be there instead of a store ---------------------------------------------


@pytest.mark.parametrize(
    "said", [b"SSH-2.0-OpenSSH_9.2\r\n", b"\x00\x01\x02\xff" * 100, b"220 FTP\r\n\r\n", b"\n" * 9]
)
def test_what_speaks_no_http_is_no_store(starting: ExitStack, said: bytes) -> None:
    store, words = told(starting, lambda _, sock: sock.sendall(said))
    with pytest.raises(NotAStore, match="speaks no HTTP"):
        store.get(Kind.DATA, NAME)
    assert words.connections == 1


def test_a_web_server_is_no_store(starting: ExitStack) -> None:
    store, _ = told(starting, lambda *_: answer(200, b"<html>Welcome!</html>"))
    with pytest.raises(NotAStore, match="no listing"):
        list(store.list(Kind.DATA))
    with pytest.raises(NotAStore, match="status 405"):
        put_new(told(starting, lambda *_: answer(405))[0], b"x")
    with pytest.raises(NotAStore, match="status 301"):
        told(starting, lambda *_: answer(301, Location="http://x/"))[0].get(Kind.DATA, NAME)


def test_a_path_without_a_store_is_named(served: Served) -> None:
    with open_store(served.address.replace("here", "there")) as store:
        with pytest.raises(ObjectNotFound, match="config"):
            store.get_config()
        with pytest.raises(NotAStore, match=r"/there/: no store there.*coopfs init"):
            list(store.list(Kind.DATA))


def test_a_listing_that_came_to_nothing_once_is_asked_for_again(starting: ExitStack) -> None:
    answers = [answer(404), answer(200, b"null")]
    store, words = told(starting, lambda *_: answers.pop(0))
    assert list(store.list(Kind.DATA)) == []
    assert len(words.requests) == 2


def test_an_endless_listing_is_cut_off(
    starting: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest, "LIST_LEN_MAX", 100_000)

    def say(_first: str, sock: socket.socket) -> None:
        sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            sock.sendall(b"1000\r\n" + b" " * 0x1000 + b"\r\n")

    store, _ = told(starting, say)
    with pytest.raises(NotAStore, match="endless"):
        list(store.list(Kind.DATA))


def test_a_store_is_not_made_where_one_is(served: Served) -> None:
    create_store(served.address).close()  # begun and empty: go on
    name = put_new(served.store, b"x", Kind.INDEX)
    with pytest.raises(NotAStore, match=r"/here/: has objects in index/ but no config"):
        create_store(served.address)
    served.store.delete(Kind.INDEX, name)
    served.store.put_config(b"config")
    with pytest.raises(StoreError, match="holds a store already"):
        create_store(served.address)


# --- servers that lie -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (answer(206, b"x" * 10), StoreError),
        (answer(206, b"x" * 10, Content_Range="bytes 0-9/100"), StoreError),
        (answer(206, b"x" * 9, Content_Range="bytes 5-14/100"), StoreError),
        (answer(206, b"x" * 11, Content_Range="bytes 5-14/100"), StoreError),
        (answer(206, b"x" * 5, Content_Range="bytes 5-9/10"), ObjectCorrupt),
        (answer(206, b"", Content_Range="bytes 9--1/5"), ObjectCorrupt),
        (
            answer(206, b"x" * 10, Content_Range="bytes ٥-14/100".encode().decode("latin-1")),
            StoreError,
        ),
        (answer(200, b"x" * 14), ObjectCorrupt),
        (answer(416, b"", Content_Range="bytes */100"), StoreError),
        (answer(416, b"", Content_Range="bytes */9"), ObjectCorrupt),
        (answer(404), ObjectNotFound),
        (answer(403, b"no"), StoreDenied),
        (answer(401), StoreDenied),
    ],
)
def test_an_answer_that_is_not_what_was_asked_for_is_refused(
    starting: ExitStack, said: bytes, error: type[CoopfsError]
) -> None:
    store, _ = told(starting, lambda *_: said)
    with pytest.raises(error, match=NAME.hex()) as caught:
        store.get(Kind.DATA, NAME, 5, 10)
    assert type(caught.value) is error


def test_a_server_without_ranges_will_do(starting: ExitStack) -> None:
    data = some_bytes(1000)
    store, _ = told(starting, lambda *_: answer(200, data))
    assert store.get(Kind.DATA, NAME, 5, 10) == data[5:15]
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\n%b\r\n0\r\n\r\n" % data
    store, _ = told(starting, lambda *_: chunked)
    assert store.get(Kind.DATA, NAME, 5, 10) == data[5:15]
    assert store.get(Kind.DATA, NAME, 990, None) == data[990:]


def test_an_absurd_length_is_refused_before_anything_is_read(starting: ExitStack) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 4611686018427387904\r\n\r\n"
    store, _ = told(starting, lambda *_: head)
    with pytest.raises(ObjectCorrupt, match="more than any object"):
        store.get(Kind.DATA, NAME)
    with pytest.raises(ObjectCorrupt, match="more than any object"):
        store.get(Kind.DATA, NAME, 0, 5)


def test_a_config_that_is_too_long_is_none(starting: ExitStack) -> None:
    store, _ = told(starting, lambda *_: answer(200, b"x" * 70_000))
    with pytest.raises(ObjectCorrupt, match="more than 65536 bytes"):
        store.get_config()


def test_control_characters_of_a_server_reach_no_terminal(starting: ExitStack) -> None:
    store, _ = told(starting, lambda *_: answer(400, b"\x1b]0;owned\x07"))
    with pytest.raises(StoreError) as caught:
        store.get(Kind.DATA, NAME)
    assert str(caught.value).isprintable()


def test_an_object_the_server_lost_again_is_put(starting: ExitStack) -> None:
    """A 403 may mean that the name is taken; only if it is, the upload is done."""
    statuses = {"HEAD": [404, 404], "POST": [403]}
    store, _ = told(starting, lambda first, _: answer(statuses[first.split()[0]].pop(0)))
    with pytest.raises(StoreDenied, match="does not let us"):
        put_new(store, b"an object")


# --- who is who -------------------------------------------------------------------------


class TlsWords(Words):
    """The same behind TLS; connections whose handshake fails say nothing."""

    def __init__(self, folder: Path, host: str = "127.0.0.1") -> None:
        super().__init__(lambda *_: answer(200, b"secret"))
        self.made = make_certificate(folder, host)
        self._context = self.made.context()

    def handle(self, sock: socket.socket) -> None:
        with self._context.wrap_socket(sock, server_side=True) as wrapped:
            super().handle(wrapped)


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[TlsWords]:
    with TlsWords(tmp_path) as words:
        yield words


def get_from(address: str) -> bytes:
    with open_store(address) as store:
        return store.get(Kind.DATA, NAME)


def test_the_pinned_and_the_vouched_for_certificate_are_believed(tls: TlsWords) -> None:
    at = f"rest+https://127.0.0.1:{tls.port}/?"
    assert get_from(f"{at}pin={tls.made.pin}") == b"secret"
    assert get_from(f"{at}ca={tls.made.certificate}") == b"secret"


def test_another_certificate_is_a_stranger_and_is_sent_nothing(
    tls: TlsWords, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    stranger = make_certificate(other)
    at = f"rest+https://ann:hunter2@127.0.0.1:{tls.port}/"
    for option in ("", f"?pin={stranger.pin}", f"?ca={stranger.certificate}"):
        with pytest.raises(StoreIdentity, match="not the machine that was expected") as caught:
            get_from(at + option)
        assert "hunter2" not in str(caught.value)
    assert tls.connections == 3  # each once: no retry makes it the right one
    assert tls.requests == []


def test_a_certificate_for_another_host_is_a_stranger(tmp_path: Path) -> None:
    with TlsWords(tmp_path, "127.0.0.2") as tls:
        with pytest.raises(StoreIdentity, match=r"127\.0\.0\.1"):
            get_from(f"rest+https://127.0.0.1:{tls.port}/?ca={tls.made.certificate}")
        assert tls.requests == []


def test_servers_with_and_without_tls_are_told_apart(
    starting: ExitStack, tmp_path: Path, served: Served
) -> None:
    with pytest.raises(NotAStore, match=r"speaks no TLS.*rest\+http://"):
        get_from(served.address.replace("http", "https"))
    port, made = free_port(), make_certificate(tmp_path)
    starting.enter_context(rest_server(tmp_path / "served", port, *made.options))
    with pytest.raises(StoreError, match="HTTP request to an HTTPS server"):
        get_from(f"rest+http://127.0.0.1:{port}/")


def test_a_wrong_password_is_denied_and_not_shown(
    starting: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    users = write_htpasswd(tmp_path, "ann", "right")
    starting.enter_context(
        rest_server(tmp_path / "served", port, "--htpasswd-file", users, "--private-repos")
    )
    create_store(f"rest+http://ann:right@127.0.0.1:{port}/ann/x/").close()
    for who, place in (("", "ann"), ("ann:hunter2@", "ann"), ("ann:right@", "bob")):
        address = f"rest+http://{who}127.0.0.1:{port}/{place}/x/"
        with open_store(address) as store, pytest.raises(StoreDenied, match="who we are") as caught:
            store.get_config()
        assert "hunter2" not in str(caught.value)
        assert "right" not in str(caught.value)
    monkeypatch.setenv("COOPFS_REST_USERNAME", "ann")
    monkeypatch.setenv("COOPFS_REST_PASSWORD", "right")
    with open_store(f"rest+http://127.0.0.1:{port}/ann/x/") as store:
        assert list(store.list(Kind.DATA)) == []


# --- no room ------------------------------------------------------------------------------


def test_a_full_server_says_so_and_keeps_nothing_of_it(starting: ExitStack, tmp_path: Path) -> None:
    served = Served(starting, tmp_path / "served", "--max-size", str(1 << 20))
    name = put_new(served.store, some_bytes(600_000))
    with pytest.raises(StoreFull, match="no room left"):
        put_new(served.store, some_bytes(16 << 20))
    assert sizes(served.store, Kind.DATA) == {name: 600_000}
    put_new(served.store, some_bytes(100_000))


def test_a_refusal_in_the_middle_of_an_upload_is_heard(starting: ExitStack) -> None:
    """The server answers before it has read the body, and hangs up."""

    class Refusing(Words):
        def handle(self, sock: socket.socket) -> None:
            head = sock.recv(1 << 16)
            if head.startswith(b"HEAD"):
                sock.sendall(answer(404))
                sock.recv(1 << 16)
            sock.sendall(answer(507, b"1 byte left", Connection="close"))
            sock.shutdown(socket.SHUT_WR)

    words = starting.enter_context(Refusing(lambda *_: None))
    store = starting.enter_context(open_store(f"rest+http://127.0.0.1:{words.port}/"))
    with pytest.raises(StoreFull, match="1 byte left"):
        put_new(store, some_bytes(64 << 20))


# --- rclone ---------------------------------------------------------------------------------


def test_what_a_dead_rclone_left_is_completed_and_nothing_else(
    starting: ExitStack, tmp_path: Path
) -> None:
    port, root = free_port(), tmp_path / "served"
    starting.enter_context(rclone_server(root, f"127.0.0.1:{port}", "--cache-objects=false"))
    store = starting.enter_context(create_store(f"rest+http://127.0.0.1:{port}/"))
    data = some_bytes(100_000)
    place = root / "data" / name_of(data).hex()[:2] / name_of(data).hex()
    place.parent.mkdir(parents=True)
    place.write_bytes(data[:70_000])
    store.put(Kind.DATA, name_of(data), [data[:10], data[10:80_000], data[80_000:]])
    assert place.read_bytes() == data
    place.write_bytes(data[:69_999] + b"?")
    with pytest.raises(ObjectCorrupt, match="70000 bytes"):
        put_new(store, data)
    assert place.read_bytes() == data[:69_999] + b"?"
    assert not store.is_durable


# --- how much it costs ----------------------------------------------------------------------


def test_a_range_costs_one_round_trip_on_a_connection_that_is_kept(served: Served) -> None:
    name = put_new(served.store, some_bytes(100_000))
    served.line.requests.clear()
    connections = served.line.connections
    for offset in range(0, 100_000, 1000):
        served.store.get(Kind.DATA, name, offset, 1000)
    assert served.line.requests == {"GET": 100}
    assert served.line.connections == connections == 1


def test_many_threads_share_a_few_connections(served: Served) -> None:
    name = put_new(served.store, some_bytes(100_000))
    with ThreadPoolExecutor(40) as pool:
        got = pool.map(lambda n: served.store.get(Kind.DATA, name, n, 50_000), range(400))
        assert all(len(data) == 50_000 for data in got)
    assert 1 < served.line.connections <= http.CONNECTIONS


def test_an_error_leaves_the_connection_usable(served: Served) -> None:
    for _ in range(20):
        with pytest.raises(ObjectNotFound):
            served.store.get(Kind.DATA, NAME)
    assert served.line.connections == 1
