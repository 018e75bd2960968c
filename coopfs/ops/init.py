"""Make an archive: keys on this machine first, then its first objects in the store.

Order: the keys are saved, the recovery kit is written, then the store gets the
writer's enrolment, a sealed copy of the config, and last the config, which makes
it an archive.  Stopped anywhere, the same command goes on with the same keys.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from coopfs.archive.keyring import (
    ADMIN_KEY_FILE,
    HOST_KEY_FILE,
    KeyRing,
    load_keyring,
    read_key_file,
    save_secrets,
)
from coopfs.archive.kit import RecoveryKit, Sheet, read_kit_file, render_kit
from coopfs.archive.settings import (
    SETTINGS_FILE,
    ArchiveSettings,
    archive_names,
    check_archive_name,
    load_settings,
    name_here,
    save_settings,
)
from coopfs.dirs import (
    TEMPORARY_PREFIX,
    Dirs,
    make_private_folder,
    sync_folder,
    write_private,
)
from coopfs.errors import (
    ConfigError,
    CoopfsError,
    DataError,
    FormatUnsupported,
    NotAStore,
    ObjectNotFound,
    StoreError,
    UsageError,
    WrongKey,
)
from coopfs.format.body import open_body, seal_body, verify_body
from coopfs.format.chunker import ChunkerParams
from coopfs.format.config import (
    ArchiveConfig,
    decode_config_body,
    encode_config,
    encode_config_body,
    peek_config,
)
from coopfs.format.keys import KEY_LEN, Role, SigningKey
from coopfs.format.records import Enrolment, encode_enrolment
from coopfs.format.snapshot import check_label
from coopfs.format.wrapping import KeyPurpose, Secrets
from coopfs.ids import ARCHIVE_ID_LEN, ArchiveId, short_hex
from coopfs.ops.owner import introduce_owner, place_of
from coopfs.store.base import Kind, Store
from coopfs.store.open import absolute_address, create_store, open_store
from coopfs.store.shown import shown_address


@dataclass(frozen=True, slots=True)
class InitRequest:
    """What `coopfs init` was asked for."""

    name: str  # of the archive on this host
    store: str  # address, as typed
    host: str
    chunker: ChunkerParams
    recovery_kit: Path | None = None  # where to write the kit; must not exist


@dataclass(frozen=True, slots=True)
class InitResult:
    """A finished archive."""

    settings: ArchiveSettings
    config: ArchiveConfig
    kit: RecoveryKit
    is_wrapped: bool  # the keys on this machine have a passphrase
    is_resumed: bool  # an interrupted init was completed


def init_archive(
    dirs: Dirs,
    request: InitRequest,
    new_passphrase: Callable[[], str | None],
    passphrase: Callable[[str], str],
) -> InitResult:
    """Make the archive, or complete one whose making was interrupted.

    *new_passphrase* is called once, when new keys are about to be made, and returns
    what to wrap them with (None: nothing); *passphrase* gives that of keys which are
    here from an interrupted run.  On return everything is durable.

    Raises:
        UsageError: a bad name, or the name or the kit's file is taken.
        NotAStore, StoreError: the store cannot be made there; nothing was changed, or
            the message says that the same command goes on.
        ConfigError, WrongKey: keys or settings cannot be written, or read again.
    """
    check_archive_name(request.name)
    check_label(request.host, "host")
    address = absolute_address(request.store)
    is_resumed = (dirs.archive_config(request.name) / SETTINGS_FILE).exists()
    if is_resumed:
        settings = _unfinished_settings(dirs, request, address)
    else:
        _check_kit_place(request.recovery_kit)
        refuse_taken_store(dirs, address)
        settings = _make_keys(dirs, request, address, new_passphrase)
    ring = load_keyring(dirs, settings, passphrase)
    try:
        with begun_store(address) as store:
            introduce_owner(store, ring)
            config = _found(store, ring, request.chunker)
            kit = make_kit(dirs, settings, config, ring)
            if request.recovery_kit is not None and not _is_written(kit, request.recovery_kit):
                write_kit(kit, request.recovery_kit)
            _write_records(store, settings, config, ring)
            store.put_config(encode_config(ring.keys, config))
    except StoreError as exc:
        raise type(exc)(
            f"{exc}. The keys are kept in {dirs.archive_config(request.name)}: once the store "
            "is in order, the same command goes on from here"
        ) from exc
    return InitResult(settings, config, kit, is_wrapped(dirs, settings), is_resumed)


def make_kit(
    dirs: Dirs, settings: ArchiveSettings, config: ArchiveConfig, ring: KeyRing
) -> RecoveryKit:
    """Return the kit for the keys that are on this machine.

    Raises:
        WrongKey, ConfigError: the admin key cannot be read.
        FormatUnsupported: what is known of the partner whose store it is cannot be read.
    """
    admin = ring.admin()
    return RecoveryKit(
        name=settings.name,
        archive_id=settings.archive_id,
        store=settings.store,
        host=settings.host,
        created_ns=config.created_ns,
        archive_key=ring.keys.archive_key,
        admin_key=admin.seed if admin else None,
        partner=place_of(dirs, settings.store),
    )


def write_kit(kit: RecoveryKit, path: Path, sheet: Sheet | None = None) -> None:
    """Write the kit, or one *sheet* of it, as a new file, 0600 (ConfigError)."""
    write_private(path.absolute(), render_kit(kit, sheet=sheet).encode(), replace=False)


def _check_kit_place(path: Path | None) -> None:
    if path is None:
        return
    if os.path.lexists(path):
        raise UsageError(f"{path}: exists already; it was not overwritten")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{path}: there is no such folder to write the recovery kit into")


def _is_written(kit: RecoveryKit, path: Path) -> bool:
    """Tell whether the interrupted run wrote the kit already (UsageError: something else is)."""
    if not os.path.lexists(path):
        return False
    try:
        keys = read_kit_file(path)
    except CoopfsError:
        keys = None
    if keys is None or (keys.archive_key, keys.admin_key) != (kit.archive_key, kit.admin_key):
        raise UsageError(f"{path}: exists already; it was not overwritten")
    return True


def is_wrapped(dirs: Dirs, settings: ArchiveSettings) -> bool:
    """Tell whether the keys on this machine have a passphrase (ConfigError)."""
    path = dirs.archive_config(settings.name) / HOST_KEY_FILE
    return read_key_file(path).scrypt is not None


def refuse_taken_store(dirs: Dirs, address: str) -> None:
    """Raise when there is an archive at *address* already; anything else is looked at later.

    Raises:
        StoreError: there is one.
        UsageError: it is, or will be, one that this host knows by another name.
    """
    shown = shown_address(address)
    known = _name_of_store(dirs, address)
    config = None
    if known is None:
        try:
            with open_store(address) as store:
                config = peek_config(store.get_config(), store.address)
        except (NotAStore, ObjectNotFound, DataError):
            return
        known = name_here(dirs, config.archive_id)
    if known is not None:
        raise UsageError(
            f"{shown}: is the store of the archive {known!r} on this host; two archives cannot "
            "share one, choose another place"
        )
    if config is not None:
        raise StoreError(
            f"{shown}: holds an archive already ({short_hex(config.archive_id)}); to use it from "
            f'this host run "coopfs writer request {shown}", for a new one choose another folder'
        )


def _name_of_store(dirs: Dirs, address: str) -> str | None:
    """Return which archive of this host, finished or not, has its store at *address*."""
    for name in archive_names(dirs):
        with suppress(ConfigError, FormatUnsupported):
            if load_settings(dirs, name).store == address:
                return name
    return None


# --- on this machine ----------------------------------------------------------


def _unfinished_settings(dirs: Dirs, request: InitRequest, address: str) -> ArchiveSettings:
    """Return the settings of an interrupted init, if that is what the name stands for."""
    settings = load_settings(dirs, request.name)
    if settings.store != address:
        raise UsageError(
            f"there is an archive called {request.name!r} on this host already (in "
            f"{settings.shown_store}); give the new one another name with --archive"
        )
    is_complete = True
    try:
        with open_store(address) as store:
            store.get_config()
    except (NotAStore, ObjectNotFound):
        is_complete = False
    if is_complete:
        raise UsageError(
            f"the archive {request.name!r} in {settings.shown_store} is complete; nothing was "
            'changed ("coopfs key export" prints its recovery kit)'
        )
    if settings.host != request.host:
        raise UsageError(
            f"the interrupted init of {request.name!r} was for host {settings.host!r}; "
            f"go on with --host {settings.host}"
        )
    return settings


def _make_keys(
    dirs: Dirs, request: InitRequest, address: str, new_passphrase: Callable[[], str | None]
) -> ArchiveSettings:
    """Save new keys and settings, all at once."""
    passphrase = new_passphrase()
    create_store(address).close()  # refuses what is not free, before any key is made
    archive_id = ArchiveId(secrets.token_bytes(ARCHIVE_ID_LEN))
    settings = ArchiveSettings(request.name, address, archive_id, request.host)
    host_secrets = Secrets(secrets.token_bytes(KEY_LEN), secrets.token_bytes(KEY_LEN))
    save_new_archive(
        dirs, settings, host_secrets, Secrets(secrets.token_bytes(KEY_LEN)), passphrase
    )
    return settings


def save_new_archive(
    dirs: Dirs,
    settings: ArchiveSettings,
    host_secrets: Secrets,
    admin_secrets: Secrets | None,
    passphrase: str | None,
) -> None:
    """Write settings and key files of an archive that is new on this host, all or nothing.

    Raises:
        ConfigError: they cannot be written, or the name was taken meanwhile.
    """
    make_private_folder(dirs.archives)
    # Aside first: whoever is killed leaves a whole archive folder or none.
    folder = dirs.archives / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
    make_private_folder(folder)
    try:
        archive_id = settings.archive_id
        save_secrets(
            folder / HOST_KEY_FILE,
            KeyPurpose.HOST,
            archive_id,
            host_secrets,
            passphrase,
            replace=False,
        )
        if admin_secrets is not None:
            save_secrets(
                folder / ADMIN_KEY_FILE,
                KeyPurpose.ADMIN,
                archive_id,
                admin_secrets,
                passphrase,
                replace=False,
            )
        save_settings(dirs, settings, folder=folder)
        _publish(folder, dirs.archive_config(settings.name))
    finally:
        with suppress(OSError):
            shutil.rmtree(folder)


def _publish(folder: Path, target: Path) -> None:
    try:
        folder.rename(target)
        sync_folder(target.parent)
    except OSError as exc:
        raise ConfigError(
            f"{target}: cannot be made: {exc.strerror}; is something else there?"
        ) from exc


# --- in the store -------------------------------------------------------------


def begun_store(address: str) -> Store:
    """Open the store of an archive that is still being made there, or make the store.

    Raises:
        NotAStore, StoreError: as ``create_store``.
    """
    store = None
    try:
        store = open_store(address)  # has our first objects
        with suppress(ObjectNotFound):
            store.get_config()  # one elsewhere is looked at only now
        return store
    except NotAStore:
        if store is not None:
            store.close()
        return create_store(address)  # has nothing yet, or is not there at all
    except BaseException:
        if store is not None:
            store.close()
        raise


def _found(store: Store, ring: KeyRing, chunker: ChunkerParams) -> ArchiveConfig:
    """Return the config of an interrupted run if its sealed copy is there, else a new one."""
    admin = _admin_of(ring)
    for info in store.list(Kind.SNAPSHOTS):
        what = f"snapshots/{info.name.hex()[:16]}"
        try:
            opened = open_body(
                ring.keys, store.get(Kind.SNAPSHOTS, info.name), (Role.CONFIG,), what
            )
            verify_body(opened, ring.archive_id, admin.public_key)
            return decode_config_body(opened.body, what)
        except (DataError, WrongKey):
            continue  # the enrolment, or not ours
    return ArchiveConfig(ring.archive_id, chunker, admin.public_key, time.time_ns())


def _write_records(
    store: Store, settings: ArchiveSettings, config: ArchiveConfig, ring: KeyRing
) -> None:
    admin, writer = _admin_of(ring), ring.writer()
    if writer is None:
        raise WrongKey(f"the writer key of {settings.name!r} is missing from its key file")
    enrolment = Enrolment(writer.writer_id, writer.public_key, settings.host, time.time_ns())
    put_signed(store, ring, admin, Role.ENROLMENT, encode_enrolment(enrolment))
    put_signed(store, ring, admin, Role.CONFIG, encode_config_body(config))


def put_signed(store: Store, ring: KeyRing, signer: SigningKey, role: Role, body: bytes) -> None:
    """Seal a record and put it under ``snapshots/`` (StoreError)."""
    sealed = seal_body(ring.keys, signer, role, ring.archive_id, body, os.urandom(32))
    store.put(Kind.SNAPSHOTS, sealed.object_id, sealed.data)


def _admin_of(ring: KeyRing) -> SigningKey:
    admin = ring.admin()
    if admin is None:
        raise WrongKey(
            "the admin key is not on this machine, so its archive cannot be completed here"
        )
    return admin
