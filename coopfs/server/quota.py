"""What a partner may put, and how much of it is used.

Owns the sums.  They are counted from the disk when the server starts and kept up in
memory: there is no record that could disagree with what is there.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Final, Protocol

from coopfs.errors import StoreFull
from coopfs.server.clock import ClockWatch

ADMIN_EXTRA: Final = 20  # the admin key may go one part in so many (5 %) over the quota
# The trash takes a quarter of the quota without counting against it: about what a
# monthly prune of a tenth lets go in the 30 days it lies there, twice over.
TRASH_PART: Final = 4
# Every object is a file, however small: a disk has room for so many (ext4 makes an inode for
# 16 KiB), and a partner must not take them all with a quota's worth of single bytes.  What
# coopfs puts has 64 KiB at least, restic's packs megabytes.
BYTES_AN_OBJECT: Final = 16 << 10
OBJECTS_FREE: Final = 10_000
UNLIMITED: Final = 1 << 62  # bytes left where no quota was set
DAY_NS: Final = 24 * 3600 * 10**9


def day_of(clock: ClockWatch) -> int:
    """Return the number of the day (UTC) it is, by depot time."""
    return clock.now_ns() // DAY_NS


class Terms(Protocol):
    """What was agreed with a partner, as far as it concerns the disk."""

    @property
    def name(self) -> str:
        """The partner's name, also its folder's."""

    @property
    def quota_bytes(self) -> int:
        """How much it may store; 0: whatever the disk holds."""

    @property
    def per_day_bytes(self) -> int:
        """How much it may put in a day (UTC, by depot time); 0: as much as the quota allows."""

    @property
    def retention_days(self) -> int:
        """How long what was deleted lies in the trash."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What one partner uses and may still use; all in bytes but the counts."""

    objects: int  # how many
    used: int  # by them, the config included
    quota: int  # 0: none
    trash_objects: int
    trash_used: int
    trash_allowance: int  # what the trash has beyond it counts against the quota
    rotten_objects: int  # found damaged, and kept until they are put again; not counted
    rotten_used: int
    reserved: int  # uploads on their way
    left: int  # how much more may be put, by the quota and the disk
    today: int  # put since midnight UTC
    per_day: int  # 0: no limit
    disk_free: int


@dataclass(slots=True)
class Count:
    """What lies in the folders of one partner."""

    objects: int = 0
    used: int = 0
    trash_objects: int = 0
    trash_used: int = 0
    rotten_objects: int = 0
    rotten_used: int = 0
    today: int = 0
    day: int = 0  # number of the day that *today* is about


class Ledger:
    """The sums of one partner.  Thread-safe; *lock* is held by whoever changes several things."""

    def __init__(self, terms: Terms) -> None:
        self.lock = threading.RLock()
        self.terms = terms
        self.count = Count()
        self._reserved = 0
        self._reserved_objects = 0
        self._reserved_today = 0

    def reserve(self, label: str, size: int, day: int, *, is_admin: bool) -> None:
        """Set *size* bytes aside for an upload, until :meth:`release`.

        With *is_admin* the quota is 5 % larger and the day's share is not asked: a prune
        writes before it deletes, and must always be able to make room.

        Raises:
            StoreFull: it would go over the quota or the day's share, or there are too many.
        """
        with self.lock:
            left = self.left(is_admin=is_admin)
            if size > left:
                raise StoreFull(
                    f"{label}: {size} bytes are over the quota: {max(left, 0)} of "
                    f"{self.terms.quota_bytes} bytes are left; forget and prune what is not "
                    f"needed, or ask the partner for more"
                )
            most = self._objects_max(is_admin=is_admin)
            there = self.count.objects + self.count.trash_objects + self._reserved_objects
            if there >= most:
                raise StoreFull(
                    f"{label}: {there} objects are here already, the trash included, and the "
                    f"quota of {self.terms.quota_bytes} bytes has room for {most} of them; forget "
                    f"and prune what is not needed, or ask the partner for more"
                )
            per_day = self.terms.per_day_bytes
            left_today = per_day - self._today(day) - self._reserved_today
            if per_day and not is_admin and size > left_today:
                raise StoreFull(
                    f"{label}: {size} bytes are over the day's share: {max(left_today, 0)} of "
                    f"{per_day} bytes are left until midnight UTC; run it again tomorrow, or "
                    f"ask the partner for more"
                )
            self._reserved += size
            self._reserved_objects += 1
            self._reserved_today += size

    def release(self, size: int) -> None:
        """Give back what was reserved, whether or not the upload became an object."""
        with self.lock:
            self._reserved -= size
            self._reserved_objects -= 1
            self._reserved_today -= size

    def _objects_max(self, *, is_admin: bool) -> int:
        quota = self.terms.quota_bytes
        most = OBJECTS_FREE + quota // BYTES_AN_OBJECT if quota else UNLIMITED
        return most + (most // ADMIN_EXTRA if is_admin else 0)

    def left(self, *, is_admin: bool = False) -> int:
        """Return how many bytes may still be put; negative where the quota was lowered."""
        with self.lock:
            quota = self.terms.quota_bytes
            if not quota:
                return UNLIMITED
            limit = quota + (quota // ADMIN_EXTRA if is_admin else 0)
            over = max(self.count.trash_used - quota // TRASH_PART, 0)
            return limit - self.count.used - self._reserved - over

    def put(self, size: int, day: int) -> None:
        """Count a new object."""
        with self.lock:
            self.count.objects += 1
            self.count.used += size
            self.count.today, self.count.day = self._today(day) + size, day

    def gone(self, size: int) -> None:
        """Count an object that has left ``objects/``."""
        with self.lock:
            self.count.objects -= 1
            self.count.used -= size

    def back(self, size: int) -> None:
        """Count an object that has come back from the trash; it was put on another day."""
        with self.lock:
            self.count.objects += 1
            self.count.used += size

    def trashed(self, size: int, objects: int = 1) -> None:
        """Count what has come into the trash, or (negative) has left it."""
        with self.lock:
            self.count.trash_objects += objects
            self.count.trash_used += size

    def rotted(self, size: int, objects: int = 1) -> None:
        """Count what was moved aside as damaged, or (negative) is let go of."""
        with self.lock:
            self.count.rotten_objects += objects
            self.count.rotten_used += size

    def usage(self, day: int, disk_free: int) -> Usage:
        """Return the sums as they are now."""
        with self.lock:
            count = self.count
            return Usage(
                objects=count.objects,
                used=count.used,
                quota=self.terms.quota_bytes,
                trash_objects=count.trash_objects,
                trash_used=count.trash_used,
                trash_allowance=self.terms.quota_bytes // TRASH_PART,
                rotten_objects=count.rotten_objects,
                rotten_used=count.rotten_used,
                reserved=self._reserved,
                left=max(min(self.left(), disk_free), 0),
                today=self._today(day),
                per_day=self.terms.per_day_bytes,
                disk_free=disk_free,
            )

    def _today(self, day: int) -> int:
        return self.count.today if self.count.day == day else 0
