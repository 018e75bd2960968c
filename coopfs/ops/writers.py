"""Bring a second host into an archive, without its ever having the admin key.

The new host makes its own writer key and shows a request code; the machine with
the admin key signs an enrolment for it.  What the code carries is public: it must
only not be swapped on its way, hence the six words shown on both machines.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from coopfs.archive.archive import Archive
from coopfs.archive.keyring import KeyRing, load_keyring
from coopfs.archive.settings import (
    SETTINGS_FILE,
    ArchiveSettings,
    check_archive_name,
    load_settings,
    name_here,
)
from coopfs.archive.words import key_fingerprint
from coopfs.dirs import Dirs
from coopfs.errors import NotAStore, ObjectNotFound, UsageError, WrongKey
from coopfs.format.codes import decode_code, encode_code
from coopfs.format.config import ArchiveConfig, decode_config, peek_config
from coopfs.format.keys import KEY_LEN, PUBLIC_KEY_LEN, ArchiveKeys, Role, SigningKey, writer_id_of
from coopfs.format.records import Enrolment, encode_enrolment
from coopfs.format.snapshot import check_label
from coopfs.format.wrapping import Secrets
from coopfs.ids import ARCHIVE_ID_LEN, ArchiveId, WriterId, short_hex
from coopfs.ops.init import put_signed, save_new_archive
from coopfs.store.open import absolute_address, open_store
from coopfs.store.shown import shown_address

_CODE_VERSION: Final = 1
_CODE_CONTEXT: Final = "coopfs 1 writer request checksum"
_FIXED_LEN: Final = 1 + ARCHIVE_ID_LEN + PUBLIC_KEY_LEN


@dataclass(frozen=True, slots=True)
class WriterRequest:
    """What a request code says; nothing in it is secret."""

    archive_id: ArchiveId
    public_key: bytes  # the new host's writer key, 32 bytes
    host: str

    @property
    def writer_id(self) -> WriterId:
        """The id the writer will have."""
        return writer_id_of(self.public_key)

    @property
    def fingerprint(self) -> str:
        """Six words to compare on both machines."""
        return key_fingerprint(self.public_key)


@dataclass(frozen=True, slots=True)
class JoinRequest:
    """What `coopfs writer request` was asked for."""

    name: str  # of the archive on this host
    store: str  # address, as typed
    host: str


@dataclass(frozen=True, slots=True)
class JoinResult:
    """This host has the archive; it may write once the code was enrolled."""

    settings: ArchiveSettings
    code: str
    fingerprint: str
    is_new: bool  # False: the archive was here already, this is its code again


@dataclass(frozen=True, slots=True)
class WriterFacts:
    """An enrolled writer, for a list."""

    writer_id: WriterId
    host: str
    enrolled_ns: int
    fingerprint: str
    is_this_host: bool
    snapshots: int
    distrusted_ns: int | None  # since when; None: it is trusted


# --- the code -----------------------------------------------------------------


def encode_request(request: WriterRequest) -> str:
    """Return the code: one word of lower-case letters and digits, with a checksum."""
    body = (
        bytes((_CODE_VERSION,))
        + request.archive_id
        + request.public_key
        + request.host.encode("ascii")
    )
    return encode_code(body, _CODE_CONTEXT)


def decode_request(code: str) -> WriterRequest:
    """Read a code; case, spaces, line ends and dashes do not matter.

    Raises:
        UsageError: not a code, mistyped, or of a newer coopfs.
    """
    body = decode_code(code, _CODE_CONTEXT)
    if len(body) <= _FIXED_LEN:
        raise UsageError(
            "that is not a whole request code; copy all of the line that "
            '"coopfs writer request" printed on the new host'
        )
    if body[0] != _CODE_VERSION:
        raise UsageError(f"a request code of version {body[0]}; update coopfs on this machine")
    split = 1 + ARCHIVE_ID_LEN
    return WriterRequest(
        archive_id=ArchiveId(body[1:split]),
        public_key=body[split:_FIXED_LEN],
        host=check_label(body[_FIXED_LEN:].decode("ascii", "replace"), "host"),
    )


# --- on the new host ----------------------------------------------------------


def join_archive(
    dirs: Dirs,
    request: JoinRequest,
    archive_key: Callable[[], bytes],
    new_passphrase: Callable[[], str | None],
    passphrase: Callable[[str], str],
) -> JoinResult:
    """Set up the archive in a store on this host, with a writer key of its own.

    *archive_key* is called when the key is needed (typed, or from the kit).  Nothing
    is written into the store.  For an archive that is here already the code is given
    again.

    Raises:
        UsageError: a bad name, or one that is taken by another archive.
        WrongKey: the key is another archive's.
        NotAStore, StoreError, DataError: there is no archive to join.
        ConfigError: keys or settings cannot be written, or read again.
    """
    check_archive_name(request.name)
    check_label(request.host, "host")
    address = absolute_address(request.store)
    data = read_config(address)
    archive_id = peek_config(data, address).archive_id
    if (dirs.archive_config(request.name) / SETTINGS_FILE).exists():
        settings = _known(dirs, request.name, archive_id, address)
        return _result(settings, load_keyring(dirs, settings, passphrase), is_new=False)
    if known := name_here(dirs, archive_id):
        raise UsageError(
            f"this archive is on this host already, and is called {known!r} here; use it by "
            f"--archive {known}"
        )
    key = archive_key()
    config = check_archive_key(key, data, shown_address(address))
    settings = ArchiveSettings(request.name, address, config.archive_id, request.host)
    seed = secrets.token_bytes(KEY_LEN)
    save_new_archive(dirs, settings, Secrets(key, seed), None, new_passphrase())
    return _result(settings, KeyRing(config.archive_id, key, seed), is_new=True)


def _known(dirs: Dirs, name: str, archive_id: ArchiveId, address: str) -> ArchiveSettings:
    """Return the settings of the archive of that *name* here, if it is the one meant."""
    settings = load_settings(dirs, name)
    if settings.archive_id != archive_id:
        raise UsageError(
            f"there is another archive called {name!r} on this host already (in "
            f"{settings.shown_store}); give this one another name with --archive"
        )
    if settings.store != address:
        raise UsageError(
            f"the archive {name!r} is on this host already, in {settings.shown_store}; if it has "
            f'moved, say "coopfs store move {shown_address(address)}"; a copy is read by --store'
        )
    return settings


def read_config(address: str) -> bytes:
    """Return the bytes of ``config`` in the store at *address* (NotAStore, StoreError)."""
    with open_store(address) as store:
        try:
            return store.get_config()
        except ObjectNotFound as exc:
            raise NotAStore(
                f"{store.address}: holds no archive (no config); is the address right?"
            ) from exc


def check_archive_key(key: bytes, data: bytes, address: str) -> ArchiveConfig:
    """Return the config in *data* if *key* is its archive's (WrongKey, DataError)."""
    try:
        return decode_config(ArchiveKeys.derive(key), data, address)
    except WrongKey:
        if SigningKey(key).public_key == peek_config(data, address).admin_public_key:
            raise WrongKey(
                "these are the words of the admin key; the archive key is on the other sheet"
            ) from None
        raise


