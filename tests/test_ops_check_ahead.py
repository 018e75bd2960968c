"""A check says the same whoever surveys the trees: another process, this one, or both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from checked import Checked, check, copy_host, opened, unreadable
from hosts import Host

from coopfs.archive.archive import Archive
from coopfs.archive.survey_process import SurveyProcess, Surveys
from coopfs.errors import CoopfsError
from coopfs.ids import ObjectId, PackId
from coopfs.ops import check_ahead
from coopfs.store.base import Kind
from coopfs.store.faulty import FaultyStore

FOLDERS = 60


@pytest.fixture(scope="module")
def pattern(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A host with two snapshots of many folders, their trees in several blocks."""
    base = tmp_path_factory.mktemp("pattern")
    host = Host(base / "host")
    host.init(base / "store")
    for number in range(FOLDERS):
        folder = base / "source" / f"{number:03}"
        folder.mkdir(parents=True)
        for file in range(5):
            (folder / f"{file}").write_bytes(b"%d %d" % (number, file) * 200)
    host.ok("snapshot", base / "source", "--series", "s")
    (base / "source/000/0").write_bytes(b"another")
    host.ok("snapshot", base / "source", "--series", "s")
    return base


@pytest.fixture
def archive(
    pattern: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Archive, FaultyStore]]:
    """The archive; any amount of metadata is worth a process."""
    monkeypatch.setattr(check_ahead, "LEAST_LEN", 0)
    with opened(Host(pattern / "host")) as (archive, store):
        yield archive, store


def alone(archive: Archive, monkeypatch: pytest.MonkeyPatch, share: float = 0.0) -> Checked:
    with monkeypatch.context() as patch:
        patch.setattr(check_ahead, "LEAST_LEN", 1 << 60)
        return said(archive, share)


def said(archive: Archive, share: float = 0.0) -> Checked:
    checked = check(archive, share)
    return replace(checked, totals=replace(checked.totals, duration_s=0.0))


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many nodes came from the process, a block each."""
    counts: list[int] = []
    receive = SurveyProcess.receive

    def counted(self: SurveyProcess) -> tuple[int, Surveys] | None:
        found = receive(self)
        counts.append(-1 if found is None else len(found[1]))
        return found

    monkeypatch.setattr(SurveyProcess, "receive", counted)
    return counts


def test_the_process_surveys_what_the_check_would(
    archive: tuple[Archive, FaultyStore], received: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = said(archive[0])
    assert sum(received) >= FOLDERS
    assert found == alone(archive[0], monkeypatch)
    assert found.totals.is_whole
    assert found.totals.files == 5 * (FOLDERS + 1)


def test_with_room_for_nothing_every_node_is_still_seen(
    archive: tuple[Archive, FaultyStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = alone(archive[0], monkeypatch)
    monkeypatch.setattr(check_ahead, "AHEAD_LEN", 1)
    assert said(archive[0]) == expected


def test_answers_that_have_come_are_not_waited_for(
    archive: tuple[Archive, FaultyStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = alone(archive[0], monkeypatch)

    def after_all_have_come(self: SurveyProcess) -> bool:
        return bool(self._block_nos) and bool(self._child._poll.poll(10_000))

    monkeypatch.setattr(SurveyProcess, "has_news", property(after_all_have_come))
    assert said(archive[0]) == expected


@pytest.mark.parametrize("when", ["start", "later"])
def test_a_process_that_dies_changes_nothing(
    archive: tuple[Archive, FaultyStore], monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    expected = alone(archive[0], monkeypatch)
    send = SurveyProcess.send

    def failing(self: SurveyProcess, *args: object) -> None:
        if when == "later":
            send(self, *args)  # type: ignore[arg-type]
        self._child.process.kill()

    monkeypatch.setattr(SurveyProcess, "send", failing)
    assert said(archive[0]) == expected


def test_a_process_that_cannot_be_started_is_done_without(
    archive: tuple[Archive, FaultyStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = alone(archive[0], monkeypatch)

    def refuse(self: SurveyProcess, *args: object, **kwargs: object) -> None:
        raise CoopfsError("no more processes")

    monkeypatch.setattr(SurveyProcess, "__init__", refuse)
    assert said(archive[0]) == expected


def test_damaged_trees_are_found_with_the_process_too(
    archive: tuple[Archive, FaultyStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened_archive, store = archive
    opened_archive.refresh()
    meta = [pack for pack in opened_archive.index.packs() if pack.is_meta]
    block = opened_archive.index.blocks_of(meta[0].pack_no)[0]
    store.flip(Kind.DATA, meta[0].pack_id, block.offset + block.sealed_len // 2)
    found = said(opened_archive)
    assert not found.totals.is_whole
    assert found == alone(opened_archive, monkeypatch)
    assert found.hurt


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A host with five snapshots, a file changed, one removed and one added between them."""
    base = tmp_path_factory.mktemp("nights")
    host = Host(base / "host")
    host.init(base / "store")
    source = base / "source"
    for folder in range(4):
        (source / f"{folder}").mkdir(parents=True)
        for file in range(30):
            (source / f"{folder}/{file:02}").write_bytes(b"%d %d" % (folder, file) * 200)
    for night in range(5):
        if night:
            (source / f"1/{night * 5:02}").write_bytes(b"night %d" % night * 100)
            (source / f"2/{night * 3:02}").unlink()
            (source / f"2/new{night}").write_bytes(b"new %d" % night * 100)
        host.ok("snapshot", source, "--series", "s")
    return base


