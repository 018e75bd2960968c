"""Taking a carried disk in: a partner's first objects come by courier, not over the line.

Owns what the person at the server runs: whatever lies in the store on the disk is put into
the partner's depot as if it had come over the line, hashed while it is copied, and counted
against the quota.  Nothing is moved or linked: the disk is the partner's and may be used
again.  Stopped anywhere, the next run goes on.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TextIO

from coopfs.errors import DataError, NotAStore, ObjectNotFound, StoreError, StoreFull
from coopfs.format.config import peek_config
from coopfs.format.keys import SigningKey
from coopfs.format.receipt import Receipt, sign_receipt
from coopfs.ops.held import opened_depot
from coopfs.ops.progress import Progress
from coopfs.server.depot import Depot
from coopfs.server.quota import Terms
from coopfs.store.base import Kind, ObjectInfo, Store

# As a commit goes: whatever an index object or a snapshot names is there before it.
ORDER: Final = (Kind.DATA, Kind.INDEX, Kind.SNAPSHOTS, Kind.KEYS)
TELL_LEN: Final = 256 << 20  # bytes put before a server that runs is told to count again

OnReceipt = Callable[[Receipt], None]


@dataclass(slots=True)
class Imported:
    """What was taken in."""

    objects: int = 0
    size: int = 0  # bytes
    there_already: int = 0
    problems: list[str] = field(default_factory=list)  # objects that were not taken in


def receipt_writer(file: TextIO, signer: SigningKey) -> OnReceipt:
    """Return what writes each receipt, signed by the server, as a line of base64 to *file*."""

    def write(receipt: Receipt) -> None:
        file.write(base64.b64encode(sign_receipt(receipt, signer)).decode() + "\n")

    return write


def import_objects(
    root: Path, terms: Terms, source: Store, progress: Progress, on_receipt: OnReceipt
) -> Imported:
    """Put every object of *source* into the depot of the partner *terms* speaks of.

    An object whose bytes are not what its name says is left out and reported.

    Raises:
        NotFound: there is no such partner here.
        NotAStore: no archive lies in *source*.
        StoreFull: it is more than the quota, or the disk, has room for; nothing was put then.
        StoreError: another archive is here; a disk failed; the same command goes on.
    """
    try:
        config = source.get_config()
    except ObjectNotFound as exc:
        raise NotAStore(f"{source.address}: holds no archive (no config)") from exc
    archive_id = peek_config(config, source.address).archive_id
    with opened_depot(root, terms) as depot:
        with suppress(ObjectNotFound):
            if depot.get_config() != config:
                raise StoreError(
                    f"{terms.name}: keeps another archive here already than {archive_id.hex()}, "
                    f"which is in {source.address}; nothing was put"
                )
        done = Imported()
        wanted = {kind: _wanted(depot, source, kind, done) for kind in ORDER}
        size = sum(info.size for infos in wanted.values() for info in infos)
        left = depot.usage().left
        if size > left:
            raise StoreFull(
                f"{source.address}: {size} bytes are more than the {left} that {terms.name} may "
                "still keep here, or the disk has free; nothing was put"
            )
        progress.start(sum(map(len, wanted.values())), size)
        try:
            _put_all(depot, source, wanted, done, progress, on_receipt)
            # Last: from now on there is an archive here.
            depot.put_config(config)
        finally:
            depot.say_changed()
    return done


def _wanted(depot: Depot, source: Store, kind: Kind, done: Imported) -> list[ObjectInfo]:
    found = []
    for info in sorted(source.list(kind), key=lambda info: info.name):
        try:
            is_there = depot.size(kind, info.name.hex()) == info.size
        except ObjectNotFound:  # or found damaged: it should be put again
            is_there = False
        if is_there:
            done.there_already += 1
        else:
            found.append(info)
    return found


def _put_all(
    depot: Depot,
    source: Store,
    wanted: dict[Kind, list[ObjectInfo]],
    done: Imported,
    progress: Progress,
    on_receipt: OnReceipt,
) -> None:
    told = 0
    for kind, infos in wanted.items():
        for info in infos:
            try:
                on_receipt(_put(depot, kind, info, source.get(kind, info.name)))
            except (DataError, ObjectNotFound) as exc:
                done.problems.append(str(exc))
                continue
            done.objects += 1
            done.size += info.size
            if done.size - told >= TELL_LEN:
                depot.say_changed()
                told = done.size
            progress.update(files=done.objects, bytes_=done.size)


def _put(depot: Depot, kind: Kind, info: ObjectInfo, data: bytes) -> Receipt:
    # The day's share is about the line; the quota was looked at as a whole.
    with depot.begin_put(kind, info.name.hex(), len(data), is_admin=True) as upload:
        upload.write(data)
        return upload.finish()
