"""Objects under ``snapshots/`` that no honest writer made: told apart, and taken away.

A hacked host can put anything there, and prune refuses what it cannot read.  So what is
certainly nobody's is set aside with the admin key: a copy is kept on this machine, a forget
record names it, and it is deleted (at a partner's: into the trash).  Certain are

- objects whose bytes are what their name stands for and that do not open with the
  archive's key, are malformed, of a role that has no place there, or not signed as their
  role demands: nothing has damaged them since, so they were put like that;
- snapshots that a distrusted writer put after it was distrusted.

Not certain is what is damaged or of a newer version; and, as long as there is such an
object, which may be an enrolment, what only lacks an enrolled writer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from coopfs.archive.archive import Archive
from coopfs.archive.verifying import label
from coopfs.dirs import write_private
from coopfs.errors import ObjectNotFound, UsageError
from coopfs.format.keys import SigningKey
from coopfs.ids import ObjectId, SnapshotId
from coopfs.ops.forget import ForgetResult, let_go
from coopfs.store.base import Kind

FOLDER: Final = "set-aside"  # in the state folder
DIGITS_MIN: Final = 8  # of an object's name, as typed


@dataclass(frozen=True, slots=True)
class Strangers:
    """What does not count under ``snapshots/``."""

    certain: dict[ObjectId, str]  # to be set aside -> why
    doubtful: dict[ObjectId, str]  # may be real -> what is wrong


def find_strangers(archive: Archive, named: Sequence[str] = ()) -> Strangers:
    """Sort out what is unusable in a refreshed archive.

    *named*: first digits of the names of doubtful objects that somebody knows to be lost.

    Raises:
        UsageError: a name is of no such object, or of several.
    """
    objects = archive.objects
    forgotten = objects.forgotten()
    unusable = {item.object_id: item for item in objects.unusable}
    may_be_enrolment = any(item.role is None and not item.is_foreign for item in unusable.values())
    certain = {
        name: item.problem
        for name, item in unusable.items()
        if item.is_foreign and (item.role is None or not may_be_enrolment)
    }
    for snapshot_id, facts in objects.disregarded().items():
        if snapshot_id not in forgotten:
            certain[ObjectId(snapshot_id)] = (
                f"{label(snapshot_id)}: snapshot number {facts.number} of "
                f"{facts.host}/{facts.series} came after its writer was distrusted"
            )
    for digits in named:
        found = [
            name
            for name in unusable
            if len(digits) >= DIGITS_MIN and name.hex().startswith(digits.lower())
        ]
        if len(found) != 1:
            raise UsageError(
                f"{digits!r}: expected {DIGITS_MIN} or more digits of the name of one object under "
                f"snapshots/ that cannot be used; found {len(found)}"
            )
        certain[found[0]] = unusable[found[0]].problem
    doubtful = {n: item.problem for n, item in unusable.items() if n not in certain}
    return Strangers(certain, doubtful)


def set_aside(
    archive: Archive, strangers: Strangers, admin: SigningKey
) -> tuple[ForgetResult, Path]:
    """Take the certain ones away; return what was done and where copies of them lie.

    Raises:
        StoreError: the store failed; the same again goes on.
        ConfigError: a copy cannot be written; nothing was deleted.
    """
    folder = archive.state_folder / FOLDER
    for name in sorted(strangers.certain):
        path = folder / name.hex()
        try:
            data = archive.store.get(Kind.SNAPSHOTS, name)
        except ObjectNotFound:
            continue
        if not path.exists():
            folder.mkdir(mode=0o700, exist_ok=True)
            write_private(path, data, replace=True)
    disregarded = archive.objects.disregarded()
    going: dict[SnapshotId, tuple[SnapshotId, ...]] = {}
    for name in strangers.certain:
        facts = disregarded.get(SnapshotId(name))
        going[SnapshotId(name)] = facts.previous if facts else ()
    return let_go(archive, going, admin), folder
