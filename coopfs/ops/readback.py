"""Reading back the newest packs whole, where a store cannot promise that a put survives.

On such a store (FTP, rclone, ...) what was put last is what a power cut at the other side
takes, or leaves as a file of the right size full of zeros.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from coopfs.archive.archive import Archive
from coopfs.archive.index_rows import PackInfo
from coopfs.errors import DataError, ObjectNotFound
from coopfs.ids import PackId
from coopfs.store.base import Kind

NEWEST: Final = 8  # packs: 128 MiB at most, and more than a server's disk has in its cache
_THREADS: Final = 4


def newest_packs(archive: Archive, number: int = NEWEST) -> list[PackInfo]:
    """Return the packs that became known last and are relied on, the newest last."""
    index = archive.index
    usable = [pack for pack in index.packs() if index.is_usable(pack.pack_no)]
    return usable[-number:]


def read_back(archive: Archive, packs: Sequence[PackInfo]) -> dict[PackId, str]:
    """Read *packs* whole from the store; return those that are not what their names say.

    Raises:
        StoreUnavailable: the store cannot be reached, which shows nothing.
    """

    def problem(pack: PackInfo) -> str:
        try:
            data = archive.store.get(Kind.DATA, pack.pack_id)
        except (ObjectNotFound, DataError) as exc:
            return str(exc)
        if hashlib.sha256(data).digest() != pack.pack_id:
            return f"holds {len(data)} other bytes than the {pack.size} that were stored"
        return ""

    with ThreadPoolExecutor(_THREADS, "coopfs-readback") as pool:
        problems = list(pool.map(problem, packs))
    return {pack.pack_id: found for pack, found in zip(packs, problems, strict=True) if found}
