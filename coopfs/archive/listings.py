"""What a pack says of itself, and which of several listings of it is the right one.

A writer signs its packs' directories and its index objects, but nothing binds a pack's size
and header to a listing by somebody else, nor that one's directory to the pack.  A hacked host
can thus list another's pack wrongly; were both listings kept for good, audits and readers that
try the wrong one would find the pack damaged, and a prune would sign it as its own.  Honest
listings never differ, so the pack itself is asked only then: its end says what is in it.
"""

from __future__ import annotations

from typing import Final

from coopfs.archive.index import Index
from coopfs.errors import DataError, ObjectNotFound, StoreError, WrongKey
from coopfs.format.index import IndexedPack
from coopfs.format.keys import ArchiveKeys
from coopfs.format.pack import TRAILER_LEN, decode_trailer, open_directory
from coopfs.ids import PackId, WriterId, short_hex
from coopfs.store.base import Kind, Store

TAIL_LEN: Final = 64 << 10  # bytes read first: trailer and, as a rule, the whole directory


def read_listing(keys: ArchiveKeys, store: Store, pack_id: PackId, size: int) -> IndexedPack:
    """Return what the pack of *size* bytes says of itself; the signature is not verified.

    Raises:
        ObjectNotFound: it is gone.
        DataError, WrongKey: its end cannot be read.
        StoreUnavailable: the partner cannot be reached.
    """
    what = f"pack {short_hex(pack_id)}"
    tail_len = min(size, TAIL_LEN)
    tail = store.get(Kind.DATA, pack_id, size - tail_len, tail_len)
    opener, offset, sealed_len = decode_trailer(keys, tail, size, what)
    if sealed_len + TRAILER_LEN <= tail_len:
        sealed = tail[tail_len - TRAILER_LEN - sealed_len : tail_len - TRAILER_LEN]
    else:
        sealed = store.get(Kind.DATA, pack_id, offset, sealed_len)
    return IndexedPack(pack_id, size, opener.header, open_directory(opener, sealed, what))


def settle_contradictions(
    index: Index, keys: ArchiveKeys, store: Store, admin_id: WriterId
) -> list[str]:
    """Drop from the local index what contradicts the packs themselves; a sentence for each writer.

    What cannot be decided stays as it is: readers then try one location after the other.
    """
    wrong: dict[str, int] = {}
    for pack_id in index.contradicted(admin_id):
        try:
            real = read_listing(keys, store, pack_id, store.size(Kind.DATA, pack_id))
        except (DataError, WrongKey, ObjectNotFound):
            continue
        except StoreError:
            break  # the next refresh goes on
        if index.has_listing(real):
            for writer_id in index.drop_other_listings(real):
                wrong[writer_id.hex()] = wrong.get(writer_id.hex(), 0) + 1
    return [
        f"an index object of writer {writer_id[:8]} says of {number} packs what they do not say "
        "of themselves; it does not count for those (was that host hacked? see "
        '"coopfs repair --distrust")'
        for writer_id, number in sorted(wrong.items())
    ]
