"""The owner of an archive, as a partner's server knows it: the identity of the admin key.

It is shown only for what a writer may not do: letting a new machine in, deleting.
HTTP, TLS and certificates are imported only for a store that is a partner's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coopfs.archive.keyring import KeyRing
from coopfs.dirs import Dirs
from coopfs.errors import NotFound, WrongKey
from coopfs.format.keys import SigningKey, owner_identity_seed
from coopfs.store.base import Store

if TYPE_CHECKING:
    from coopfs.archive.kit import PartnerPlace
    from coopfs.identity import Identity
    from coopfs.store.coop import CoopStore


def _as_partners(store: Store) -> CoopStore | None:
    """Return *store* if it is a partner's."""
    if not store.address.startswith("coop:"):
        return None
    from coopfs.store.coop import CoopStore

    return store if isinstance(store, CoopStore) else None


def owner_of(ring: KeyRing) -> Identity:
    """Return the owner's identity (WrongKey: the admin key is not on this machine)."""
    admin = ring.admin()
    if admin is None:
        raise WrongKey(
            "the admin key, which makes the owner's identity, is not on this machine; bring it "
            'here with "coopfs key online" (the sheet of the admin key)'
        )
    return _identity_of(admin)


def _identity_of(admin: SigningKey) -> Identity:
    from coopfs.identity import make_identity

    return make_identity(owner_identity_seed(admin.seed))


def place_of(dirs: Dirs, store: str) -> PartnerPlace | None:
    """Return what a recovery kit must say about the store at address *store*, if anything.

    None for stores that are no partner's, for a partner whom nobody can reach, and for one
    who was removed: the keys are worth a kit all the same.

    Raises:
        ConfigError, FormatUnsupported: the partner's file is unusable.
    """
    from coopfs.archive.kit import PartnerPlace
    from coopfs.store.partners import load_access, partner_of_address

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
    partners = _as_partners(store)
    if partners is not None:
        from ssl import PEM_cert_to_DER_cert

        from coopfs.store.coop import Right

        partners.enrol(PEM_cert_to_DER_cert(owner_of(ring).cert_pem), Right.OWNER)


def give_up_ownership(store: CoopStore, ring: KeyRing) -> None:
    """Have the partner know the archive's owner no longer; the next one may be another's.

    Raises:
        WrongKey: the admin key is not on this machine.
        StoreDenied: that owner is not known there.
    """
    from ssl import PEM_cert_to_DER_cert

    from coopfs.store.coop import Right

    owner = owner_of(ring)
    store.lend_owner(lambda: owner)
    store.let_out(PEM_cert_to_DER_cert(owner.cert_pem), Right.OWNER)


def act_as_owner(store: Store, admin: SigningKey) -> None:
    """Let *store*, if it is a partner's, do everything as the owner from now on.

    For what takes away: only the owner may delete, and it may go over the quota a little
    where room must be made.
    """
    partners = _as_partners(store)
    if partners is not None:
        identity = _identity_of(admin)
        partners.lend_owner(lambda: identity)
        partners.act_as_owner()


def lend_owner(store: Store, ring: KeyRing) -> None:
    """Let *store*, if it is a partner's, do as the owner what a writer may not."""
    partners = _as_partners(store)
    if partners is not None:
        partners.lend_owner(lambda: None if ring.admin() is None else owner_of(ring))
