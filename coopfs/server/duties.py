"""What a server does beside answering: empties trashes in time, looks for rot.

Driven from the event loop, done in threads by small blocking steps of the depots.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, TypeVar

import trio

from coopfs.errors import CoopfsError
from coopfs.server.visitors import Desk, Partners

log = logging.getLogger("coopfs.serve")

TRASH_S: Final = 600.0  # how often trashes are looked into
MORE_S: Final = 1.0  # between two steps where one was not enough
TROUBLE_S: Final = 60.0  # after an error: the disk may be away for a while
LOOK_S: Final = 5.0  # how often new partners are looked for

T = TypeVar("T")


async def run(partners: Partners) -> None:
    """Look after every partner's objects until cancelled."""
    # Not the limiter of requests: these must not wait for clients, nor clients for them.
    limiter = trio.CapacityLimiter(2)
    async with trio.open_nursery() as nursery:
        looked_after: set[Desk] = set()
        while True:
            for desk in partners.desks.values():
                if desk not in looked_after:
                    looked_after.add(desk)
                    nursery.start_soon(_empty_trash, partners, desk, limiter)
                    nursery.start_soon(_scrub, partners, desk, limiter)
            looked_after &= set(partners.desks.values())
            await trio.sleep(LOOK_S)


async def _empty_trash(partners: Partners, desk: Desk, limiter: trio.CapacityLimiter) -> None:
    has_complained = False
    while _is_served(partners, desk):
        emptied = await _step(desk, desk.depot.empty_trash, limiter)
        if emptied is None:
            await trio.sleep(TROUBLE_S)
            continue
        if emptied.objects:
            log.info(
                "%s: emptied %d objects of the trash, %d bytes",
                *(desk.name, emptied.objects, emptied.freed),
            )
        if emptied.jump is not None and not has_complained:
            log.error(
                "the clock is not believed (%s): no trash is emptied until it is right again "
                "or somebody confirms it",
                emptied.jump.describe(),
            )
        has_complained = emptied.jump is not None
        await trio.sleep(MORE_S if emptied.is_more else TRASH_S)


async def _scrub(partners: Partners, desk: Desk, limiter: trio.CapacityLimiter) -> None:
    while _is_served(partners, desk):
        step = await _step(desk, desk.depot.scrub_step, limiter)
        if step is None:
            await trio.sleep(TROUBLE_S)
            continue
        for finding in step.found:
            log.error(
                "%s: %s/%s is damaged (%d bytes): set aside until its owner puts it again",
                *(desk.name, finding.kind, finding.name, finding.size),
            )
        await trio.sleep(desk.depot.scrub_pause_s(step))


async def _step(desk: Desk, step: Callable[[], T], limiter: trio.CapacityLimiter) -> T | None:
    """Run one step in a thread; None: it failed, and the log says why."""
    try:
        return await trio.to_thread.run_sync(step, limiter=limiter)
    except CoopfsError as exc:
        log.error("%s: %s", desk.name, exc)
        return None


def _is_served(partners: Partners, desk: Desk) -> bool:
    return partners.desks.get(desk.name) is desk
