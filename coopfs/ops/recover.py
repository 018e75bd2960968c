"""Come back from nothing: the recovery kit and the store make a new machine the owner's again.

Instead of the archive key's sheet a key published in the store may serve.

In this order, each step done only if it is not yet: the partner lets the owner in by
the identity of the admin key and is told the new machine's certificate; key, config and
settings are set up here; the new writer key is enrolled; snapshots and index are read.
Stopped anywhere, the same command goes on.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from coopfs.archive.archive import Archive
from coopfs.archive.keyring import load_keyring
from coopfs.archive.kit import PartnerPlace
from coopfs.archive.line import Limits, open_line
from coopfs.archive.settings import ArchiveSettings, check_archive_name
from coopfs.archive.snapshots import Snapshot
from coopfs.archive.words import heads_fingerprint
from coopfs.dirs import Dirs
from coopfs.errors import NotFound, StoreDenied, UsageError, WrongKey
from coopfs.format.config import peek_config
from coopfs.format.keys import owner_identity_seed
from coopfs.identity import load_or_make_identity, make_identity
from coopfs.ops.keys import admin_key_of, check_admin_key
from coopfs.ops.pairing import writer_identity_of
from coopfs.ops.publish import open_published
from coopfs.ops.writers import (
    JoinRequest,
    check_archive_key,
    enrol_writer,
    join_archive,
    read_config,
    request_of,
)
from coopfs.store.accepting import pinned_line
from coopfs.store.coop import CoopStore, Right, open_coop
from coopfs.store.coopstatus import PartnerStatus
from coopfs.store.open import absolute_address, open_store
from coopfs.store.partners import (
    PartnerAccess,
    identity_path,
    load_access,
    partner_of_address,
    save_access,
)
from coopfs.store.retry import Patience
from coopfs.store.shown import shown_address

LET_IN_S: Final = 30.0  # a server notices a changed setting within seconds
_LOOK_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class RecoverRequest:
    """What `coopfs recover` was asked for."""

    name: str  # of the archive on this host
    store: str  # address
    host: str
    place: PartnerPlace | None  # of a coop:// store, from the kit
    archive_key: bytes | None = field(repr=False)  # None: the one published in the store
    admin_key: bytes | None = field(repr=False)
    is_only_writer: bool = False  # the partner lets no other machine of ours in any more


@dataclass(frozen=True, slots=True)
class Recovered:
    """An archive that is back."""

    settings: ArchiveSettings
    is_writer: bool  # False: without the admin key it can only be read
    code: str  # to be enrolled elsewhere, if it is no writer
    snapshots: int
    newest: Snapshot | None
    words: str  # six, as "coopfs snapshots" shows them on every machine
    warnings: tuple[str, ...]


def recover(
    dirs: Dirs,
    request: RecoverRequest,
    new_passphrase: Callable[[], str | None],
    passphrase: Callable[[str], str],
    limits: Limits | None = None,
) -> Recovered:
    """Set the archive up on this host as its lost owner's; *limits* hold meanwhile.

    Raises:
        UsageError: the kit does not say where the partner is, or a name is taken.
        WrongKey: a key is another archive's, or the passphrase of no published key.
        NotFound: no key is published.
        NotAStore, StoreError, DataError: the store cannot be reached or read.
        ConfigError: something cannot be written.
    """
    partner = partner_of_address(request.store)
    if request.is_only_writer and (partner is None or request.admin_key is None):
        raise UsageError(
            "--only-this-host sends other machines away from a partner's store, as its owner: it "
            "takes a coop:// store and the sheet of the admin key"
        )
    if request.archive_key is not None and request.archive_key == request.admin_key:
        raise WrongKey("both sheets have the same words: one of them was read twice")
    check_archive_name(request.name)
    address = absolute_address(request.store)
    if partner is not None:
        regain_access(dirs, partner, request)
    _check_sheets(request, address)

    def archive_key() -> bytes:
        if request.archive_key is not None:
            return request.archive_key
        with open_store(address) as store:
            return open_published(store, passphrase)

    joined = join_archive(
        dirs,
        JoinRequest(request.name, request.store, request.host),
        archive_key,
        new_passphrase,
        passphrase,
    )
    settings = joined.settings
    ring = load_keyring(dirs, settings, passphrase)
    line = open_line(dirs, settings, limits or Limits(), goes_first=True)
    store = open_store(settings.store, line)
    try:
        archive = Archive.open(dirs, settings, ring, store)
    except BaseException:
        store.close()
        raise
    with archive:
        archive.refresh()
        is_writer = ring.writer_id in archive.objects.writers()
        if not is_writer and request.admin_key is not None:
            admin = check_admin_key(archive, request.admin_key)
            enrol_writer(archive, request_of(settings, ring), admin=admin, again=True)
            is_writer = True
        snapshots = archive.snapshots()
        return Recovered(
            settings=settings,
            is_writer=is_writer,
            code=joined.code,
            snapshots=len(snapshots),
            newest=snapshots[-1] if snapshots else None,
            words=heads_fingerprint(archive.heads.all()),
            warnings=tuple(archive.warnings),
        )


def _check_sheets(request: RecoverRequest, address: str) -> None:
    """See that the keys are the archive's, before anything is set up (WrongKey)."""
    data, shown = read_config(address), shown_address(address)
    if request.archive_key is not None:
        check_archive_key(request.archive_key, data, shown)
    if request.admin_key is not None:
        config = peek_config(data, shown)
        admin_key_of(config, request.admin_key, request.archive_key, f"the archive in {shown}")


