"""Two partners become acquainted: each keeps a store for the other, and has one there.

Owns the order in which both sides keep what they were told: first what lets the
partner in, then how to come to it.  Stopped anywhere, the same command goes on while
the invitation holds.
"""

from __future__ import annotations

import secrets
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import trio

from coopfs.archive.words import digest_words
from coopfs.bandwidth import Schedule
from coopfs.dirs import Dirs
from coopfs.errors import ConfigError, NotFound, StoreIdentity, StoreUnavailable, UsageError
from coopfs.format.invitation import (
    LIFETIME_S,
    TOKEN_LEN,
    Endpoint,
    Introduction,
    Invitation,
    check_partner_name,
    introduction_digest,
)
from coopfs.identity import Identity, load_or_make_identity, parse_certificate, pin_of
from coopfs.server.dialling import DialPlace, remove_dial_place, save_dial_place
from coopfs.server.inviting import listen_at, wait_for_partner
from coopfs.server.ownership import hand_over
from coopfs.server.serve import IDENTITY_FILE
from coopfs.server.settings import (
    SETTINGS_FILE,
    PartnerSettings,
    change_partner,
    load_partner,
    partner_folder,
)
from coopfs.store.accepting import Acceptance
from coopfs.store.partners import (
    IDENTITY_FOLDER,
    PartnerAccess,
    access_path,
    load_access,
    save_access,
)

CLOCKS_APART_S: Final = 15 * 60  # that much later a code is still tried: the other side decides


@dataclass(frozen=True, slots=True)
class Terms:
    """What one side brings along; the partner is told all of it but `partner` and `root`."""

    own_name: str  # what this side calls itself
    partner: str | None  # what this side will call the partner; None: as it calls itself
    endpoint: Endpoint | None  # where the partner reaches our server; None: we dial out
    quota: int  # bytes we keep for the partner
    retention_days: int  # how long what the partner deletes stays in its trash here
    root: Path  # of our server
    receive_rate: str | None = None  # a schedule: how fast it may upload here; None: as before
    send_rate: str | None = None  # ... and read
    owner_certificates: tuple[str, ...] = ()  # PEM, of the archives' owner here
    is_again: bool = False  # the partner was set up anew: it may have another certificate


@dataclass(frozen=True, slots=True)
class Paired:
    """Two partners who know each other."""

    access: PartnerAccess  # how we come to the partner
    granted: PartnerSettings  # what the partner may do here
    words: str  # six, the same at both sides
    is_confirmed: bool  # the other side has kept all of it too


def default_root(dirs: Dirs) -> Path:
    """Return the folder of our server unless another is chosen."""
    return dirs.state / "serve"


def server_identity(root: Path) -> Identity:
    """Return the identity our server shows, made now if there is none (ConfigError)."""
    return load_or_make_identity(root / IDENTITY_FILE)


# --- the side that invites ----------------------------------------------------


def make_invitation(terms: Terms, waiting_at: Endpoint) -> Invitation:
    """Return a new invitation to come to *waiting_at* (ConfigError)."""
    identity = server_identity(terms.root)
    return Invitation(
        endpoint=waiting_at,
        pin=bytes.fromhex(identity.pin),
        token=secrets.token_bytes(TOKEN_LEN),
        expires_s=int(time.time()) + LIFETIME_S,
        name=terms.own_name,
    )


def invite(
    dirs: Dirs,
    terms: Terms,
    listen: Endpoint,
    invitation: Invitation,
    on_ready: Callable[[], None],
    on_refusal: Callable[[str], None],
) -> Paired:
    """Wait at *listen* for the partner, and keep what it tells; returns when it has confirmed.

    *on_ready* is called once a partner can come.

    Raises:
        StoreDenied: five wrong tokens, or nobody came in time.
        StoreError: *listen* cannot be listened at.
        UsageError: the partner's name is taken here.
        ConfigError: something cannot be kept.
    """
    paired: list[Paired] = []

    def welcome(told: Introduction) -> Introduction:
        name = _free_name(dirs, terms, told)
        ours = _introduction(dirs, terms, name)
        words = digest_words(introduction_digest(ours, told))
        paired.append(_keep(dirs, terms, name, told, words))
        return ours

    async def wait() -> bool:
        listener = await listen_at(listen)
        on_ready()
        return await wait_for_partner(
            listener,
            server_identity(terms.root),
            invitation.token,
            invitation.expires_s,
            welcome,
            on_refusal,
        )

    is_confirmed = trio.run(wait)
    return replace(paired[0], is_confirmed=is_confirmed)


# --- the side that accepts ----------------------------------------------------


def accept(dirs: Dirs, terms: Terms, invitation: Invitation) -> Paired:
    """Go to the side that invited, tell and be told, and keep it.

    Raises:
        UsageError: the invitation expired, or the partner's name is taken here.
        StoreUnavailable, StoreIdentity, StoreDenied: it is not there, or refuses.
        ObjectCorrupt, FormatUnsupported: it cannot be understood.
        ConfigError: something cannot be kept.
    """
    if time.time() > invitation.expires_s + CLOCKS_APART_S:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(invitation.expires_s))
        raise UsageError(f"the invitation expired at {when}; ask for a new one")
    name = terms.partner or invitation.name
    _check_free(dirs, terms, name, invitation.pin.hex())
    ours = _introduction(dirs, terms, name)
    acceptance = Acceptance(invitation)
    try:
        told = acceptance.introduce(ours)
        if pin_of(told.server_certificate) != invitation.pin.hex():
            raise StoreIdentity(
                f"{invitation.endpoint}: the partner names another server than the one that "
                "answers there; nothing was kept"
            )
        if told.endpoint is None:
            told = replace(told, endpoint=invitation.endpoint)
        words = digest_words(introduction_digest(told, ours))
        paired = _keep(dirs, terms, name, told, words)
        try:
            acceptance.confirm()
        except StoreUnavailable:
            return paired
        return replace(paired, is_confirmed=True)
    finally:
        acceptance.close()


