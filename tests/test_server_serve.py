"""A server as its operator knows it: who is let in, limits, settings on the run, its end."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import socket
import ssl
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from serving import (
    ADMIN,
    BERTA,
    SECOND_WRITER,
    STRANGER,
    WRITER,
    Serving,
    admit_anna,
    admit_berta,
    name_of,
    raw_answers,
    statuses,
    wait_until,
)

from coopfs.identity import Identity, make_identity, pin_of
from coopfs.server.settings import PartnerSettings, load_partner, save_partner


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    admit_anna(folder)
    admit_berta(folder)
    return folder


def limits(root: Path, **values: int | str) -> None:
    """Write the server's settings."""
    lines = [f"{key} = {value!r}\n".replace("'", '"') for key, value in values.items()]
    (root / "serve.toml").write_text("".join(lines))


# --- who is let in --------------------------------------------------------------


def is_let_in(server: Serving, who: Identity | None) -> bool:
    try:
        with server.client(who) as client:
            return client.ask("HEAD", "/anna/config").status in (200, 404)
    except (ssl.SSLError, ConnectionError):
        return False


def certified(key_seed: bytes, begin: datetime, end: datetime) -> Identity:
    """Return an identity whose certificate holds from *begin* to *end*."""
    key = Ed25519PrivateKey.from_private_bytes(key_seed)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"client {key_seed[:1]!r}")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(77)
        .not_valid_before(begin)
        .not_valid_after(end)
        .sign(key, None)
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    der = certificate.public_bytes(Encoding.DER)
    return Identity(key_seed, ssl.DER_cert_to_PEM_cert(der), pem, pin_of(der), b"")


def test_only_pinned_certificates_that_hold_are_let_in(root: Path) -> None:
    now = datetime.now(UTC)
    day = timedelta(days=1)
    good = certified(b"g" * 32, now - day, now + day)
    expired = certified(b"e" * 32, now - 2 * day, now - day)
    future = certified(b"f" * 32, now + day, now + 2 * day)
    save_partner(root, PartnerSettings("carl", (good.cert_pem, expired.cert_pem, future.cert_pem)))
    # The same key in another certificate is another certificate.
    renewed = certified(b"g" * 32, now - day, now + 2 * day)
    with Serving(root) as server:
        assert is_let_in(server, WRITER) and is_let_in(server, ADMIN) and is_let_in(server, good)
        for who in (STRANGER, expired, future, renewed, None):
            assert not is_let_in(server, who)
        assert "certificate has expired" in server.log()


def test_certificate_signed_by_a_partner_is_not_the_partner(root: Path, tmp_path: Path) -> None:
    """Who holds a partner's key makes no further identities with it."""
    now, day = datetime.now(UTC), timedelta(days=1)
    ca_key = Ed25519PrivateKey.from_private_bytes(b"C" * 32)
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a partner and authority")])

    def sign(name: x509.Name, key: Ed25519PrivateKey, *, is_ca: bool) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(ca_name)
            .public_key(key.public_key())
            .serial_number(5)
            .not_valid_before(now - day)
            .not_valid_after(now + day)
            .add_extension(x509.BasicConstraints(is_ca, None), critical=True)
        )
        return builder.sign(ca_key, None).public_bytes(Encoding.PEM)

    authority = sign(ca_name, ca_key, is_ca=True).decode()
    save_partner(root, PartnerSettings("carl", (authority,)))
    leaf_key = Ed25519PrivateKey.from_private_bytes(b"L" * 32)
    leaf_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a leaf")])
    leaf = sign(leaf_name, leaf_key, is_ca=False).decode()
    secret = leaf_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    with Serving(root) as server:
        assert not is_let_in(server, Identity(b"", leaf, secret, "", b""))
        wait_until(lambda: "its certificate is nobody's" in server.log(), "the refusal")


def test_strangers_learn_no_names_of_partners(root: Path) -> None:
    with Serving(root) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        seen = bytearray()
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = context.wrap_bio(incoming, outgoing)
            for _ in range(10):
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    sock.sendall(outgoing.read())
                    piece = sock.recv(1 << 16)
                    seen += piece
                    incoming.write(piece)
            # What TLS 1.3 encrypts can be asked of OpenSSL's own client.
        shown = subprocess.run(
            ["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", "-msg"],
            input=b"",
            capture_output=True,
            check=False,
            timeout=30,
        ).stdout
        for who in (WRITER, ADMIN, BERTA):
            pem = x509.load_pem_x509_certificate(who.cert_pem.encode())
            assert pem.subject.rfc4514_string().encode() not in shown
        assert b"No client certificate CA names sent" in shown
        assert b"anna" not in seen + shown and b"berta" not in seen + shown