def _result(settings: ArchiveSettings, ring: KeyRing, *, is_new: bool) -> JoinResult:
    request = request_of(settings, ring)
    return JoinResult(settings, encode_request(request), request.fingerprint, is_new)


def request_of(settings: ArchiveSettings, ring: KeyRing) -> WriterRequest:
    """Return what this host's request code says (WrongKey: it has no writer key)."""
    writer = ring.writer()
    if writer is None:
        raise WrongKey(f"this host has no writer key for the archive {settings.name!r}")
    return WriterRequest(settings.archive_id, writer.public_key, settings.host)


# --- on the machine with the admin key ----------------------------------------


def enrol_writer(
    archive: Archive, request: WriterRequest, *, admin: SigningKey | None, again: bool = False
) -> Enrolment:
    """Sign and store the enrolment of *request*; an enrolled one is left as it is.

    *admin* is the archive's admin key.  *again* allows a second key for a host that
    has one: a machine that was set up anew.

    Raises:
        WrongKey: no admin key, or the request is for another archive.
        UsageError: the host has another writer key already.
        StoreError: the record could not be put.
    """
    if request.archive_id != archive.config.archive_id:
        raise WrongKey(
            f"the code is for archive {short_hex(request.archive_id)}, but "
            f"{archive.settings.name!r} is {short_hex(archive.config.archive_id)}; "
            "choose the right one with --archive"
        )
    if admin is None or admin.public_key != archive.config.admin_public_key:
        raise WrongKey(
            "enrolling needs the admin key, which is not on this machine; run it where the key "
            'is, or bring it here with "coopfs key online" (the sheet of the admin key)'
        )
    for known in archive.objects.writers().values():
        if known.writer_id == request.writer_id:
            if known.writer_id in archive.objects.distrusted():
                raise UsageError(
                    f"this key is distrusted, as host {known.host} was hacked: there the archive's "
                    'folder in the config directory must go, and "coopfs writer request" make '
                    "another key"
                )
            if known.host == request.host:
                return known
            raise UsageError(f"this key is enrolled already, for host {known.host}")
        is_trusted = known.writer_id not in archive.objects.distrusted()
        if known.host == request.host and is_trusted and not again:
            raise UsageError(
                f"host {request.host} has a writer already ({short_hex(known.writer_id)}); if "
                "this is that machine set up anew, say --again; if it is another machine, give "
                "it another name with --host in its request"
            )
    enrolment = Enrolment(request.writer_id, request.public_key, request.host, time.time_ns())
    put_signed(archive.store, archive.ring, admin, Role.ENROLMENT, encode_enrolment(enrolment))
    archive.objects.refresh()
    return enrolment


def list_writers(archive: Archive) -> list[WriterFacts]:
    """Return the enrolled writers of a refreshed archive, by host and time of enrolment."""
    counts: dict[WriterId, int] = {}
    for snapshot in archive.snapshots():
        writer_id = snapshot.facts.writer_id
        counts[writer_id] = counts.get(writer_id, 0) + 1
    own = archive.ring.writer_id
    distrusted = archive.objects.distrusted()
    found = [
        WriterFacts(
            writer_id=record.writer_id,
            host=record.host,
            enrolled_ns=record.time_ns,
            fingerprint=key_fingerprint(record.public_key),
            is_this_host=record.writer_id == own,
            snapshots=counts.get(record.writer_id, 0),
            distrusted_ns=(
                distrusted[record.writer_id].time_ns if record.writer_id in distrusted else None
            ),
        )
        for record in archive.objects.writers().values()
    ]
    return sorted(found, key=lambda facts: (facts.host, facts.enrolled_ns))