# --- both ---------------------------------------------------------------------


def _introduction(dirs: Dirs, terms: Terms, partner: str) -> Introduction:
    server = server_identity(terms.root)
    receive_rate, send_rate = _rates(terms, partner)
    writer = load_or_make_identity(dirs.config / writer_identity_of(partner))
    return Introduction(
        name=terms.own_name,
        path=partner,
        server_certificate=_der(server.cert_pem),
        writer_certificate=_der(writer.cert_pem),
        owner_certificates=tuple(map(_der, terms.owner_certificates)),
        endpoint=terms.endpoint,
        quota=terms.quota,
        retention_days=terms.retention_days,
        receive_rate=receive_rate,
        send_rate=send_rate,
    )


def _rates(terms: Terms, partner: str) -> tuple[str, str]:
    """Return the rates granted to *partner*: as the terms say, else as they were."""
    before = PartnerSettings(partner)
    if (partner_folder(terms.root, partner) / SETTINGS_FILE).exists():
        before = load_partner(terms.root, partner)
    wanted = (
        (terms.receive_rate, before.receive_rate),
        (terms.send_rate, before.send_rate),
    )
    receive, send = (old if new is None else Schedule.parse(new).text for new, old in wanted)
    return receive, send


def _keep(dirs: Dirs, terms: Terms, name: str, told: Introduction, words: str) -> Paired:
    """Keep what the partner told: its rights here first, then how to come to it."""
    writer = _pem(told.writer_certificate, "the partner's writer certificate")
    owners = tuple(_pem(der, "the partner's owner certificate") for der in told.owner_certificates)
    server = _pem(told.server_certificate, "the partner's server certificate")
    receive_rate, send_rate = _rates(terms, name)

    def grant(before: PartnerSettings) -> PartnerSettings:
        return replace(
            before,
            writers=(writer,),
            # Whoever was the owner of what lies here stays it, whatever else was lost.
            admins=tuple(dict.fromkeys((*before.admins, *owners))),
            diallers=() if told.endpoint else (server,),
            quota_bytes=terms.quota,
            # The partner may have relied on it.
            retention_days=max(
                terms.retention_days, before.retention_days if before.writers else 0
            ),
            receive_rate=receive_rate,
            send_rate=send_rate,
        )

    access = PartnerAccess(
        name=name,
        endpoint=told.endpoint,
        socket=None if told.endpoint else str(dial_socket(terms.root, name)),
        certificate=server,
        path=told.path,
        identity=writer_identity_of(name),
        quota=told.quota,
        retention_days=told.retention_days,
        receive_rate=told.receive_rate,
        send_rate=told.send_rate,
        dials=terms.endpoint is None,
    )
    granted = change_partner(terms.root, name, grant)
    if terms.endpoint is None and told.endpoint is not None:
        save_dial_place(terms.root, DialPlace(name, told.endpoint, server))
    else:
        remove_dial_place(terms.root, name)
    hand_over(terms.root, name)
    save_access(dirs, access)
    return Paired(access, granted, words, is_confirmed=False)


def writer_identity_of(partner: str) -> str:
    """Return the file, in the config folder, of the identity shown to *partner*."""
    return f"{IDENTITY_FOLDER}/{partner}.pem"


def dial_socket(root: Path, name: str) -> Path:
    """Return the unix socket of our server that leads to a partner who dials in."""
    return partner_folder(root, name) / "dial.sock"


def _free_name(dirs: Dirs, terms: Terms, told: Introduction) -> str:
    name = check_partner_name(terms.partner or told.name)
    _check_free(dirs, terms, name, pin_of(told.server_certificate))
    return name


def _check_free(dirs: Dirs, terms: Terms, name: str, pin: str) -> None:
    """Refuse a name that is another partner's; the same partner may be introduced again."""
    if terms.is_again:
        return
    try:
        known = load_access(dirs, name)
    except NotFound:
        known = None
    if known is not None and known.pin == pin:
        return
    if known is not None:
        taken = access_path(dirs, name)
    elif partner_folder(terms.root, name).exists():
        taken = partner_folder(terms.root, name)
    else:
        return
    raise UsageError(
        f"there is a partner called {name!r} already ({taken}); give this one another name with "
        f"--name, or say --again if it is the same one, set up anew"
    )


def _der(pem: str) -> bytes:
    return ssl.PEM_cert_to_DER_cert(pem)


def _pem(der: bytes, what: str) -> str:
    pem = ssl.DER_cert_to_PEM_cert(der)
    try:
        parse_certificate(pem, what)
    except UsageError as exc:
        raise ConfigError(str(exc)) from exc
    return pem
