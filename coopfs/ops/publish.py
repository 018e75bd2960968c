"""The archive key in the store itself, wrapped with a passphrase: put, withdrawn, used.

Nothing is published unless it is asked for.  Only the archive key: who guesses the
passphrase reads the archive, but can neither delete in it nor let anybody write.  What
that is worth: coopfs-security(7), "A published key".
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from coopfs.archive.archive import Archive
from coopfs.archive.words import random_words
from coopfs.errors import DataError, NotFound, ObjectCorrupt, UsageError, WrongKey
from coopfs.format.body import check_name
from coopfs.format.config import peek_config
from coopfs.format.wrapping import (
    MAX_LEN,
    KeyFile,
    KeyPurpose,
    Secrets,
    decode_key_file,
    encode_key_file,
    unwrap,
)
from coopfs.ids import ArchiveId, ObjectId, short_hex
from coopfs.ops.deleting import delete_objects
from coopfs.store.base import Kind, ObjectInfo, Store

# What can be tried at leisure must not be found by trying: seven random words are 77 bits.
# A passphrase of one's own cannot be measured, only what is hopeless refused.
WORDS_MADE: Final = 7
PASSPHRASE_MIN: Final = 20  # characters
DISTINCT_MIN: Final = 8  # different characters
SLOTS_MAX: Final = 16  # tried one after the other, at 2.5 s each


@dataclass(frozen=True, slots=True)
class Published:
    """A key that lies in the store now."""

    object_id: ObjectId
    is_new: bool  # False: it was published with this passphrase before
    others: int  # older ones, which open with passphrases of their own


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """What became of published keys."""

    gone: tuple[ObjectId, ...]
    left: tuple[ObjectId, ...]  # those which were not named, or could not be deleted
    denial: str  # what the store said when it did not let us


def make_passphrase() -> str:
    """Return a passphrase of random words, strong enough to be published under."""
    return " ".join(random_words(WORDS_MADE))


def check_strength(passphrase: str) -> None:
    """Refuse (UsageError) what is sure to be guessed by who has the wrapped key and time."""
    text = unicodedata.normalize("NFC", passphrase)
    if len(text) >= PASSPHRASE_MIN and len(set(text)) >= DISTINCT_MIN:
        return
    raise UsageError(
        f"this passphrase is too weak to be published under: {len(text)} characters, "
        f"{len(set(text))} different ones; expected {PASSPHRASE_MIN} and {DISTINCT_MIN} at least. "
        "Whoever keeps the store can try passphrases for years, unnoticed: take six or more "
        "words that chance has chosen, or let coopfs choose them with --generate"
    )


def list_published(store: Store) -> list[ObjectInfo]:
    """Return what lies under ``keys/``, by name; nothing is read."""
    return sorted(store.list(Kind.KEYS), key=lambda info: info.name)


def publish_key(archive: Archive, passphrase: str) -> Published:
    """Put the archive key, wrapped with *passphrase*, into the store.

    The same passphrase again changes nothing.  Durable on return where the store is.

    Raises:
        UsageError: the passphrase is too weak, or the store has too many such keys.
        StoreError: it could not be put.
    """
    check_strength(passphrase)
    archive_id, known = archive.config.archive_id, list_published(archive.store)
    for object_id, key_file in _read_slots(archive.store, known, archive_id, []):
        if _opens(key_file, passphrase) == archive.keys.archive_key:
            return Published(object_id, False, len(known) - 1)
    if len(known) >= SLOTS_MAX:
        raise UsageError(
            f"{len(known)} keys are published in {archive.settings.shown_store} already, and no "
            'more are looked at; "coopfs key withdraw" takes them away'
        )
    data = encode_key_file(
        KeyPurpose.PUBLISHED,
        archive_id,
        Secrets(archive.keys.archive_key),
        passphrase,
        os.urandom(32),
    )
    object_id = ObjectId(hashlib.sha256(data).digest())
    archive.store.put(Kind.KEYS, object_id, data)
    return Published(object_id, True, len(known))


def withdraw_keys(store: Store, named: Sequence[str]) -> Withdrawn:
    """Delete published keys: those whose ids begin as *named* says, else all.

    A store that does not let us delete is no error here but an answer.

    Raises:
        NotFound: there is none, or none of that id.
        UsageError: an id could be several keys'.
        StoreError: the store failed.
    """
    there = [info.name for info in list_published(store)]
    if not there:
        raise NotFound(f"{store.address}: no key is published there")
    chosen = {_named(there, prefix) for prefix in named} if named else set(there)
    deleted = delete_objects(store, Kind.KEYS, sorted(chosen))
    left = {info.name for info in list_published(store)}
    return Withdrawn(
        gone=tuple(sorted(chosen - left)),
        left=tuple(sorted(left)),
        denial=deleted.denial,
    )


def _named(there: Sequence[ObjectId], prefix: str) -> ObjectId:
    wanted = prefix.lower().removeprefix("keys/")
    found = [name for name in there if name.hex().startswith(wanted)] if wanted else []
    if not found:
        raise NotFound(f'{prefix!r}: no published key of that id; "coopfs key list" lists them')
    if len(found) > 1:
        raise UsageError(f"{prefix!r} could be {', '.join(map(short_hex, found))}")
    return found[0]


def open_published(store: Store, passphrase: Callable[[str], str]) -> bytes:
    """Return the archive key (32 bytes) that was published in *store*.

    *passphrase* is asked only when there is a key to open.  Whether the key is the
    archive's is for the caller to find out: nothing in the store is to be trusted.

    Raises:
        NotFound: no key is published there.
        WrongKey: the passphrase opens none of them.
        NotAStore, StoreError, DataError: there is no archive, or it cannot be read.
    """
    archive_id = peek_config(store.get_config(), store.address).archive_id
    problems: list[str] = []
    slots = _read_slots(store, list_published(store), archive_id, problems)
    what = "; ".join([f"{store.address}: no key of this archive is published there", *problems])
    if not slots:
        raise NotFound(f"{what}. Recover with the recovery kit")
    typed = passphrase(f"Passphrase of the key published in {store.address}: ")
    for _, key_file in slots:
        key = _opens(key_file, typed)
        if key is not None:
            return key
    what = "; ".join([f"{store.address}: wrong passphrase for the key published there", *problems])
    raise WrongKey(what)


def _read_slots(
    store: Store, infos: Sequence[ObjectInfo], archive_id: ArchiveId, problems: list[str]
) -> list[tuple[ObjectId, KeyFile]]:
    """Return the usable ones; what is wrong with the others is added to *problems*."""
    found = []
    for info in infos[:SLOTS_MAX]:
        what = f"keys/{info.name.hex()[:16]}"
        try:
            if info.size > MAX_LEN:
                raise ObjectCorrupt(f"{what}: {info.size} bytes; no published key of coopfs")
            data = store.get(Kind.KEYS, info.name, 0, info.size)
            check_name(data, info.name, what)
            key_file = decode_key_file(data, what)
            if key_file.purpose is not KeyPurpose.PUBLISHED:
                raise ObjectCorrupt(f"{what}: holds keys that are not for a store")
            if key_file.archive_id != archive_id:
                raise ObjectCorrupt(f"{what}: the key of archive {short_hex(key_file.archive_id)}")
        except DataError as exc:
            problems.append(str(exc))
        else:
            found.append((info.name, key_file))
    return found


def _opens(key_file: KeyFile, passphrase: str) -> bytes | None:
    try:
        return unwrap(key_file, passphrase, "published key").key
    except WrongKey:
        return None
