"""The life of a mount: made, announced, served until a signal or an unmount, undone.

Owns the event loop and the signals.  What is
shown is :mod:`coopfs.view.fuse`'s; going into the background is
:mod:`coopfs.view.background`'s.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import AsyncIterator, Callable
from typing import Final

import pyfuse3
import trio

from coopfs.archive.archive import Archive
from coopfs.errors import MountError
from coopfs.view.decoders import Decoders
from coopfs.view.fetcher import Fetcher
from coopfs.view.fuse import MountOperations
from coopfs.view.memory import Trimmer
from coopfs.view.mountpoint import SUBTYPE, check_fuse, check_mountpoint, set_read_ahead
from coopfs.view.options import BLOCK_MEMORY_LOCAL, BLOCK_MEMORY_REMOTE, MountOptions
from coopfs.view.quickwait import quick_wait
from coopfs.view.refresher import Refresher

# What the kernel asks for ahead of a reader in order, where we may say so: one request (the
# most FUSE has), or two for readers that announce themselves, as cat does (posix_fadvise(2)).
# With 4 MiB the requests of one reader overtook what was decoded ahead of it.
READ_AHEAD: Final = 1 << 20  # bytes
TASKS_MIN: Final = 8  # requests served at once; making a task for each costs more
TASKS_MAX: Final = 256  # those that wait for a slow partner must not hold up the others

log = logging.getLogger(__name__)


def run_mount(
    archive: Archive,
    mountpoint: str,
    options: MountOptions,
    on_ready: Callable[[], None],
) -> None:
    """Mount *archive* and serve it until it is unmounted, or SIGTERM or SIGINT comes.

    *on_ready* is called once, when the mount can be used.

    Raises:
        MountError: the mount cannot be made; says why.
    """
    check_fuse(options)
    path = check_mountpoint(mountpoint, options)
    if options.block_memory_len is None:
        is_local = archive.store.is_local
        archive.blocks.forget_memory(BLOCK_MEMORY_LOCAL if is_local else BLOCK_MEMORY_REMOTE)
    trio.run(_serve, archive, path, options, on_ready)


async def _serve(
    archive: Archive, path: str, options: MountOptions, on_ready: Callable[[], None]
) -> None:
    refresher = Refresher(archive, options)
    started = trio.Event()
    async with trio.open_nursery() as nursery:
        fetcher = Fetcher(archive, nursery, Trimmer())
        decoders = Decoders(archive, nursery)
        operations = MountOperations(archive, options, refresher, fetcher, decoders, started.set)
        # Before the mount exists: a signal from here on always ends in an unmount.
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            _make_mount(operations, path, archive.settings.name, options)
            try:
                nursery.start_soon(_stop_on_signal, signals)
                nursery.start_soon(_announce, started, path, on_ready)
                nursery.start_soon(refresher.run)
                with quick_wait(lambda: fetcher.is_idle and decoders.is_idle):
                    await pyfuse3.main(min_tasks=TASKS_MIN, max_tasks=TASKS_MAX)
            finally:
                # Unmounts if a signal ended the loop; lazily, so nothing can hold it up.
                pyfuse3.close(unmount=True)
                log.info("%s: unmounted", path)
                nursery.cancel_scope.cancel()


def _make_mount(operations: MountOperations, path: str, name: str, options: MountOptions) -> None:
    # A comma would end the option.
    source = name.replace("\\", "\\\\").replace(",", "\\,")
    wanted = {*options.kernel, f"fsname={source}", f"subtype={SUBTYPE}"}
    try:
        pyfuse3.init(operations, path, wanted)
    except (RuntimeError, OSError) as exc:
        # libfuse has printed the reason itself.
        raise MountError(f"{path}: the mount was refused; the line above says why") from exc


async def _announce(started: trio.Event, path: str, on_ready: Callable[[], None]) -> None:
    await started.wait()
    set_read_ahead(path, READ_AHEAD)
    log.info("%s: mounted", path)
    on_ready()


async def _stop_on_signal(signals: AsyncIterator[int]) -> None:
    async for number in signals:
        log.info("stopping on %s", signal.Signals(number).name)
        pyfuse3.terminate()