def test_old_tls_is_refused(root: Path) -> None:
    with Serving(root) as server:
        context = server.context(WRITER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with (
            socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock,
            pytest.raises(ssl.SSLError),
        ):
            context.wrap_socket(sock)


def test_key_that_was_taken_away_is_out_at_its_next_request(root: Path) -> None:
    with Serving(root) as server, server.client(SECOND_WRITER) as client:
        assert client.ask("HEAD", "/anna/config").status == 404
        save_partner(root, PartnerSettings("anna", (WRITER.cert_pem,)))
        server.signal(signal.SIGHUP)
        wait_until(lambda: "settings have changed" in server.log(), "the new settings")
        assert client.ask("GET", "/anna/data/").status == 401
        wait_until(lambda: not is_let_in(server, SECOND_WRITER), "the key to be out")
        assert is_let_in(server, WRITER)


def test_partner_that_comes_while_the_server_runs_is_let_in(root: Path) -> None:
    carl = make_identity(b"c" * 32)
    with Serving(root) as server:
        assert not is_let_in(server, carl)
        save_partner(root, PartnerSettings("carl", (carl.cert_pem,)))
        wait_until(lambda: is_let_in(server, carl), "carl to be let in")  # no signal needed
        assert server.ask("GET", "/carl/data/", who=carl).status == 200


def test_damaged_settings_keep_what_held_before(root: Path) -> None:
    with Serving(root) as server:
        (root / "partners/anna/partner.toml").write_text("version = 1\nquota = 'much'\n")
        wait_until(lambda: "unknown setting" in server.log(), "the complaint")
        (root / "serve.toml").write_text("stall_s = 0\n")
        wait_until(lambda: "stall_s is 0" in server.log(), "the complaint")
        assert is_let_in(server, WRITER) and is_let_in(server, BERTA)


def test_two_servers_never_share_a_folder(root: Path) -> None:
    with Serving(root):
        second = subprocess.run(
            [*Serving.coopfs(), "serve", "--root", root, "--listen", "127.0.0.1:0"],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert second.returncode == 1 and "another coopfs serve" in second.stderr
        assert "Traceback" not in second.stderr


# --- limits -----------------------------------------------------------------------


def test_garbage_and_floods_are_answered_or_cut_off(root: Path) -> None:
    limits(root, head_s=1, handshake_s=1)
    with Serving(root, "--http", "127.0.0.1:0") as server:
        where = ("127.0.0.1", int(server.addresses["http"].rpartition(":")[2]))

        def answers(data: bytes) -> bytes:
            with socket.create_connection(where) as sock:
                return raw_answers(sock, data)

        line = b"GET /anna/config HTTP/1.1\r\nHost: x\r\n"
        assert statuses(answers(b"\x16\x03\x01" + os.urandom(4000))) == [400]
        assert statuses(answers(b"nonsense\r\n\r\n")) == [400]
        assert statuses(answers(line + b"X: " + b"x" * 100_000)) == [431]
        assert statuses(answers(line + b"X: y\r\n" * 20_000)) == [431]
        assert statuses(answers(b"GET /" + b"x" * 100_000)) in ([414], [431])
        assert statuses(
            answers(
                b"POST /anna/config HTTP/1.1\r\nHost: x\r\n"
                b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx"
            )
        ) == [400]
        assert statuses(
            answers(b"POST /anna/config HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\nxx")
        ) == [400]
        assert statuses(
            answers(
                b"POST /anna/config HTTP/1.1\r\nHost: x\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n"
                + b"ffff\r\n"
                + b"x" * 0xFFFF
                + b"\r\n"
                + b"ffff\r\n"
                + b"x" * 0xFFFF
            )
        ) == [411]
        assert statuses(answers(line)) == []  # a head that never ends is cut off
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            assert b"HTTP" not in raw_answers(sock, line + b"\r\n")  # plain HTTP where TLS is
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            assert raw_answers(sock, b"") == b""  # silence where TLS is
        assert is_let_in(server, WRITER)


def test_bodies_that_are_too_long_are_refused_before_they_come(root: Path) -> None:
    with Serving(root) as server:
        for path, length, status in (
            ("/anna/config", 1 << 20, 413),
            (f"/anna/data/{'0' * 64}", (1 << 30) + 1, 413),
            (f"/anna/data/{'0' * 64}", 1 << 62, 413),
            ("/anna/?coopfs=prove", 1 << 21, 413),
        ):
            with server.connect() as sock:
                head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
                assert statuses(raw_answers(sock, head.encode() + b"x" * 1000)) == [status]


def test_client_that_asks_first_is_answered_before_its_body(root: Path) -> None:
    data = b"only when told to"
    with Serving(root) as server, server.connect() as sock:
        head = (
            f"POST /anna/data/{name_of(data)} HTTP/1.1\r\nHost: x\r\n"
            f"Content-Length: {len(data)}\r\nExpect: 100-continue\r\n\r\n"
        ).encode()
        sock.sendall(head)
        assert sock.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(data)
        assert statuses(sock.recv(1000)) == [200]
        refused = head.replace(b"data/", b"nothing/")
        assert statuses(raw_answers(sock, refused)) == [404]  # and no 100 before


def test_requests_may_follow_each_other_without_waiting(root: Path) -> None:
    with Serving(root) as server, server.connect() as sock:
        data = b"first of two"
        put = (
            f"POST /anna/data/{name_of(data)} HTTP/1.1\r\nHost: x\r\n"
            f"Content-Length: {len(data)}\r\n\r\n"
        ).encode() + data
        get = f"GET /anna/data/{name_of(data)} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        last = b"HEAD /anna/config HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        received = raw_answers(sock, put + get + last)
        assert statuses(received) == [200, 200, 404] and data in received


def test_slow_and_endless_clients_are_cut_off_and_leave_nothing(root: Path) -> None:
    limits(root, stall_s=1, slow_bytes_per_s=500)
    data = os.urandom(3 << 20)
    name = name_of(data)
    head = (
        f"POST /anna/data/{name} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
    ).encode()
    with Serving(root) as server:
        kept = os.urandom(16 << 20)
        kept_name = server.put(kept)

        def sends_nothing() -> list[int]:
            with server.connect() as sock:
                return statuses(raw_answers(sock, head + data[:1000]))

        def drips() -> list[int]:
            with server.connect() as sock:
                sock.sendall(head)
                try:
                    for byte in data[:100]:
                        sock.sendall(bytes([byte]))
                        time.sleep(0.1)  # a slow client is what is tested
                except OSError:
                    return [408]
                return []

        def takes_nothing() -> bool:
            with server.connect() as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                ask = f"GET /anna/data/{kept_name} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
                sock.sendall(ask)
                wait_until(lambda: "it took" in server.log(), "the end of a client's patience")
                return True

        with ThreadPoolExecutor(3) as pool:
            jobs = [pool.submit(job) for job in (sends_nothing, drips, takes_nothing)]
            assert [job.result() for job in jobs] == [[408], [408], True]
        assert list((root / "partners/anna/incoming").iterdir()) == []
        assert server.ask("HEAD", f"/anna/data/{name}").status == 404
        server.put(data)


def test_slow_clients_keep_no_thread_from_others(root: Path) -> None:
    with Serving(root) as server:
        data = os.urandom(1 << 20)
        socks = []
        for number in range(40):  # more than there are threads
            body = data + bytes([number])
            sock = server.connect()
            socks.append((sock, body))
            head = f"POST /anna/data/{name_of(body)} HTTP/1.1\r\nHost: x\r\n"
            sock.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:1000])
        wait_until(lambda: len(list((root / "partners/anna/incoming").iterdir())) == 40, "uploads")
        began = time.monotonic()
        server.put(b"in between")
        assert time.monotonic() - began < 10
        # Nor when they drip so that each waits only for moments.
        stop = threading.Event()

        def drip() -> None:
            sent = 1000
            while not stop.is_set():
                for sock, body in socks:
                    sock.sendall(body[sent : sent + 10])
                sent += 10
            for sock, body in socks:
                sock.sendall(body[sent:])

        dripping = threading.Thread(target=drip)
        dripping.start()
        large = os.urandom(8 << 20)
        began = time.monotonic()
        server.put(large)
        assert time.monotonic() - began < 10
        stop.set()
        dripping.join()
        for sock, _ in socks:
            assert statuses(sock.recv(4096)) == [200]
            sock.close()


