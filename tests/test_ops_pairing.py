"""Two machines become partners, over a real line on loopback."""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from coopfs.dirs import Dirs
from coopfs.errors import (
    CoopfsError,
    StoreDenied,
    StoreError,
    StoreIdentity,
    StoreUnavailable,
    UsageError,
)
from coopfs.format.invitation import (
    FAILURES_MAX,
    Endpoint,
    Invitation,
    decode_invitation,
    encode_invitation,
)
from coopfs.identity import load_identity, make_identity
from coopfs.ops.pairing import Paired, Terms, accept, default_root, invite, make_invitation
from coopfs.ops.partnership import list_partners
from coopfs.server.dialling import load_dial_place
from coopfs.server.settings import load_partners
from coopfs.store import accepting
from coopfs.store.partners import identity_path, load_access, partner_names


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@dataclass
class Side:
    """One machine of the two."""

    dirs: Dirs
    terms: Terms


def side(base: Path, name: str, **changes: Any) -> Side:
    dirs = Dirs(base / name / "config", base / name / "state", base / name / "cache")
    terms = Terms(
        own_name=name,
        partner=None,
        endpoint=Endpoint("127.0.0.1", free_port()),
        quota=600 << 30,
        retention_days=30,
        root=default_root(dirs),
    )
    return Side(dirs, replace(terms, **changes))


@dataclass
class Waiting:
    """An invitation that is open."""

    invitation: Invitation
    refusals: list[str] = field(default_factory=list)
    paired: list[Paired] = field(default_factory=list)
    errors: list[CoopfsError] = field(default_factory=list)
    thread: threading.Thread | None = None

    def result(self) -> Paired:
        """How it ended."""
        assert self.thread is not None
        self.thread.join(30)
        assert not self.thread.is_alive(), "the invitation is still open"
        if self.errors:
            raise self.errors[0]
        return self.paired[0]


@contextmanager
def inviting(host: Side, **changes: Any) -> Iterator[Waiting]:
    """Let *host* wait for a partner."""
    endpoint = host.terms.endpoint
    assert endpoint is not None
    invitation = replace(make_invitation(host.terms, endpoint), **changes)
    waiting = Waiting(invitation)
    ready = threading.Event()

    def run() -> None:
        try:
            waiting.paired.append(
                invite(
                    host.dirs, host.terms, endpoint, invitation, ready.set, waiting.refusals.append
                )
            )
        except CoopfsError as exc:
            waiting.errors.append(exc)
        finally:
            ready.set()

    waiting.thread = threading.Thread(target=run)
    waiting.thread.start()
    assert ready.wait(30)
    try:
        yield waiting
    finally:
        # Whatever the test left open is closed by wrong tokens, as anybody could.
        for _ in range(FAILURES_MAX):
            if waiting.thread.is_alive():
                with_wrong_token(invitation, waiting.thread)
        waiting.thread.join(30)
        assert not waiting.thread.is_alive()


def with_wrong_token(invitation: Invitation, thread: threading.Thread) -> None:
    stranger = replace(invitation, token=os.urandom(16))
    try:
        acceptance = accepting.Acceptance(stranger)
    except StoreUnavailable:
        thread.join(30)
        return
    try:
        acceptance.introduce(_nobody())
    except (StoreDenied, StoreUnavailable):
        pass
    finally:
        acceptance.close()


def _nobody() -> Any:
    from coopfs.format.invitation import Introduction

    der = ssl.PEM_cert_to_DER_cert(make_identity().cert_pem)
    return Introduction("mallory", "x", der, der, (), None, 1, 1)


@pytest.fixture
def anna(tmp_path: Path) -> Side:
    return side(tmp_path, "anna")


@pytest.fixture
def berta(tmp_path: Path) -> Side:
    return side(tmp_path, "berta", quota=700 << 30, retention_days=60)


def test_both_sides_know_each_other_afterwards(anna: Side, berta: Side) -> None:
    owner = make_identity()
    terms = replace(berta.terms, owner_certificates=(owner.cert_pem,))
    with inviting(anna) as waiting:
        code = encode_invitation(waiting.invitation)
        there = accept(berta.dirs, terms, decode_invitation(code))
        here = waiting.result()
    assert here.words == there.words
    assert len(here.words.split()) == 6
    assert here.is_confirmed and there.is_confirmed

    for one, other in ((anna, berta), (berta, anna)):
        name = other.terms.own_name
        access = load_access(one.dirs, name)
        assert access.endpoint == other.terms.endpoint
        assert access.path == one.terms.own_name
        assert (access.quota, access.retention_days) == (
            other.terms.quota,
            other.terms.retention_days,
        )
        assert access.pin == load_identity(other.terms.root / "identity.pem").pin
        granted = load_partners(other.terms.root)[one.terms.own_name]
        assert granted.writer_pins == {load_identity(identity_path(one.dirs, access)).pin}
        assert granted.quota_bytes == other.terms.quota
        assert granted.retention_days == other.terms.retention_days
    assert load_partners(anna.terms.root)["berta"].admin_pins == {owner.pin}
    assert load_partners(berta.terms.root)["anna"].admin_pins == set()


