"""What an archive has let go leaves its copy too, when that is asked for, and not at once.

Owns what may be deleted in a copy, and the refusals.  The archive must be understood to the
last tree, as for a prune, and nothing may be in the copy that the archive hides: else an
archive that was put back, or emptied by its keeper, would empty its copy as well.  What is
missed in the archive for the grace, counted as a prune counts it, is deleted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coopfs.archive.archive import Archive
from coopfs.archive.select import folder_name
from coopfs.archive.sightings import Sightings
from coopfs.archive.state import State
from coopfs.archive.verifying import ROLES
from coopfs.errors import DataError, ObjectNotFound, WrongKey
from coopfs.format.body import check_name, open_body
from coopfs.format.keys import Role
from coopfs.format.snapshot import decode_snapshot
from coopfs.ids import ObjectId, short_hex
from coopfs.ops.deleting import delete_objects
from coopfs.ops.mirror import MirrorPlan
from coopfs.ops.needs import Needs
from coopfs.ops.progress import Progress
from coopfs.store.base import Kind, Store


@dataclass(slots=True)
class Trimmed:
    """What was deleted in the copy."""

    objects: int = 0
    size: int = 0  # bytes
    waiting: int = 0  # objects that have not been missed for long enough yet
    denial: str = ""  # what the store said when it did not let us


def hidden_snapshots(archive: Archive, target: Store, plan: MirrorPlan) -> list[str]:
    """Return the snapshots in *target* that the archive should show and does not, by name.

    Reads what is unknown there; what cannot be read is no snapshot that anybody misses.

    Raises:
        StoreError: the target cannot be read.
    """
    found = []
    for name in sorted(plan.unknown):
        what = f"snapshots/{name.hex()[:16]}"
        try:
            data = target.get(Kind.SNAPSHOTS, name)
            check_name(data, name, what)
            opened = open_body(archive.keys, data, ROLES, what)
            if opened.role is Role.SNAPSHOT:
                facts = decode_snapshot(opened.body, what)
                found.append(
                    f"{short_hex(name)} (number {facts.number} of {facts.host}/{facts.series}, "
                    f"{folder_name(facts)})"
                )
        except (DataError, WrongKey, ObjectNotFound):
            continue
    return found


def trim_mirror(
    archive: Archive,
    target: Store,
    folder: Path,
    plan: MirrorPlan,
    grace_s: float,
    progress: Progress,
) -> Trimmed:
    """Delete in *target*, which has all that the archive has, what that has let go.

    *folder* is where this host keeps what it knows of the copy.  Stopped anywhere, the next
    run goes on.

    Raises:
        PruneRefused: something in the archive cannot be read; nothing was deleted.
        DataError: the copy holds snapshots that the archive hides; nothing was deleted.
        StoreError: a store failed.
    """
    hidden = hidden_snapshots(archive, target, plan)
    if hidden:
        raise DataError(
            f"{target.address}: nothing was deleted, as it holds what {archive.store.address} does "
            f"not show and nobody let go: snapshot {hidden[0]}"
        )
    needs = Needs(archive, progress)
    needs.refresh()
    needs.load(archive.index.packs())
    sizes = superfluous(archive, target)
    result = Trimmed()
    state = State(folder)
    try:
        sightings = Sightings(state)
        names = [name for found in sizes.values() for name in found]
        missed_ns = sightings.see(names)
        sightings.drop(sightings.known() - set(names))  # back again, or gone
        for kind, found in sizes.items():
            due = [name for name in found if missed_ns[name] >= grace_s * 1e9]
            result.waiting += len(found) - len(due)
            done = delete_objects(target, kind, due)
            result.objects += done.count
            result.size += sum(found[name] for name in due[: done.count])
            if done.denial:
                result.denial = done.denial
                break
    finally:
        state.close()
    return result


def superfluous(archive: Archive, target: Store) -> dict[Kind, dict[ObjectId, int]]:
    """Return what *target* has and the archive does not, with sizes, in the order of deleting.

    Nothing is deleted, nor asked whether it may be.
    """
    forgotten = set(map(ObjectId, archive.objects.forgotten()))
    here = set(archive.objects.roles())
    index = archive.index.known_objects()
    packs = {ObjectId(pack.pack_id) for pack in archive.index.packs()}
    packs |= {info.name for info in archive.store.list(Kind.DATA)}  # of a run not yet indexed
    return {
        Kind.SNAPSHOTS: {
            info.name: info.size
            for info in target.list(Kind.SNAPSHOTS)
            if info.name in forgotten and info.name not in here
        },
        Kind.INDEX: {
            info.name: info.size for info in target.list(Kind.INDEX) if info.name not in index
        },
        Kind.DATA: {
            info.name: info.size for info in target.list(Kind.DATA) if info.name not in packs
        },
    }
