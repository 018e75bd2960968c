"""Identities: fixed for ever by their seed, usable by ssl at both ends, private on disk."""

from __future__ import annotations

import socket
import ssl
import stat
import threading
from pathlib import Path

import pytest

from coopfs.errors import ConfigError, UsageError
from coopfs.format.keys import SigningKey
from coopfs.identity import (
    Identity,
    load_identity,
    load_or_make_identity,
    make_identity,
    parse_certificate,
    parse_pin,
    pin_of,
    save_identity,
)

SEED = bytes(range(32))
PIN_OF_SEED = "a17dd7ebe8c0df1971826c34f63d2f1182db2cc3491ab92220a7fdf5fa53287a"


def context_of(identity: Identity, peer: Identity, *, server: bool) -> ssl.SSLContext:
    """TLS that shows *identity* and takes *peer* alone, as clients and servers set it up."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=peer.cert_pem)
    identity.load_into(context)
    return context


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[bytes | None, bytes]:
    """Return (the client's certificate as the server saw it, what the client received)."""
    here, there = socket.socketpair()
    seen: list[bytes | None] = []

    def serve() -> None:
        try:
            with server.wrap_socket(there, server_side=True) as line:
                seen.append(line.getpeercert(binary_form=True))
                line.sendall(b"welcome")
        except OSError:
            there.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(here) as line:
            received = line.recv(100)
    finally:
        here.close()
        thread.join()
    return (seen[0] if seen else None), received


def test_the_same_seed_gives_the_same_certificate_for_ever() -> None:
    assert make_identity(SEED) == make_identity(SEED)
    assert make_identity(SEED).pin == PIN_OF_SEED


def test_a_new_identity_is_nobody_elses() -> None:
    one, other = make_identity(), make_identity()
    assert one.pin != other.pin
    assert one.cert_pem != other.cert_pem


def test_the_key_is_the_one_other_signatures_are_made_with() -> None:
    assert make_identity(SEED).public_key == SigningKey(SEED).public_key


def test_the_pin_is_of_the_certificate() -> None:
    identity = make_identity(SEED)
    assert identity.pin == pin_of(ssl.PEM_cert_to_DER_cert(identity.cert_pem))
    assert parse_pin(identity.pin, "pin") == identity.pin


def test_secrets_are_not_shown() -> None:
    identity = make_identity(SEED)
    assert "PRIVATE" not in repr(identity)
    assert repr(SEED) not in repr(identity)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_seed_has_32_bytes(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        make_identity(bytes(length))


def test_two_identities_that_pin_each_other_talk() -> None:
    server, client = make_identity(), make_identity()
    seen, received = shake_hands(
        context_of(server, client, server=True), context_of(client, server, server=False)
    )
    assert received == b"welcome"
    assert pin_of(seen or b"") == client.pin


def test_one_of_many_trusted_certificates_is_enough() -> None:
    server, clients = make_identity(), [make_identity() for _ in range(5)]
    context = context_of(server, clients[0], server=True)
    for client in clients[1:]:
        context.load_verify_locations(cadata=client.cert_pem)
    for client in clients:
        seen, _ = shake_hands(context, context_of(client, server, server=False))
        assert pin_of(seen or b"") == client.pin


def test_another_server_is_refused_by_the_client() -> None:
    server, other, client = make_identity(), make_identity(), make_identity()
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(
            context_of(other, client, server=True), context_of(client, server, server=False)
        )


def test_another_client_is_refused_by_the_server() -> None:
    server, other, client = make_identity(), make_identity(), make_identity()
    with pytest.raises(OSError, match=r"(?i)alert|unknown ca|reset|EOF"):
        shake_hands(
            context_of(server, client, server=True), context_of(other, server, server=False)
        )


def test_an_identity_is_saved_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "identity" / "server.pem"
    identity = make_identity()
    save_identity(identity, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert load_identity(path) == identity
    # ssl itself can read the file too.
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path)


def test_an_identity_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "server.pem"
    first = load_or_make_identity(path)
    with pytest.raises(ConfigError, match="exists already"):
        save_identity(make_identity(), path)
    assert load_or_make_identity(path) == first


def test_a_missing_identity_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"server\.pem: the identity cannot be read"):
        load_identity(tmp_path / "server.pem")


@pytest.mark.parametrize("damage", ["empty", "garbage", "key alone", "another's certificate"])
def test_a_damaged_identity_is_refused(tmp_path: Path, damage: str) -> None:
    identity = make_identity()
    path = tmp_path / "server.pem"
    path.write_text(
        {
            "empty": "",
            "garbage": "\0\xff" * 100,
            "key alone": identity.key_pem,
            "another's certificate": identity.key_pem + make_identity().cert_pem,
        }[damage]
    )
    with pytest.raises(ConfigError, match=r"server\.pem: not an identity of coopfs"):
        load_identity(path)


def test_a_partners_certificate_is_taken_as_it_is() -> None:
    identity = make_identity()
    assert pin_of(parse_certificate(identity.cert_pem, "partner")) == identity.pin


@pytest.mark.parametrize("text", ["", "x", "-----BEGIN CERTIFICATE-----\n", "A" * 100_000])
def test_what_is_no_certificate_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="partner: expected the certificate"):
        parse_certificate(text, "partner")


def test_a_certificate_with_a_changed_byte_is_refused() -> None:
    der = bytearray(ssl.PEM_cert_to_DER_cert(make_identity(SEED).cert_pem))
    der[-1] ^= 1
    with pytest.raises(UsageError, match="signature is wrong"):
        parse_certificate(ssl.DER_cert_to_PEM_cert(bytes(der)), "partner")


@pytest.mark.parametrize("text", ["", "0" * 63, "0" * 65, "A" * 64, "0" * 63 + "\n", "g" * 64])
def test_what_is_no_pin_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="pin: expected 64"):
        parse_pin(text, "pin")
