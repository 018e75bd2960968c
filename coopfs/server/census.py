"""Counting what lies in a partner's folder, and settling what a kill left half moved.

A file is moved by giving it the new name, then taking the old one away; whoever is
killed in between leaves both.  The object's own name wins: a deletion that was not
answered has not happened, a restoration has.
"""

from __future__ import annotations

import os
from contextlib import suppress

from coopfs.objects import KINDS
from coopfs.server.places import ROTTEN, TRASH, Aside, Places
from coopfs.server.quota import Count


def settle(places: Places) -> None:
    """Take the second name away from what a killed server was moving."""
    for area in (TRASH, ROTTEN):
        for aside in places.list_aside(area):
            with suppress(FileNotFoundError):
                if _is_half_moved(places, aside, os.lstat(aside.path)):
                    os.unlink(aside.path)


def take_census(places: Places, day: int, day_start_ns: int) -> Count:
    """Return what is there; *day_start_ns*, by the wall clock, is when *day* began."""
    count = Count(day=day)
    for kind in KINDS:
        for folder in places.folders_of(kind):
            for stored in places.list_objects(kind, folder):
                count.objects += 1
                count.used += stored.size
                if stored.mtime_ns >= day_start_ns:
                    count.today += stored.size
    with suppress(FileNotFoundError):
        count.used += os.lstat(places.config).st_size
    for aside in places.list_aside(TRASH):
        if (status := _whole(places, aside)) is not None:
            count.trash_objects += 1
            count.trash_used += status.st_size
            if status.st_mtime_ns >= day_start_ns:  # put and deleted on one day
                count.today += status.st_size
    for aside in places.list_aside(ROTTEN):
        if (status := _whole(places, aside)) is not None:
            count.rotten_objects += 1
            count.rotten_used += status.st_size
    return count


def _whole(places: Places, aside: Aside) -> os.stat_result | None:
    """Return the status of what is really set aside, not on its way there or back."""
    try:
        status = os.lstat(aside.path)
    except FileNotFoundError:
        return None
    return None if _is_half_moved(places, aside, status) else status


def _is_half_moved(places: Places, aside: Aside, status: os.stat_result) -> bool:
    if status.st_nlink < 2:
        return False
    # The partner may keep copies of the folder made of hard links: look, do not guess.
    with suppress(FileNotFoundError):
        return os.path.samestat(status, os.lstat(places.object(aside.kind, aside.name)))
    return False
