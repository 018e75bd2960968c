"""Who may say what about snapshots, and which word counts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from forgetting import snapshot

from coopfs.archive.amendments import Amended, apply_amendments
from coopfs.format.records import Amendment
from coopfs.ids import WriterId

ADMIN = WriterId(b"admin 9012345678"[:16])
ANNA = WriterId(b"anna  9012345678"[:16])
ANNA_AGAIN = WriterId(b"anna2 9012345678"[:16])
BOB = WriterId(b"bob   9012345678"[:16])
HOSTS = {ANNA: "anna", ANNA_AGAIN: "anna", BOB: "bob"}
ONE = snapshot("2019-01-01 00:00:00", 1, tags=("old",))
BOBS = snapshot("2019-01-01 00:00:00", 1, host="bob")


def said(
    writer: WriterId,
    *,
    add: tuple[str, ...] = (),
    remove: tuple[str, ...] = (),
    held: bool | None = None,
    text: str | None = None,
    about: tuple[object, ...] = (ONE,),
) -> Amendment:
    ids = tuple(item.snapshot_id for item in about)  # type: ignore[attr-defined]
    return Amendment(ids, add, remove, held, text, None, writer, 0)


def after(*records: Amendment) -> Amended:
    facts = {item.snapshot_id: item.facts for item in (ONE, BOBS)}
    return apply_amendments(facts, records, HOSTS, ADMIN)


def tags_after(*records: Amendment) -> tuple[str, ...]:
    words = after(*records).words.get(ONE.snapshot_id)
    return ONE.tags if words is None else words.tags


def is_held_after(*records: Amendment) -> bool:
    words = after(*records).words.get(ONE.snapshot_id)
    return words is not None and words.is_held


def test_without_amendments_there_is_nothing_to_say() -> None:
    assert after() == Amended({}, ())


@pytest.mark.parametrize("writer", [ANNA, ANNA_AGAIN, ADMIN])
def test_the_host_and_the_admin_can_add(writer: WriterId) -> None:
    words = after(said(writer, add=("new",), held=True, text="hello")).words[ONE.snapshot_id]
    assert (words.tags, words.is_held, words.description) == (("old", "new"), True, "hello")


def test_another_host_can_say_nothing_and_that_is_reported() -> None:
    amended = after(said(BOB, add=("evil",), held=True, text="x", about=(ONE, BOBS)))
    assert ONE.snapshot_id not in amended.words
    assert amended.words[BOBS.snapshot_id].is_held
    (refusal,) = amended.refused
    assert "of host bob is about 1 snapshots of other hosts" in refusal


def test_only_the_admin_can_take_away() -> None:
    hold = said(ANNA, held=True)
    assert is_held_after(hold, said(ANNA, held=False))
    assert is_held_after(said(ADMIN, held=True), said(ANNA, held=False))
    assert not is_held_after(hold, said(ADMIN, held=False))
    assert tags_after(said(ANNA, remove=("old",))) == ("old",)
    assert tags_after(said(ADMIN, remove=("old",))) == ()


def test_the_admins_word_goes_before_a_later_one_of_a_host() -> None:
    # A hacked host can give its words any time, so the newest is not enough.
    assert not is_held_after(said(ADMIN, held=False), said(ANNA, held=True))
    assert tags_after(said(ADMIN, remove=("junk",)), said(ANNA, add=("junk",))) == ("old",)
    words = after(said(ADMIN, text="true"), said(ANNA, text="false")).words[ONE.snapshot_id]
    assert words.description == "true"
    # About other fields the host may speak on.
    assert is_held_after(said(ADMIN, text="true"), said(ANNA, held=True))


def test_of_words_by_the_same_the_newest_counts() -> None:
    assert tags_after(said(ADMIN, remove=("old",)), said(ADMIN, add=("old",))) == ("old",)
    assert not is_held_after(said(ADMIN, held=True), said(ADMIN, held=False))
    words = after(said(ANNA, text="first"), said(ANNA, text="second")).words[ONE.snapshot_id]
    assert words.description == "second"


def test_what_is_about_snapshots_that_are_gone_is_nothing() -> None:
    gone = replace(ONE, snapshot_id=BOBS.snapshot_id)
    facts = {ONE.snapshot_id: ONE.facts}
    record = said(BOB, held=True, about=(gone,))
    assert apply_amendments(facts, [record], HOSTS, ADMIN) == Amended({}, ())