def test_connections_are_limited_in_all_and_for_one_partner(root: Path) -> None:
    limits(root, connections=6, connections_partner=3)
    with Serving(root) as server:
        with server.client() as one, server.client() as two, server.client() as three:
            for client in (one, two, three):
                assert client.ask("HEAD", "/anna/config").status == 404
            reply = server.ask("HEAD", "/anna/config")
            assert reply.status == 503
            with server.client(BERTA) as hers:  # is not kept out by anna
                assert hers.ask("HEAD", "/berta/config").status == 404
                sock_a, sock_b = (
                    socket.create_connection(("127.0.0.1", server.port)) for _ in range(2)
                )
                with sock_a, sock_b, pytest.raises((OSError, ssl.SSLError)):
                    for _ in range(3):  # the server may be about to close the 503's
                        server.ask("HEAD", "/berta/config", who=BERTA)
        wait_until(lambda: is_let_in(server, WRITER), "room for a connection")


def test_a_partner_does_not_take_all_places_with_idle_connections(root: Path) -> None:
    limits(root, connections=6, connections_partner=2)
    with Serving(root) as server, server.client() as one, server.client() as two:
        for client in (one, two):
            assert client.ask("HEAD", "/anna/config").status == 404
        for _ in range(6):
            with server.connect() as sock:  # which asks for nothing
                sock.settimeout(20)
                said = b""
                while piece := sock.recv(4096):
                    said += piece
                assert statuses(said) == [503]
        assert server.ask("HEAD", "/berta/config", who=BERTA).status == 404