def regain_access(dirs: Dirs, partner: str, request: RecoverRequest) -> None:
    """Have the partner let this machine in, by the admin key; nothing to do if it knows us.

    Raises:
        UsageError: there is no saying where the partner is, or no admin key.
        StoreUnavailable, StoreIdentity, StoreDenied: it is not there, or refuses.
        ConfigError: something cannot be written.
    """
    place, admin_key = request.place, request.admin_key
    try:
        access = load_access(dirs, partner)
    except NotFound:
        pass
    else:
        if request.is_only_writer and admin_key is not None:  # the caller has seen to the key
            _come_in(dirs, access, admin_key, is_only_writer=True)
        return
    if place is None:
        raise UsageError(
            f"the recovery kit does not say where the partner {partner!r} is; give --server "
            "coop://HOST:PORT/NAME and --pin HEX from the sheet. If the partner dials in, pair "
            'anew first ("coopfs pair invite", on its side "coopfs pair accept --again")'
        )
    if admin_key is None:
        raise UsageError(
            f"the partner {partner!r} lets a new machine in by the admin key alone: its sheet of "
            "the recovery kit is needed too"
        )
    with pinned_line(place.endpoint, place.pin) as line:
        certificate = ssl.DER_cert_to_PEM_cert(line.getpeercert(binary_form=True) or b"")
    access = PartnerAccess(
        name=partner,
        endpoint=place.endpoint,
        socket=None,
        certificate=certificate,
        path=place.path,
        identity=writer_identity_of(partner),
    )
    status = _come_in(dirs, access, admin_key, is_only_writer=request.is_only_writer)
    access = replace(access, quota=status.quota, retention_days=status.retention_days)
    save_access(dirs, access)
    _wait_until_let_in(partner)


def _come_in(
    dirs: Dirs, access: PartnerAccess, admin_key: bytes, *, is_only_writer: bool
) -> PartnerStatus:
    """As the owner, have this machine's certificate let in; return what the partner says."""
    owner = make_identity(owner_identity_seed(admin_key))
    writer = load_or_make_identity(identity_path(dirs, access))
    with CoopStore(access, owner, Patience.from_environment()) as store:
        certificate = ssl.PEM_cert_to_DER_cert(writer.cert_pem)
        store.enrol(certificate, Right.WRITER, is_only_writer=is_only_writer)
        return store.status()


def _wait_until_let_in(partner: str) -> None:
    deadline = time.monotonic() + LET_IN_S
    with open_coop(f"coop://{partner}") as store:
        while True:
            try:
                store.status()
                return
            except StoreDenied:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_LOOK_S)
