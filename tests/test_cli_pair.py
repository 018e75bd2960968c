"""``coopfs pair`` and ``coopfs partner``: what was not understood changes nothing."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from hosts import Host, everything_below

from coopfs.format.invitation import Endpoint, Invitation, encode_invitation

INVITE = ("pair", "invite", "--listen", "127.0.0.1:1", "--quota", "1G")
CODE = encode_invitation(
    Invitation(Endpoint("127.0.0.1", 1), bytes(32), bytes(16), 4_000_000_000, "anna")
)
ACCEPT = ("pair", "accept", CODE, "--quota", "1G")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "host")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("pair", "invite", "--listen", "nowhere", "--quota", "1G"), "expected HOST:PORT"),
        (("pair", "invite", "--listen", ":8765", "--quota", "1G"), "--address HOST:PORT"),
        ((*INVITE[:4], "--quota", "a lot"), "a size such as 600G"),
        ((*INVITE, "--retention", "soon"), "30d, 6w or 1y"),
        ((*INVITE, "--retention", "0d"), "30d, 6w or 1y"),
        ((*INVITE, "--receive-rate", "quick"), "'quick' is no rate"),
        ((*ACCEPT, "--dial", "--send-rate", "10M full"), "neither days"),
        ((*INVITE, "--name", "../etc"), "partner name"),
        ((*INVITE, "--as", "a b"), "partner name"),
        ((*INVITE, "--address", "x"), "expected HOST:PORT"),
        ((*INVITE, "--waiting-at", "x"), "expected HOST:PORT"),
        (ACCEPT, "--dial"),
        ((*ACCEPT, "--dial", "--listen", "127.0.0.1:1"), "without --listen"),
        ((*ACCEPT, "--dial", "--address", "127.0.0.1:1"), "without --listen"),
        (("pair", "accept", CODE[:-1], "--quota", "1G", "--dial"), "not a whole invitation"),
        (("pair", "accept", "hello", "--quota", "1G", "--dial"), "not a whole invitation"),
        (("partner", "set", "anna"), "say what to change"),
        (("partner", "set", "anna", "--address", "x"), "expected HOST:PORT"),
        (("partner", "undelete", "anna", "--since", "yesterday"), "2026-11-23"),
        (("partner", "leave", "a/b"), "partner name"),
        (("recover", "--pin", "5e" * 32, "x"), "kit is needed"),
    ],
)
def test_what_makes_no_sense_is_refused(
    host: Host, tmp_path: Path, args: tuple[str, ...], message: str
) -> None:
    ran = host.run(*args)
    assert (ran.code, message in ran.err) == (2, True), ran.err
    assert everything_below(tmp_path) == {}


@pytest.mark.parametrize(
    "args",
    [
        ("partner", "status", "anna"),
        ("partner", "undelete", "anna"),
        ("partner", "set", "anna", "--quota", "1G"),
        ("partner", "set", "anna", "--address", "127.0.0.1:1"),
        ("partner", "leave", "anna"),
        ("partner", "remove", "anna"),
    ],
)
def test_an_unknown_partner_is_named(host: Host, tmp_path: Path, args: tuple[str, ...]) -> None:
    ran = host.run(*args)
    assert (ran.code, "anna" in ran.err) == (1, True), ran.err
    assert everything_below(tmp_path) == {}


def test_without_partners_that_is_said(host: Host) -> None:
    assert "coopfs pair" in host.ok("partner", "list").out
    assert host.ok("partner", "list", "--json").out == ""


def test_a_port_that_is_taken_is_said_before_a_code_is_shown(host: Host) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        ran = host.run("pair", "invite", "--listen", address, "--quota", "1G", "--json")
    assert (ran.code, ran.out) == (1, "")
    assert "stop it for the pairing" in ran.err


def test_a_kit_is_promised_only_where_there_is_an_archive(host: Host, tmp_path: Path) -> None:
    ran = host.run(*ACCEPT, "--dial", "--recovery-kit", tmp_path / "kit")
    assert (ran.code, "no archive is set up here" in ran.err) == (10, True)
    (tmp_path / "kit").touch()
    ran = host.run(*ACCEPT, "--dial", "--recovery-kit", tmp_path / "kit")
    assert (ran.code, "not overwritten" in ran.err) == (2, True)


def test_nobody_there_is_said(host: Host) -> None:
    ran = host.run(*ACCEPT, "--dial")
    assert (ran.code, "127.0.0.1:1: cannot be reached" in ran.err) == (1, True)