def test_quota_is_a_507_that_says_what_is_left(root: Path) -> None:
    admit_anna(root, quota_bytes=1_000_000)
    with Serving(root) as server:
        server.put(b"x" * 400_000)
        data = b"y" * 700_000
        reply = server.ask("POST", f"/anna/data/{name_of(data)}", data)
        assert reply.status == 507 and reply.headers["x-coopfs-left"] == "600000"
        assert b"600000 of 1000000 bytes are left" in reply.body
        assert server.ask("GET", "/anna/?coopfs=status").json()["left"] == 600_000
        # The same again by a client that asks first sends no body at all.
        with server.connect() as sock:
            head = f"POST /anna/data/{name_of(data)} HTTP/1.1\r\nHost: x\r\n"
            head += "Content-Length: 700000\r\nExpect: 100-continue\r\n\r\n"
            assert statuses(raw_answers(sock, head.encode())) == [507]
        # The admin may go a little over, so that a prune can make room.
        over = b"z" * 630_000
        assert server.ask("POST", f"/anna/data/{name_of(over)}", over).status == 507
        assert server.ask("POST", f"/anna/data/{name_of(over)}", over, ADMIN).status == 200
        # Berta has nothing to do with it.
        assert server.ask("POST", f"/berta/data/{name_of(data)}", data, BERTA).status == 200
        admit_anna(root, quota_bytes=10_000_000)
        wait_until(lambda: "settings have changed" in server.log(), "the new quota")
        assert server.put(data)


# --- the line -------------------------------------------------------------------


def seconds_of(call: object) -> float:
    began = time.monotonic()
    call()  # type: ignore[operator]
    return time.monotonic() - began


def test_rates_hold_and_can_be_changed_while_running(root: Path) -> None:
    admit_anna(root, receive_rate="8M", send_rate="8M")  # 1 MB/s
    with Serving(root) as server:
        data = os.urandom(2_000_000)
        path = f"/anna/data/{name_of(data)}"
        assert 1.3 < seconds_of(lambda: server.put(data)) < 6
        assert 1.3 < seconds_of(lambda: server.ask("GET", path)) < 6
        hers = f"/berta/data/{name_of(data)}"
        assert seconds_of(lambda: server.ask("POST", hers, data, BERTA)) < 1.3
        # In the middle of a transfer that would take a minute.
        admit_anna(root, receive_rate="300k", send_rate="300k")
        server.signal(signal.SIGHUP)
        wait_until(lambda: "settings have changed" in server.log(), "the new rate")
        slow = threading.Thread(target=server.ask, args=("GET", path))
        began = time.monotonic()
        slow.start()
        time.sleep(0.5)  # part of it goes slowly
        assert slow.is_alive()
        admit_anna(root)
        server.signal(signal.SIGHUP)
        slow.join(timeout=30)
        assert not slow.is_alive() and time.monotonic() - began < 30


