"""Index objects of a prune: marks, and fewer objects in place of many.

Owns what a replacing object must say: every pack that is still there, every mark, and
the names of all that it stands for, those included that were replaced before and could
not be deleted.  One group of objects is in memory at a time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from coopfs.archive.archive import Archive
from coopfs.archive.writer import INDEX_CHUNKS
from coopfs.errors import SignatureInvalid
from coopfs.format.body import seal_body
from coopfs.format.index import IndexedPack, IndexObject, encode_index
from coopfs.format.keys import Role, SigningKey
from coopfs.format.pack import verify_directory
from coopfs.ids import ID_LEN, ObjectId, PackId, short_hex
from coopfs.store.base import Kind

OBJECTS_MAX: Final = 64  # live index objects; beyond, they are consolidated (DESIGN)
DEAD_SHARE: Final = 0.25  # of an object's packs gone: it is written anew without them
MARKS_MAX: Final = 1 << 18  # in one object: 9 MB


def put_index_object(
    archive: Archive,
    admin: SigningKey,
    packs: Sequence[IndexedPack] = (),
    marked: Sequence[PackId] = (),
    replaces: Sequence[ObjectId] = (),
    time_ns: int | None = None,
) -> ObjectId:
    """Sign and put one index object, and take it in here (StoreError); made now by default."""
    content = IndexObject(
        tuple(packs),
        tuple(marked),
        tuple(replaces),
        admin.writer_id,
        time.time_ns() if time_ns is None else time_ns,
    )
    sealed = seal_body(
        archive.keys,
        admin,
        Role.INDEX,
        archive.config.archive_id,
        encode_index(content),
        os.urandom(32),
    )
    archive.store.put(Kind.INDEX, sealed.object_id, sealed.data)
    archive.index.add_object(sealed.object_id, content)
    return sealed.object_id


def put_marks(archive: Archive, admin: SigningKey, pack_ids: Iterable[PackId]) -> None:
    """Mark packs, for ever: nobody relies on them any more (StoreError)."""
    names = sorted(pack_ids)
    for start in range(0, len(names), MARKS_MAX):
        put_index_object(archive, admin, marked=names[start : start + MARKS_MAX])


@dataclass(frozen=True, slots=True)
class KnownObject:
    """One index object, as the local index has it."""

    name: ObjectId
    packs: int
    dead: int  # of those: marked and gone from the store
    chunks: int
    marks: int
    replaces: frozenset[ObjectId]


def known_objects(archive: Archive, dead: set[PackId]) -> list[KnownObject]:
    """Return the index objects the local index knows, replaced ones too."""
    connection = archive.state.connection
    counts: dict[int, list[int]] = {}
    rows = connection.execute(
        "SELECT object_no, pack_id, (SELECT SUM(LENGTH(chunks)) FROM blocks"
        " WHERE blocks.pack_no = packs.pack_no) FROM pack_listings JOIN packs USING (pack_no)"
    )
    for object_no, pack_id, chunks_len in rows:
        count = counts.setdefault(object_no, [0, 0, 0])
        count[0] += 1
        count[1] += pack_id in dead
        count[2] += (chunks_len or 0) // (ID_LEN + 4)
    found = []
    for object_no, name, replaces, marks_len in connection.execute(
        "SELECT object_no, object_id, replaces, LENGTH(marked) FROM index_objects"
    ):
        packs, gone, chunks = counts.get(object_no, [0, 0, 0])
        names = (replaces[at : at + ID_LEN] for at in range(0, len(replaces), ID_LEN))
        found.append(
            KnownObject(
                ObjectId(name),
                packs,
                gone,
                chunks,
                (marks_len or 0) // ID_LEN,
                frozenset(map(ObjectId, names)),
            )
        )
    return sorted(found, key=lambda known: known.name)


def replaced_names(objects: Iterable[KnownObject]) -> set[ObjectId]:
    """Return the names that some object of *objects* replaces."""
    return {name for known in objects for name in known.replaces}


def groups_to_rewrite(objects: Sequence[KnownObject]) -> list[list[KnownObject]]:
    """Return which of *objects* to write anew, those of each group as one."""
    replaced = replaced_names(objects)
    live = [known for known in objects if known.name not in replaced]
    worn = [known for known in live if known.dead and known.dead >= DEAD_SHARE * known.packs]
    if len(live) > OBJECTS_MAX:
        worn = [k for k in live if k.dead or max(k.chunks, k.marks) < INDEX_CHUNKS // 2]
        if len(worn) < 2 and not any(known.dead for known in worn):
            return []
    groups: list[list[KnownObject]] = []
    room = marks_room = 0
    for known in worn:
        if known.chunks > room or known.marks > marks_room or not groups:
            groups.append([])
            room, marks_room = INDEX_CHUNKS, MARKS_MAX
        groups[-1].append(known)
        room -= known.chunks
        marks_room -= known.marks
    return groups


def rewrite_group(
    archive: Archive,
    admin: SigningKey,
    group: Sequence[KnownObject],
    dead: set[PackId],
    in_store: set[ObjectId],
) -> bool:
    """Put one object in place of *group*, without the packs that are *dead*; False: of none.

    *in_store* is a listing of index objects: of what was replaced before, the names that
    are still there must stay replaced.  An object of a writer that lists a pack in another
    writer's name, without that one's signature, stays as it is, its own signature on it.

    Raises:
        StoreError, DataError: one of them cannot be read any more; nothing was replaced.
    """
    packs: dict[tuple[PackId, bytes], IndexedPack] = {}
    marked: set[PackId] = set()
    time_ns = 0  # of the newest: what it lists is no younger for being listed anew
    names: set[ObjectId] = set()
    for known, content in _contents(archive, group, admin):
        names.add(known.name)
        time_ns = max(time_ns, content.time_ns)
        marked.update(content.marked)
        for pack in content.packs:
            if pack.pack_id not in dead:
                # Listings of one pack that differ stay apart, as they are in every index.
                listing = pack.header.encode() + pack.size.to_bytes(8, "little")
                packs.setdefault((pack.pack_id, listing + pack.directory.body), pack)
    if not names:
        return False
    before = {
        name
        for known in group
        if known.name in names
        for name in known.replaces
        if name in in_store
    }
    put_index_object(
        archive, admin, list(packs.values()), sorted(marked), sorted(names | before), time_ns
    )
    return True


def _contents(
    archive: Archive, group: Sequence[KnownObject], admin: SigningKey
) -> Iterator[tuple[KnownObject, IndexObject]]:
    for known in group:
        content = archive.read_index_object(known.name)
        # What a pack itself has refuted is not signed anew (coopfs.archive.listings).
        packs = [p for p in content.packs if archive.index.has_listing(p) is not False]
        content = replace(content, packs=tuple(packs))
        if content.writer_id == admin.writer_id or _is_honest(archive, content):
            yield known, content


def _is_honest(archive: Archive, content: IndexObject) -> bool:
    """Tell whether the packs listed as other writers' are signed by those.

    What a writer says of packs of its own, its signature on the index object vouches for
    as long as that is there, and the writer's id in the directory after.
    """
    writers = archive.objects.writers()
    for pack in content.packs:
        writer_id = pack.directory.writer_id
        if writer_id == content.writer_id:
            continue
        writer = writers.get(writer_id)
        key = archive.config.admin_public_key if writer is None else writer.public_key
        try:
            verify_directory(pack.directory, key, f"pack {short_hex(pack.pack_id)}")
        except SignatureInvalid:
            return False
    return True
