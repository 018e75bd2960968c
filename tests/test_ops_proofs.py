"""Possession proofs: every question counts once, and only who has the bytes can answer."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from archive_fixtures import Lab, lab, no_race, write

from coopfs.archive.archive import Archive
from coopfs.errors import CoopfsError, StoreUnavailable
from coopfs.format.audit import audit_answer, audit_question
from coopfs.ops.audit import AuditRequest, AuditResult, audit_archive
from coopfs.ops.progress import NoProgress
from coopfs.ops.proofs import USED_FILE, Prover
from coopfs.store.base import Kind
from coopfs.store.faulty import FaultyStore

__all__ = ["lab", "no_race"]  # fixtures


@pytest.fixture
def kept(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A snapshot whose packs the keeper can be asked about."""
    monkeypatch.setattr(FaultyStore, "can_prove", True, raising=False)
    init = FaultyStore.__init__

    def able(self: FaultyStore, *args: object, **options: object) -> None:
        init(self, *args, **options)  # type: ignore[arg-type]  # as they came
        self.can_prove = True

    monkeypatch.setattr(FaultyStore, "__init__", able)
    for number in range(4):
        write(lab.source / f"file{number}", os.urandom(300_000))
    lab.take()
    return lab


def audit(archive: Archive) -> tuple[AuditResult, dict[bytes, str]]:
    result, bad = audit_archive(archive, AuditRequest(), NoProgress())
    return result, dict(bad)


def asked(archive: Archive) -> list[str]:
    path: Path = archive.state_folder / USED_FILE
    return path.read_text().splitlines() if path.exists() else []


def test_the_index_keeps_answers_for_every_pack(kept: Lab) -> None:
    with kept.open() as (archive, store):
        for pack in archive.index.packs():
            data = store.get(Kind.DATA, pack.pack_id)
            answers = archive.index.audit_answers(pack.pack_no)
            assert len(answers) == 4 * 32
            for number in range(4):
                question = audit_question(archive.keys.audit_key, pack.pack_id, number)
                right = audit_answer(question, [data])
                assert answers[number * 32 : number * 32 + 32] == right


def test_an_audit_asks_and_transfers_no_block(kept: Lab) -> None:
    with kept.open() as (archive, store):
        before = store.requests["get", "data"]
        result, bad = audit(archive)
        assert not bad
        assert result.proved == result.packs == 2
        assert result.read_len == 0
        assert store.requests["get", "data"] - before == 2  # by the keeper itself, to answer
        assert store.requests["prove", "data"] == 2


def test_no_question_is_asked_twice_and_then_blocks_are_read(kept: Lab) -> None:
    with kept.open() as (archive, _):
        for _ in range(4):
            assert audit(archive)[0].proved == 2
        assert len(set(asked(archive))) == 8
    with kept.open() as (archive, store):  # nor by a later process
        before = store.requests["prove", "data"]
        result, bad = audit(archive)
        assert (result.proved, bad) == (0, {})
        assert result.read_len > 0
        assert store.requests["prove", "data"] == before


def test_a_question_counts_before_it_is_sent(kept: Lab) -> None:
    with kept.open() as (archive, store):
        store.fail("prove", Kind.DATA)
        with pytest.raises(StoreUnavailable):
            audit(archive)
        store.mend()
        questions = len(asked(archive))
        result, _ = audit(archive)
        assert result.proved == 2
        assert len(set(asked(archive))) == questions + 2


def test_where_it_cannot_be_noted_nothing_is_asked(kept: Lab) -> None:
    with kept.open() as (archive, store):
        (archive.state_folder / USED_FILE).mkdir()
        with pytest.raises(CoopfsError, match="proofs-used"):
            audit(archive)
        assert store.requests["prove", "data"] == 0


def test_a_torn_line_is_no_question(kept: Lab) -> None:
    with kept.open() as (archive, _):
        audit(archive)
        path = archive.state_folder / USED_FILE
        path.write_text(path.read_text() + "abc")
        prover = Prover(archive)
        packs = list(archive.index.packs())
        assert prover.take(packs) == {pack.pack_no: 1 for pack in packs}


@pytest.mark.parametrize("what", ["flipped", "truncated", "gone"])
def test_a_keeper_without_every_byte_is_found_and_the_pack_sent_again(
    kept: Lab, no_race: None, what: str
) -> None:
    with kept.open() as (archive, store):
        pack = max(archive.index.packs(), key=lambda pack: pack.size)
        data = store.get(Kind.DATA, pack.pack_id)
        if what == "flipped":
            store.flip(Kind.DATA, pack.pack_id, len(data) // 2)
        elif what == "truncated":
            # As long as it was in the listing: only the answer tells.
            store.replace(Kind.DATA, pack.pack_id, data[: len(data) // 2] + bytes(len(data) // 2))
        else:
            store.inner.delete(Kind.DATA, pack.pack_id)
        result, bad = audit(archive)
        assert set(bad) == {pack.pack_id}
        assert result.bad_packs == 1
        assert result.bad_samples > 0
        assert not archive.index.is_usable(pack.pack_no)
        store.mend()
    kept.take()
    with kept.open() as (archive, _):
        assert archive.index.pack_count > 2


def test_another_hosts_packs_are_read_not_asked_about(kept: Lab) -> None:
    bob = kept.second_host()
    with bob.open() as (archive, store):
        result, bad = audit(archive)
        assert (result.proved, bad) == (0, {})
        assert result.read_len > 0
        assert store.requests["prove", "data"] == 0


def test_what_the_keeper_itself_finds_damaged_is_sent_again(
    kept: Lab, no_race: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with kept.open() as (archive, _):
        pack = max(archive.index.packs(), key=lambda pack: pack.size)
        told = [pack.pack_id, os.urandom(32)]
    monkeypatch.setattr(FaultyStore, "damaged_packs", lambda self: told)
    report = kept.take()
    with kept.open() as (archive, store):
        assert not archive.index.is_usable(pack.pack_no)
        store.inner.delete(Kind.DATA, pack.pack_id)
        kept.expect_archived(report)
