"""The handlers themselves, where no real mount can be brought to what is tested."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from checked import opened
from hosts import Host
from pyfuse3 import FUSEError
from test_view_reader import NoTrimmer

from coopfs.archive.select import folder_name
from coopfs.view.browser import Found
from coopfs.view.decoders import Decoders
from coopfs.view.fetcher import Fetcher
from coopfs.view.fuse import MountOperations
from coopfs.view.options import MountOptions
from coopfs.view.refresher import Refresher

CONTEXT = cast(Any, None)  # who asks; no handler looks at it


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    base = tmp_path_factory.mktemp("fuse")
    (base / "source").mkdir()
    (base / "source" / "file").write_bytes(os.urandom(100_000))
    host = Host(base)
    host.init(base / "store")
    host.ok("snapshot", base / "source", "--series", "s")
    return host


@asynccontextmanager
async def serving(host: Host) -> AsyncIterator[tuple[MountOperations, Any]]:
    """Handlers for the archive of *host*, and its store."""
    with opened(host) as (archive, store):
        archive.refresh()
        refresher = Refresher(archive, MountOptions())
        async with trio.open_nursery() as nursery:
            fetcher = Fetcher(archive, nursery, NoTrimmer())
            yield (
                MountOperations(
                    archive,
                    MountOptions(),
                    refresher,
                    fetcher,
                    Decoders(archive, nursery),
                    lambda: None,
                ),
                store,
            )
            nursery.cancel_scope.cancel()


async def ino_of(operations: MountOperations, host: Host, *below: str) -> int:
    """Look up the source's folder in the newest snapshot, or something below it."""
    snapshot = operations._archive.snapshots()[-1]
    top = ["by-host", "anna", "s", folder_name(snapshot.facts)]
    ino = 1
    for name in [*top, *str(host.base / "source").strip("/").split("/"), *below]:
        ino = (await operations.lookup(ino, os.fsencode(name), CONTEXT)).st_ino
    return ino


async def refusal(awaitable: Any) -> int:
    with pytest.raises(FUSEError) as caught:
        await awaitable
    return caught.value.errno


async def test_an_entry_of_a_newer_version_is_shown_but_not_opened(
    host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(host) as (operations, _):
        ino = await ino_of(operations, host, "file")
        known = operations._browser.entry

        async def entry(ino: int) -> Found:
            found = await known(ino)
            newer = found.entry._replace(unsupported="a newer coopfs is needed", spans=None)
            return Found(found.folder, found.place, newer, found.leaf, found.leaf_start)

        monkeypatch.setattr(operations._browser, "entry", entry)
        assert (await operations.getattr(ino, CONTEXT)).st_size == 100_000
        assert await refusal(operations.open(ino, os.O_RDONLY, CONTEXT)) == errno.EIO
    assert "/source/file: a newer coopfs is needed" in caplog.text


async def test_a_partner_that_is_away_is_its_own_errno_and_one_line(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(host) as (operations, store):
        ino = await ino_of(operations, host, "file")
        handle = (await operations.open(ino, os.O_RDONLY, CONTEXT)).fh
        store.go_away()
        for _ in range(3):
            assert await refusal(operations.read(handle, 0, 4096)) == errno.EHOSTDOWN
        # What is known stays visible.
        assert (await operations.getattr(ino, CONTEXT)).st_size == 100_000
        store.come_back()
        assert len(await operations.read(handle, 0, 4096)) == 4096
    lines = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert len(lines) == 1
    assert f"{host.base}/source/file: " in lines[0]


async def test_a_defect_costs_one_request_not_the_mount(
    host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(host) as (operations, _):
        ino = await ino_of(operations, host)

        async def broken(ino: int) -> Found:
            raise ZeroDivisionError

        with monkeypatch.context() as patch:
            patch.setattr(operations._browser, "folder", broken)
            assert await refusal(operations.lookup(ino, b"file", CONTEXT)) == errno.EIO
        assert (await operations.lookup(ino, b"file", CONTEXT)).st_ino
    assert "not foreseen" in caplog.text


async def test_opening_for_writing_is_refused_whatever_the_kernel_thinks(host: Host) -> None:
    async with serving(host) as (operations, _):
        ino = await ino_of(operations, host, "file")
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC):
            assert await refusal(operations.open(ino, flags, CONTEXT)) == errno.EROFS
        assert await refusal(operations.write(1, 0, b"x")) == errno.EROFS
        assert await refusal(operations.create(1, b"x", 0o644, 0, CONTEXT)) == errno.EROFS


async def test_flush_says_once_that_there_is_nothing_to_flush(host: Host) -> None:
    async with serving(host) as (operations, _):
        assert await refusal(operations.flush(1)) == errno.ENOSYS


async def test_an_absent_name_is_remembered_by_the_kernel_inside_snapshots_only(
    host: Host, tmp_path: Path
) -> None:
    async with serving(host) as (operations, _):
        ino = await ino_of(operations, host)
        absent = await operations.lookup(ino, b"nothing", CONTEXT)
        assert absent.st_ino == 0
        assert absent.entry_timeout > 3600
        assert await refusal(operations.lookup(1, b"nothing", CONTEXT)) == errno.ENOENT


async def test_an_unreachable_partner_shows_in_the_status(host: Host) -> None:
    async with serving(host) as (operations, store):
        store.go_away()
        await operations._refresher.look()
        status = operations._status()
        assert b"partner: unreachable\n" in status
        assert b"problem: none\n" not in status
        store.come_back()
        await operations._refresher.look()
        assert b"problem: none\n" in operations._status()
