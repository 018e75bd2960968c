"""Objects under ``snapshots/`` on their way in: fetched, opened, signatures verified.

Owns whose signature each role needs, and the question whether an object that does not
count could still be somebody's: one whose bytes are what its name stands for, and that is
not of a newer version, was made by nobody who writes to the archive.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from coopfs.errors import (
    DataError,
    FormatUnsupported,
    ObjectNotFound,
    SignatureInvalid,
    WrongKey,
)
from coopfs.format.body import OpenedBody, check_name, open_body, verify_body
from coopfs.format.config import ArchiveConfig
from coopfs.format.keys import ArchiveKeys, Role, writer_id_of
from coopfs.format.records import Enrolment, decode_amendment, decode_distrust, decode_enrolment
from coopfs.format.snapshot import decode_snapshot
from coopfs.ids import ObjectId, WriterId, short_hex
from coopfs.store.base import Kind, Store

BY_ADMIN: Final = frozenset((Role.CONFIG, Role.ENROLMENT, Role.FORGET, Role.DISTRUST))
ROLES: Final = BY_ADMIN | {Role.SNAPSHOT, Role.AMENDMENT}


@dataclass(frozen=True, slots=True)
class UnusableObject:
    """An object under ``snapshots/`` that does not count."""

    object_id: ObjectId
    role: Role | None  # None: it could not even be opened
    problem: str
    is_foreign: bool  # whole, and yet made by nobody who writes to the archive; else it may be real


def label(object_id: bytes) -> str:
    """Return what messages call an object under ``snapshots/``."""
    return f"snapshots/{object_id.hex()[:16]}"


def open_objects(
    keys: ArchiveKeys, store: Store, names: Iterable[ObjectId]
) -> dict[ObjectId, OpenedBody | UnusableObject]:
    """Fetch and open objects; one that is gone meanwhile is left out (StoreUnavailable)."""
    found: dict[ObjectId, OpenedBody | UnusableObject] = {}
    for object_id in names:
        what = label(object_id)
        is_named_right = False
        try:
            data = store.get(Kind.SNAPSHOTS, object_id)
            check_name(data, object_id, what)
            is_named_right = True
            found[object_id] = open_body(keys, data, ROLES, what)
        except ObjectNotFound:
            continue
        except (DataError, WrongKey) as exc:
            # What its name stands for was put like this: nothing has damaged it since.
            is_foreign = is_named_right and not isinstance(exc, FormatUnsupported)
            found[object_id] = UnusableObject(object_id, None, str(exc), is_foreign)
    return found


class Verifier:
    """Tells who signed an opened object; *writers* are those enrolled."""

    def __init__(self, config: ArchiveConfig, writers: Mapping[WriterId, Enrolment]) -> None:
        """Of an archive with this *config*."""
        self._config = config
        self._admin_id = writer_id_of(config.admin_public_key)
        self._writers = writers

    def problem_of(self, object_id: ObjectId, opened: OpenedBody) -> UnusableObject | None:
        """Return why the object does not count; None: it does."""
        try:
            verify_body(opened, self._config.archive_id, self._public_key_for(opened))
            if opened.role is Role.ENROLMENT:
                decode_enrolment(opened.body, opened.what)
            elif opened.role is Role.DISTRUST:
                decode_distrust(opened.body, opened.what)
        except DataError as exc:
            is_foreign = not isinstance(exc, FormatUnsupported)
            return UnusableObject(object_id, opened.role, str(exc), is_foreign)
        return None

    def _public_key_for(self, opened: OpenedBody) -> bytes:
        if opened.role in BY_ADMIN:
            return self._config.admin_public_key
        if opened.role is Role.SNAPSHOT:
            facts = decode_snapshot(opened.body, opened.what)
            writer_id, host = facts.writer_id, facts.host
            if writer_id == self._admin_id and facts.origin is not None:
                return self._config.admin_public_key  # copied or imported, of whatever host
        else:
            writer_id, host = decode_amendment(opened.body, opened.what).writer_id, ""
            if writer_id == self._admin_id:
                return self._config.admin_public_key
        writer = self._writers.get(writer_id)
        if writer is None:
            raise SignatureInvalid(
                f"{opened.what}: its writer {short_hex(writer_id)} is not enrolled in this archive"
            )
        if host and host != writer.host:
            raise SignatureInvalid(
                f"{opened.what}: says it is of host {host}, but its writer "
                f"{short_hex(writer_id)} is enrolled for host {writer.host}; it does not count"
            )
        return writer.public_key