NIGHTS = "10m, full 20:00-07:00, full sat-sun"


def test_rates_are_agreed_and_stay_when_partners_meet_again(anna: Side, berta: Side) -> None:
    terms = replace(berta.terms, receive_rate="10M,  full 20:00-07:00, full sat-sun")
    with inviting(replace_terms(anna, send_rate="2M")) as waiting:
        there = accept(berta.dirs, terms, waiting.invitation)
        here = waiting.result()
    assert here.words == there.words
    assert (here.access.receive_rate, here.access.send_rate) == (NIGHTS, "")
    assert (there.access.receive_rate, there.access.send_rate) == ("", "2m")
    assert load_access(anna.dirs, "berta") == here.access
    assert load_access(berta.dirs, "anna") == there.access
    granted = load_partners(berta.terms.root)["anna"]
    assert (granted.receive_rate, granted.send_rate) == (NIGHTS, "")

    with inviting(replace_terms(anna, is_again=True)) as waiting:
        again = accept(
            berta.dirs, replace(berta.terms, is_again=True, send_rate="full"), waiting.invitation
        )
        here = waiting.result()
    assert again.access.send_rate == "2m"
    assert (here.access.receive_rate, here.access.send_rate) == (NIGHTS, "full")


def test_a_partner_that_nobody_reaches_dials(anna: Side, berta: Side) -> None:
    with inviting(anna) as waiting:
        there = accept(berta.dirs, replace(berta.terms, endpoint=None), waiting.invitation)
        here = waiting.result()
    assert here.access.endpoint is None
    assert here.access.socket == str(anna.terms.root / "partners" / "berta" / "dial.sock")
    assert load_access(anna.dirs, "berta") == here.access
    assert there.access.dials
    assert there.access.endpoint == anna.terms.endpoint
    # berta's server dials, and anna's lets its certificate do that and nothing else.
    place = load_dial_place(berta.terms.root, "anna")
    assert place.endpoint == anna.terms.endpoint
    assert place.certificate == there.access.certificate
    granted = load_partners(anna.terms.root)["berta"]
    assert granted.dialler_pins == {here.access.pin}
    assert not granted.dialler_pins & (granted.writer_pins | granted.admin_pins)


def test_a_partner_set_up_anew_keeps_what_is_held_for_it(
    anna: Side, berta: Side, tmp_path: Path
) -> None:
    owner = make_identity()
    with inviting(anna) as waiting:
        terms = replace(berta.terms, owner_certificates=(owner.cert_pem,))
        accept(berta.dirs, terms, waiting.invitation)
        waiting.result()
    before = load_partners(anna.terms.root)["berta"]
    anew = side(tmp_path / "anew", "berta")
    with inviting(replace_terms(anna, is_again=True, retention_days=1)) as waiting:
        accept(anew.dirs, anew.terms, waiting.invitation)
        waiting.result()
    after = load_partners(anna.terms.root)["berta"]
    assert after.admins == before.admins
    assert after.writer_pins.isdisjoint(before.writer_pins)
    assert after.retention_days == before.retention_days == 30
    pin = load_identity(anew.terms.root / "identity.pem").pin
    assert load_access(anna.dirs, "berta").pin == pin


def test_each_side_may_choose_what_it_calls_the_other(anna: Side, berta: Side) -> None:
    with inviting(replace_terms(anna, partner="the-shop")) as waiting:
        accept(berta.dirs, replace(berta.terms, partner="home"), waiting.invitation)
        waiting.result()
    assert partner_names(anna.dirs) == list(load_partners(anna.terms.root)) == ["the-shop"]
    assert partner_names(berta.dirs) == list(load_partners(berta.terms.root)) == ["home"]
    assert load_access(anna.dirs, "the-shop").path == "home"
    assert load_access(berta.dirs, "home").path == "the-shop"


def replace_terms(one: Side, **changes: Any) -> Side:
    return Side(one.dirs, replace(one.terms, **changes))


def test_five_wrong_tokens_end_an_invitation(anna: Side) -> None:
    with inviting(anna) as waiting:
        assert waiting.thread is not None
        for _ in range(FAILURES_MAX):
            with_wrong_token(waiting.invitation, waiting.thread)
        with pytest.raises(StoreDenied, match="over after 5 wrong tokens"):
            waiting.result()
    assert load_partners(anna.terms.root) == {}
    assert partner_names(anna.dirs) == []


def test_four_wrong_tokens_do_not(anna: Side, berta: Side) -> None:
    with inviting(anna) as waiting:
        assert waiting.thread is not None
        for _ in range(FAILURES_MAX - 1):
            with_wrong_token(waiting.invitation, waiting.thread)
        accept(berta.dirs, berta.terms, waiting.invitation)
        assert waiting.result().is_confirmed
    assert ["wrong token" in why for why in waiting.refusals] == [True] * 4