@pytest.fixture
def years(
    nights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Host, Archive, FaultyStore]]:
    """A copy of that host, its archive; any amount of metadata is worth a process."""
    monkeypatch.setattr(check_ahead, "LEAST_LEN", 0)
    host = copy_host(nights, tmp_path)
    with opened(host) as (archive, store):
        archive.refresh()
        yield host, archive, store


@pytest.fixture
def likenesses(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For every node that came from the process whether it was *like* another."""
    likes: list[bool] = []
    receive = SurveyProcess.receive

    def noted(self: SurveyProcess) -> tuple[int, Surveys] | None:
        found = receive(self)
        likes.extend(bool(survey.like) for survey in (found or (0, {}))[1].values())
        return found

    monkeypatch.setattr(SurveyProcess, "receive", noted)
    return likes


def data_packs(archive: Archive) -> list[PackId]:
    return [pack.pack_id for pack in archive.index.packs() if not pack.is_meta]


@pytest.mark.parametrize("place", range(5))
def test_what_a_lost_pack_hurts_is_named_though_nodes_are_told_by_what_differs(
    years: tuple[Host, Archive, FaultyStore],
    likenesses: list[bool],
    monkeypatch: pytest.MonkeyPatch,
    place: int,
) -> None:
    _, archive, store = years
    store.lose(Kind.DATA, ObjectId(data_packs(archive)[place]))
    found = said(archive)
    assert any(likenesses)
    assert found.hurt
    assert found == alone(archive, monkeypatch)
    for snapshot in archive.snapshots():
        assert found.paths(snapshot) == unreadable(archive, snapshot)


def test_a_node_like_one_that_no_snapshot_has_any_more_is_seen_whole(
    years: tuple[Host, Archive, FaultyStore],
    likenesses: list[bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host, archive, store = years
    host.ok("forget", "--keep-last", "1")
    archive.refresh()
    found = said(archive)
    assert any(likenesses)
    assert found == alone(archive, monkeypatch)
    assert found.totals.is_whole
    assert found.totals.unneeded_chunks
    store.lose(Kind.DATA, ObjectId(data_packs(archive)[0]))
    found = said(archive)
    assert found.hurt
    assert found == alone(archive, monkeypatch)


def test_packs_read_meanwhile_say_the_same(
    years: tuple[Host, Archive, FaultyStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, archive, store = years
    assert said(archive, 1.0).totals.is_whole
    store.flip(Kind.DATA, ObjectId(data_packs(archive)[1]), 100)
    found = said(archive, 1.0)
    assert found.hurt
    assert found == alone(archive, monkeypatch, 1.0)
