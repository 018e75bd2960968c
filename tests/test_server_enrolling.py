"""Who may let another certificate in at a partner's server."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from coopfs.errors import StoreDenied, UsageError
from coopfs.format import encoding
from coopfs.identity import Identity, make_identity
from coopfs.server import enrolling
from coopfs.server.enrolling import OWNER, WRITER, enrol
from coopfs.server.settings import PartnerSettings, load_partner, save_partner


def request(right: int, identity: Identity) -> bytes:
    return encoding.encode({0: right, 1: ssl.PEM_cert_to_DER_cert(identity.cert_pem)})


@pytest.fixture
def writer(tmp_path: Path) -> Identity:
    identity = make_identity()
    save_partner(tmp_path, PartnerSettings("anna", writers=(identity.cert_pem,), quota_bytes=7))
    return identity


def test_a_writer_makes_the_first_owner_known(tmp_path: Path, writer: Identity) -> None:
    owner = make_identity()
    for _ in range(2):  # an answer may be lost
        enrol(tmp_path, "anna", request(OWNER, owner), is_owner=False)
    settings = load_partner(tmp_path, "anna")
    assert settings.admin_pins == {owner.pin}
    assert settings.writer_pins == {writer.pin}
    assert settings.quota_bytes == 7


def test_a_writer_makes_no_second_owner_and_no_writer(tmp_path: Path, writer: Identity) -> None:
    with pytest.raises(StoreDenied, match="admin key"):
        enrol(tmp_path, "anna", request(WRITER, make_identity()), is_owner=False)
    enrol(tmp_path, "anna", request(OWNER, make_identity()), is_owner=False)
    for right in (WRITER, OWNER):
        with pytest.raises(StoreDenied, match="admin key"):
            enrol(tmp_path, "anna", request(right, make_identity()), is_owner=False)
    assert len(load_partner(tmp_path, "anna").pins) == 2


def test_the_owner_lets_a_new_machine_in(tmp_path: Path, writer: Identity) -> None:
    new = make_identity()
    enrol(tmp_path, "anna", request(WRITER, new), is_owner=True)
    assert load_partner(tmp_path, "anna").writer_pins == {writer.pin, new.pin}


def test_the_owner_sends_every_other_machine_away(tmp_path: Path, writer: Identity) -> None:
    new = make_identity()
    body = encoding.encode({0: WRITER, 1: ssl.PEM_cert_to_DER_cert(new.cert_pem), 2: True})
    with pytest.raises(StoreDenied, match="owner alone"):
        enrol(tmp_path, "anna", body, is_owner=False)
    assert load_partner(tmp_path, "anna").writer_pins == {writer.pin}
    for _ in range(2):
        enrol(tmp_path, "anna", body, is_owner=True)
        assert load_partner(tmp_path, "anna").writer_pins == {new.pin}


def test_the_owner_lets_out_whom_it_wants_and_itself(tmp_path: Path, writer: Identity) -> None:
    owner = make_identity()
    enrol(tmp_path, "anna", request(OWNER, owner), is_owner=False)
    for right, identity in ((WRITER, writer), (OWNER, owner)):
        der = ssl.PEM_cert_to_DER_cert(identity.cert_pem)
        body = encoding.encode({0: right, 1: der, 3: True})
        with pytest.raises(StoreDenied, match="owner alone"):
            enrol(tmp_path, "anna", body, is_owner=False)
        for _ in range(2):
            enrol(tmp_path, "anna", body, is_owner=True)
            assert identity.pin not in load_partner(tmp_path, "anna").pins
    assert load_partner(tmp_path, "anna").quota_bytes == 7
    enrol(tmp_path, "anna", request(OWNER, make_identity()), is_owner=False)  # the next one


@pytest.mark.parametrize("asked", [{3: 1}, {2: True, 3: True}])
def test_in_and_out_at_once_is_refused(
    tmp_path: Path, writer: Identity, asked: dict[int, object]
) -> None:
    der = ssl.PEM_cert_to_DER_cert(writer.cert_pem)
    with pytest.raises(UsageError, match="either it is let in or out"):
        enrol(tmp_path, "anna", encoding.encode({0: WRITER, 1: der, **asked}), is_owner=True)


def test_no_certificate_gets_a_second_right(tmp_path: Path, writer: Identity) -> None:
    other = make_identity()
    save_partner(tmp_path, PartnerSettings("berta", writers=(other.cert_pem,)))
    for identity in (writer, other):
        with pytest.raises(StoreDenied, match="another right"):
            enrol(tmp_path, "anna", request(OWNER, identity), is_owner=True)
    assert load_partner(tmp_path, "anna").admins == ()


def test_certificates_do_not_grow_without_bound(
    tmp_path: Path, writer: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enrolling, "CERTIFICATES_MAX", 3)
    for _ in range(2):
        enrol(tmp_path, "anna", request(WRITER, make_identity()), is_owner=True)
    with pytest.raises(StoreDenied, match="3 certificates"):
        enrol(tmp_path, "anna", request(WRITER, make_identity()), is_owner=True)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff" * 100,
        encoding.encode({0: 1}),
        encoding.encode({0: 0, 1: b"x"}),
        encoding.encode({0: 3, 1: b"x"}),
        encoding.encode({0: 1, 1: b"no certificate"}),
        encoding.encode({0: 1, 1: bytes(5000)}),
        encoding.encode({0: 1, 1: b"x", 2: 1}),
        encoding.encode({0: 2, 1: b"x", 2: True}),
    ],
)
def test_what_cannot_be_understood_is_refused(
    tmp_path: Path, writer: Identity, body: bytes
) -> None:
    with pytest.raises(UsageError):
        enrol(tmp_path, "anna", body, is_owner=True)