def test_an_invitation_ends_with_its_time(anna: Side) -> None:
    with inviting(anna, expires_s=0) as waiting, pytest.raises(StoreDenied, match="nobody came"):
        waiting.result()


def test_an_expired_code_is_not_even_tried(anna: Side, berta: Side) -> None:
    invitation = replace(make_invitation(anna.terms, Endpoint("127.0.0.1", 1)), expires_s=1000)
    with pytest.raises(UsageError, match="expired at 1970-01-01"):
        accept(berta.dirs, berta.terms, invitation)


def test_an_invitation_is_good_for_one_partner(
    anna: Side, berta: Side, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    carla = side(tmp_path, "carla")

    def lose_the_line(acceptance: accepting.Acceptance) -> None:
        raise StoreUnavailable("the line broke")

    with inviting(anna) as waiting:
        with monkeypatch.context() as patched:
            patched.setattr(accepting.Acceptance, "confirm", lose_the_line)
            assert not accept(berta.dirs, berta.terms, waiting.invitation).is_confirmed
        with pytest.raises(StoreDenied, match="used already"):
            accept(carla.dirs, carla.terms, waiting.invitation)
        # The same partner with the same command goes on.
        assert accept(berta.dirs, berta.terms, waiting.invitation).is_confirmed
        assert waiting.result().is_confirmed
    assert list(load_partners(anna.terms.root)) == ["berta"]
    assert partner_names(carla.dirs) == []


def test_another_machine_at_the_address_is_told_nothing(anna: Side, berta: Side) -> None:
    with inviting(anna) as waiting:
        wrong = replace(waiting.invitation, pin=bytes(32))
        with pytest.raises(StoreIdentity, match="another machine answers"):
            accept(berta.dirs, berta.terms, wrong)
        accept(berta.dirs, berta.terms, waiting.invitation)
        waiting.result()
    assert waiting.refusals == [] or "line broke" in waiting.refusals[0]


def test_nobody_there_is_said(anna: Side, berta: Side) -> None:
    invitation = make_invitation(anna.terms, Endpoint("127.0.0.1", free_port()))
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        accept(berta.dirs, berta.terms, invitation)


def test_garbage_and_silence_do_not_end_an_invitation(anna: Side, berta: Side) -> None:
    with inviting(anna) as waiting:
        address = (waiting.invitation.endpoint.host, waiting.invitation.endpoint.port)
        with (
            socket.create_connection(address),
            socket.create_connection(address) as loud,
        ):
            loud.sendall(b"GET / HTTP/1.1\r\n\r\n")
            line = accepting.pinned_line(waiting.invitation.endpoint, waiting.invitation.pin.hex())
            line.sendall(b"\xff\xff\xff\xff")
            accept(berta.dirs, berta.terms, waiting.invitation)
            line.close()
        assert waiting.result().is_confirmed


def test_a_name_that_is_taken_is_refused_on_either_side(
    anna: Side, berta: Side, tmp_path: Path
) -> None:
    with inviting(anna) as waiting:
        accept(berta.dirs, berta.terms, waiting.invitation)
        waiting.result()
    other = side(tmp_path / "elsewhere", "berta")
    with inviting(anna) as waiting:
        with pytest.raises(StoreDenied, match="already"):
            accept(other.dirs, other.terms, waiting.invitation)
        with pytest.raises(UsageError, match="--name"):
            waiting.result()
    namesake = side(tmp_path / "elsewhere", "anna")
    with inviting(namesake) as waiting:
        with pytest.raises(UsageError, match="--name"):
            accept(berta.dirs, berta.terms, waiting.invitation)
        renamed = replace(berta.terms, partner="other-anna")
        accept(berta.dirs, renamed, waiting.invitation)
        waiting.result()
    assert partner_names(berta.dirs) == ["anna", "other-anna"]


@pytest.mark.root
def test_what_root_makes_belongs_to_the_servers_user(anna: Side, berta: Side) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: OWNERS ARE NOT TESTED")
    anna.terms.root.mkdir(parents=True)
    os.chown(anna.terms.root, 65534, 65534)
    with inviting(anna) as waiting:
        accept(berta.dirs, berta.terms, waiting.invitation)
        waiting.result()
    list_partners(anna.dirs, anna.terms.root)  # makes the folders of objects
    made = list(anna.terms.root.rglob("*"))
    assert {"identity.pem", "partner.toml", "objects"} <= {path.name for path in made}
    assert {path.stat().st_uid for path in made} == {65534}


def test_a_port_that_is_taken_is_said(anna: Side) -> None:
    endpoint = anna.terms.endpoint
    assert endpoint is not None
    invitation = make_invitation(anna.terms, endpoint)
    with (
        socket.create_server((endpoint.host, endpoint.port)),
        pytest.raises(StoreError, match="cannot listen there"),
    ):
        invite(anna.dirs, anna.terms, endpoint, invitation, lambda: None, lambda _: None)
