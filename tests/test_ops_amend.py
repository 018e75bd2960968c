"""Tags, holds, descriptions: who signs, what is refused."""

from __future__ import annotations

import pytest
from archive_fixtures import Lab, lab, write

from coopfs.archive.archive import Archive
from coopfs.errors import UsageError, WrongKey
from coopfs.format.keys import SigningKey
from coopfs.ops.amend import TAG_MAX, Change, amend_snapshots
from coopfs.store.base import Kind

__all__ = ["lab"]  # a fixture


@pytest.fixture
def two(lab: Lab) -> tuple[Lab, Lab]:
    """Anna and Bob, with a snapshot each."""
    write(lab.source / "file", "x")
    lab.take(tags=("first",))
    bob = lab.second_host()
    bob.take()
    return lab, bob


def key_of(archive: Archive) -> SigningKey:
    admin = archive.ring.admin()
    assert admin is not None
    return admin


EVERYTHING = Change(("a", "b"), ("first",), is_held=True, description="about it")


def test_the_admin_can_say_everything_of_everybody(two: tuple[Lab, Lab]) -> None:
    anna, bob = two
    with anna.open() as (archive, _):
        changed = amend_snapshots(archive, archive.snapshots(), EVERYTHING, key_of(archive))
        assert len(changed) == 2
        expected = [(("a", "b"), True, "about it")] * 2
        assert [(s.tags, s.is_held, s.description) for s in archive.snapshots()] == expected
        assert amend_snapshots(archive, archive.snapshots(), EVERYTHING, key_of(archive)) == []
    with bob.open() as (archive, _):
        assert [(s.tags, s.is_held, s.description) for s in archive.snapshots()] == expected
        assert archive.warnings == []


def test_a_host_can_add_to_its_own(two: tuple[Lab, Lab]) -> None:
    anna, bob = two
    with bob.open() as (archive, _):
        assert archive.ring.admin() is None
        own = [s for s in archive.snapshots() if s.facts.host == "bob"]
        change = Change(("weekly",), is_held=True, description="mine")
        amend_snapshots(archive, own, change, None)
    with anna.open() as (archive, _):
        (bobs,) = [s for s in archive.snapshots() if s.facts.host == "bob"]
        assert (bobs.tags, bobs.is_held, bobs.description) == (("weekly",), True, "mine")
        # The admin undoes it, whatever the host's clock says.
        amend_snapshots(archive, [bobs], Change(is_held=False), key_of(archive))
    with bob.open() as (archive, store):
        (bobs,) = [s for s in archive.snapshots() if s.facts.host == "bob"]
        assert not bobs.is_held
        store.requests.clear()
        with pytest.raises(WrongKey, match="the admin has spoken about this already"):
            amend_snapshots(archive, [bobs], Change(is_held=True), None)
        assert store.requests["put", Kind.SNAPSHOTS] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (Change(remove_tags=("weekly",)), "taking a tag away is for the admin key"),
        (Change(is_held=False), "releasing a hold is for the admin key"),
    ],
)
def test_a_host_cannot_take_away(two: tuple[Lab, Lab], change: Change, message: str) -> None:
    _, bob = two
    with bob.open() as (archive, store):
        own = [s for s in archive.snapshots() if s.facts.host == "bob"]
        own = amend_snapshots(archive, own, Change(("weekly",), is_held=True), None)
        store.requests.clear()
        with pytest.raises(WrongKey, match=message):
            amend_snapshots(archive, own, change, None)
        assert store.requests["put", Kind.SNAPSHOTS] == 0


def test_a_host_cannot_speak_of_anothers(two: tuple[Lab, Lab]) -> None:
    _, bob = two
    with bob.open() as (archive, store):
        with pytest.raises(WrongKey, match="is of host anna, and this one is bob"):
            amend_snapshots(archive, archive.snapshots(), Change(is_held=True), None)
        with pytest.raises(WrongKey, match="is of host anna"):
            amend_snapshots(
                archive, archive.snapshots(), Change(is_held=True), SigningKey(b"x" * 32)
            )
        assert store.requests["put", Kind.SNAPSHOTS] == 0


@pytest.mark.parametrize(
    "change",
    [
        Change(add_tags=("a,b",)),
        Change(add_tags=(" ",)),
        Change(add_tags=("x" * (TAG_MAX + 1),)),
        Change(add_tags=("\udcff",)),
        Change(add_tags=("a",), remove_tags=("a",)),
        Change(add_tags=tuple(map(str, range(1001)))),
        Change(description="x" * 70_000),
        Change(description="\udcff"),
    ],
)
def test_what_no_reader_would_accept_is_refused(two: tuple[Lab, Lab], change: Change) -> None:
    with two[0].open() as (archive, store):
        with pytest.raises(UsageError):
            amend_snapshots(archive, archive.snapshots(), change, key_of(archive))
        assert store.requests["put", Kind.SNAPSHOTS] == 0


def test_a_clock_that_went_back_does_not_make_the_newest_word_old(
    two: tuple[Lab, Lab], monkeypatch: pytest.MonkeyPatch
) -> None:
    with two[0].open() as (archive, _):
        one = archive.snapshots()[:1]
        amend_snapshots(archive, one, Change(description="first"), key_of(archive))
        (said,) = archive.objects.amendments()
        monkeypatch.setattr("time.time_ns", lambda: said.time_ns - 3600 * 10**9)
        (changed,) = amend_snapshots(archive, one, Change(description="second"), key_of(archive))
        assert changed.description == "second"