def test_restores_go_before_uploads(root: Path) -> None:
    limits(root, receive_rate="80M", send_rate="80M")  # 10 MB/s each way
    with Serving(root) as server:
        kept = os.urandom(12_000_000)
        name = server.put(kept)
        restoring = threading.Thread(target=server.ask, args=("GET", f"/anna/data/{name}"))

        def uploads_make_way() -> bool:
            made: bool = server.ask("GET", "/anna/?coopfs=status").json()["uploads_make_way"]
            return made

        restoring.start()
        wait_until(uploads_make_way, "a restore")
        data = os.urandom(1_500_000)
        beside = seconds_of(lambda: server.put(data))  # a tenth of 10 MB/s is left: 1.5 s
        restoring.join()
        wait_until(lambda: not uploads_make_way(), "its end")
        alone = seconds_of(lambda: server.put(data + b"!"))
        assert beside > 0.8 and alone < beside / 2


# --- figures, the log, the end ----------------------------------------------------


def test_metrics_are_shown_on_a_local_address_only(root: Path) -> None:
    with Serving(root, "--metrics", "127.0.0.1:0") as server:
        server.put(b"counted")
        is_let_in(server, STRANGER)
        where = ("127.0.0.1", int(server.addresses["metrics"].rpartition(":")[2]))

        def metrics(path: str = "/metrics") -> str:
            with socket.create_connection(where) as sock:
                return raw_answers(
                    sock, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
                ).decode()

        text = metrics()
        assert 'coopfs_requests_total{partner="anna",method="POST",status="200"} 1' in text
        assert 'coopfs_partner_objects{partner="anna"} 1' in text
        assert 'coopfs_received_bytes_total{partner="anna"} 7' in text
        assert "coopfs_handshakes_failed_total 1" in text
        for line in text.partition("\r\n\r\n")[2].splitlines():
            assert re.fullmatch(r"# (HELP|TYPE) .*|coopfs_\w+(\{[^}]*\})? -?\d+", line), line
        assert "404" in metrics("/anna/config").splitlines()[0]
    refused = subprocess.run(
        [*Serving.coopfs(), "serve", "--root", root, "--listen", ":0", "--metrics", "0.0.0.0:0"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 2 and "other machines" in refused.stderr


def test_log_says_who_did_what_and_no_secret(root: Path) -> None:
    with Serving(root) as server:
        with server.client() as client:
            client.ask("GET", "/anna/data/", Authorization="Basic c2VjcmV0", Cookie="secret=1")
            client.ask("GET", "/anna/data/secret-in-a-path")
            client.ask("POST", "/anna/?coopfs=prove", b"secret-question")
        log = server.log()
        assert "anna: GET data: 200" in log
        assert "secret" not in log and "c2VjcmV0" not in log
        assert "PRIVATE" not in log


def test_what_goes_on_ends_before_the_server_does(root: Path) -> None:
    data = os.urandom(1 << 20)
    head = (
        f"POST /anna/data/{name_of(data)} HTTP/1.1\r\nHost: x\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    ).encode()
    with Serving(root) as server, server.connect() as busy, server.client() as idle:
        assert idle.ask("HEAD", "/anna/config").status == 404
        busy.sendall(head + data[:1000])
        wait_until(lambda: list((root / "partners/anna/incoming").iterdir()), "the upload")
        server.signal(signal.SIGTERM)
        wait_until(lambda: "stopping" in server.log(), "the stop")
        with pytest.raises(ConnectionError):
            wait_until(lambda: not is_let_in(server, WRITER), "nobody to be let in any more")
            socket.create_connection(("127.0.0.1", server.port))
        busy.sendall(data[1000:])
        assert statuses(raw_answers(busy, b"")) == [200]
        assert server.wait() == 0
    with Serving(root) as server:
        assert server.ask("GET", f"/anna/data/{name_of(data)}").body == data


def test_grace_has_an_end_and_half_an_upload_leaves_nothing(root: Path) -> None:
    with Serving(root, "--grace", "0.5") as server, server.connect() as busy:
        head = f"POST /anna/data/{'0' * 64} HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n"
        busy.sendall(head.encode() + b"x" * 1000)
        wait_until(lambda: list((root / "partners/anna/incoming").iterdir()), "the upload")
        assert server.stop() == 0
        assert list((root / "partners/anna/incoming").iterdir()) == []


def test_idle_connections_are_cheap(root: Path) -> None:
    limits(root, connections=600, connections_partner=600, connections_stranger=600)

    def rss(pid: int) -> int:
        text = Path(f"/proc/{pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s*(\d+) kB", text)[0]) * 1024

    with Serving(root) as server:
        for _ in range(3):
            assert is_let_in(server, WRITER)
        name = server.put(os.urandom(300_000))
        before = rss(server.pid)
        context = server.context(WRITER)
        socks = []
        try:
            for _ in range(500):
                sock = socket.create_connection(("127.0.0.1", server.port), timeout=30)
                socks.append(context.wrap_socket(sock))
                socks[-1].sendall(f"GET /anna/data/{name} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                received = b""
                while len(received) < 300_000:  # and its head
                    received += socks[-1].recv(1 << 20)
                assert statuses(received[:20]) == [200]
            cost = rss(server.pid) - before
            assert cost < 100 << 20, f"{cost >> 20} MiB"
        finally:
            for sock in socks:
                sock.close()


# --- ways in beside TCP -----------------------------------------------------------


def test_unix_socket_serves_plain_http_with_tokens(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    token = hashlib.sha256(b"a token").hexdigest()
    settings = load_partner(root, "anna")
    save_partner(root, PartnerSettings("anna", settings.writers, writer_tokens=(token,)))
    with Serving(root, "--http", f"unix:{path}", listen=False) as server:
        assert path.stat().st_mode & 0o777 == 0o600

        def ask(authorization: bytes) -> list[int]:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(str(path))
                head = b"GET /anna/data/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                return statuses(raw_answers(sock, head + authorization + b"\r\n"))

        assert ask(b"Authorization: Basic YW5uYTphIHRva2Vu\r\n") == [200]  # anna:a token
        for wrong in (
            b"",
            b"Authorization: Basic YW5uYTphIHRva2Vr\r\n",
            b"Authorization: Basic !!!!\r\n",
            b"Authorization: Basic gICA\r\n",
            b"Authorization: Bearer YW5uYTphIHRva2Vu\r\n",
            b"Authorization: Basic YmVydGE6YSB0b2tlbg==\r\n",  # berta:a token
        ):
            assert ask(wrong) == [401]
        server.kill()
    with Serving(root, "--http", f"unix:{path}", listen=False):  # a dead socket is no obstacle
        assert ask(b"Authorization: Basic YW5uYTphIHRva2Vu\r\n") == [200]


def test_sockets_and_news_go_between_systemd_and_the_server(root: Path, tmp_path: Path) -> None:
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind(str(tmp_path / "notify"))
    notify.settimeout(60)
    listener = socket.create_server(("127.0.0.1", 0))
    os.set_inheritable(listener.fileno(), True)
    fd = listener.fileno()
    # What systemd does between fork and exec, in the prelude: fd 3, and our own pid.
    prelude = (
        "import os\n"
        f"os.dup2({fd}, 3)\n"
        "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1', LISTEN_FDNAMES='coopfs')"
    )
    server = Serving(root, listen=False, prelude=prelude)
    with notify, listener:
        server.start(
            environ={"NOTIFY_SOCKET": str(tmp_path / "notify")}, pass_fds=(fd,), close_fds=True
        )
        try:
            assert notify.recv(1000) == b"READY=1"
            assert server.port == listener.getsockname()[1]
            assert is_let_in(server, WRITER)
            server.signal(signal.SIGHUP)
            assert [notify.recv(1000)[:11] for _ in range(2)] == [b"RELOADING=1", b"READY=1"]
        finally:
            assert server.stop() == 0
        assert notify.recv(1000) == b"STOPPING=1"
