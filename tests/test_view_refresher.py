"""New snapshots while mounted: when the store is looked at, and what is said when it fails."""

from __future__ import annotations

import logging
import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from test_view_catalogue import at, build, names, snapshot

from coopfs.archive.archive import Archive
from coopfs.archive.snapshots import Snapshot
from coopfs.errors import CoopfsError, Rollback, StoreUnavailable
from coopfs.view.catalogue import VirtualNode
from coopfs.view.options import MountOptions
from coopfs.view.refresher import Refresher


class Shelf:
    """Stands for an archive whose store can be changed and taken away."""

    def __init__(self, *snapshots: Snapshot, is_local: bool = True) -> None:
        self.there = list(snapshots)
        self.seen = list(snapshots)
        self.failure: CoopfsError | None = None
        self.refreshed = 0
        self.third_time = threading.Event()
        self.warnings: list[str] = []
        self.store = SimpleNamespace(is_local=is_local)
        self.away = ""
        self.index = SimpleNamespace(pack_count=1)
        self.fetched = 0

    def fetch_metadata(self) -> None:
        self.fetched += 1

    def refresh(self) -> None:
        self.refreshed += 1
        if self.refreshed == 3:
            self.third_time.set()
        if self.failure:
            raise self.failure
        self.seen = list(self.there)

    def snapshots(self) -> list[Snapshot]:
        return self.seen


def refresher_of(shelf: Shelf, **options: Any) -> tuple[Refresher, list[VirtualNode]]:
    shown: list[VirtualNode] = []
    refresher = Refresher(cast(Archive, shelf), MountOptions(**options), shown.append)
    return refresher, shown


async def test_a_new_snapshot_is_shown_and_nothing_new_changes_nothing() -> None:
    shelf = Shelf(snapshot(1))
    refresher, shown = refresher_of(shelf)
    await refresher.look()
    assert shown == []
    shelf.there.append(snapshot(1, series="etc"))
    await refresher.look()
    assert [names(at(top, "by-host/anna")) for top in shown] == [["etc", "home"]]
    assert refresher.snapshot_count == 2
    assert shown[0] is refresher.catalogue


async def test_a_snapshot_that_is_gone_is_shown_no_more() -> None:
    shelf = Shelf(snapshot(1), snapshot(2))
    refresher, shown = refresher_of(shelf)
    shelf.there.pop()
    await refresher.look()
    assert names(shown[0]) == names(build(snapshot(1)))
    assert refresher.snapshot_count == 1


async def test_whoever_looks_at_a_local_archive_sees_it_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shelf = Shelf(snapshot(1))
    refresher, _ = refresher_of(shelf)
    now = trio.current_time()
    monkeypatch.setattr(trio, "current_time", lambda: now)
    for _ in range(5):
        await refresher.looked_at()
    assert shelf.refreshed == 1  # not more than once a second
    now += 1
    await refresher.looked_at()
    assert shelf.refreshed == 2


async def test_looking_never_waits_for_a_partner() -> None:
    shelf = Shelf(snapshot(1), is_local=False)
    refresher, _ = refresher_of(shelf)
    await refresher.looked_at()
    assert shelf.refreshed == 0


async def test_without_anybody_looking_it_looks_every_so_often() -> None:
    shelf = Shelf(snapshot(1), is_local=False)
    refresher, _ = refresher_of(shelf, refresh_s=0.01)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(refresher.run)
        assert await trio.to_thread.run_sync(shelf.third_time.wait, 60)
        nursery.cancel_scope.cancel()


async def test_names_are_fetched_in_advance_once_for_what_is_new() -> None:
    shelf = Shelf(snapshot(1), is_local=False)
    refresher, _ = refresher_of(shelf)
    for _ in range(2):
        await refresher.fetch_metadata()
    assert shelf.fetched == 1
    shelf.index.pack_count = 2
    await refresher.fetch_metadata()
    assert shelf.fetched == 2


async def test_an_archive_opened_while_its_partner_is_away_says_so_until_it_answers() -> None:
    shelf = Shelf(snapshot(1), is_local=False)
    shelf.away = "no route"
    refresher, _ = refresher_of(shelf)
    assert refresher.failure == "no route"
    await refresher.fetch_metadata()
    assert shelf.fetched == 0
    await refresher.look()
    assert refresher.failure == ""


async def test_those_who_look_at_once_share_one_look() -> None:
    shelf = Shelf(snapshot(1))
    refresher, _ = refresher_of(shelf)
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(refresher.look)
    assert shelf.refreshed < 3


@pytest.mark.parametrize(
    ("failure", "level"),
    [(StoreUnavailable("no route"), logging.WARNING), (Rollback("shows less"), logging.ERROR)],
)
async def test_a_failure_is_logged_once_and_what_was_known_stays(
    failure: CoopfsError, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    shelf = Shelf(snapshot(1))
    refresher, shown = refresher_of(shelf)
    shelf.failure = failure
    for _ in range(3):
        await refresher.look()
    assert [(r.levelno, str(failure) in r.message) for r in caplog.records] == [(level, True)]
    assert refresher.failure == str(failure)
    assert shown == []
    assert refresher.snapshot_count == 1
    shelf.failure = None
    await refresher.look()
    assert refresher.failure == ""
    assert "answers again" in caplog.records[-1].message


async def test_a_warning_about_the_store_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shelf = Shelf(snapshot(1))
    shelf.warnings = ["snapshots/3f9a: its signature is not its writer's"]
    refresher, _ = refresher_of(shelf)
    for _ in range(3):
        await refresher.look()
    assert [record.message for record in caplog.records] == shelf.warnings
