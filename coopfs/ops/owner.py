"""The owner of an archive, as a partner's server knows it: the identity of the admin key.

It is shown only for what a writer may not do: letting a new machine in, deleting.
"""

from __future__ import annotations

import ssl

from coopfs.archive.keyring import KeyRing
from coopfs.archive.kit import PartnerPlace
from coopfs.dirs import Dirs
from coopfs.errors import NotFound, WrongKey
from coopfs.format.keys import SigningKey, owner_identity_seed
from coopfs.identity import Identity, make_identity
from coopfs.store.base import Store
from coopfs.store.coop import CoopStore, Right
from coopfs.store.partners import load_access, partner_of_address


def owner_of(ring: KeyRing) -> Identity:
    """Return the owner's identity (WrongKey: the admin key is not on this machine)."""
    admin = ring.admin()
    if admin is None:
        raise WrongKey(
            "the admin key, which makes the owner's identity, is not on this machine; bring it "
            'here with "coopfs key online" (the sheet of the admin key)'
        )
    return make_identity(owner_identity_seed(admin.seed))


def place_of(dirs: Dirs, store: str) -> PartnerPlace | None:
    """Return what a recovery kit must say about the store at address *store*, if anything.

    None for stores that are no partner's, for a partner whom nobody can reach, and for one
    who was removed: the keys are worth a kit all the same.

    Raises:
        ConfigError, FormatUnsupported: the partner's file is unusable.
    """
    name = partner_of_address(store)
    if name is None:
        return None
    try:
        access = load_access(dirs, name)
    except NotFound:
        return None
    if access.endpoint is None:
        return None
    return PartnerPlace(access.endpoint, access.path, access.pin)


def introduce_owner(store: Store, ring: KeyRing) -> None:
    """Make the owner of the archive known at the partner whose store it is, if it is one's.

    Raises:
        StoreDenied: another archive's owner is known there already.
        WrongKey: the admin key is not on this machine.
    """
    if isinstance(store, CoopStore):
        certificate = ssl.PEM_cert_to_DER_cert(owner_of(ring).cert_pem)
        store.enrol(certificate, Right.OWNER)


def give_up_ownership(store: CoopStore, ring: KeyRing) -> None:
    """Have the partner know the archive's owner no longer; the next one may be another's.

    Raises:
        WrongKey: the admin key is not on this machine.
        StoreDenied: that owner is not known there.
    """
    owner = owner_of(ring)
    store.lend_owner(lambda: owner)
    store.let_out(ssl.PEM_cert_to_DER_cert(owner.cert_pem), Right.OWNER)


def act_as_owner(store: Store, admin: SigningKey) -> None:
    """Let *store*, if it is a partner's, do everything as the owner from now on.

    For what takes away: only the owner may delete, and it may go over the quota a little
    where room must be made.
    """
    if isinstance(store, CoopStore):
        identity = make_identity(owner_identity_seed(admin.seed))
        store.lend_owner(lambda: identity)
        store.act_as_owner()


def lend_owner(store: Store, ring: KeyRing) -> None:
    """Let *store*, if it is a partner's, do as the owner what a writer may not."""
    if isinstance(store, CoopStore):
        store.lend_owner(lambda: None if ring.admin() is None else owner_of(ring))
