"""Let another certificate of a partner in, or one out: a machine's, or its archive's owner.

Owns who may ask for it: the owner for anybody; a writer for the owner, as long as there
is none, which is how the first one is made known.  Only the owner lets out, itself too.
coopfs-format(5), "Beyond REST".
"""

from __future__ import annotations

import ssl
from dataclasses import replace
from pathlib import Path
from typing import Final

from coopfs.errors import ObjectCorrupt, StoreDenied, UsageError
from coopfs.format import encoding
from coopfs.format.invitation import CERTIFICATE_LEN_MAX
from coopfs.identity import parse_certificate
from coopfs.server.settings import (
    PartnerSettings,
    change_partner,
    pin_of_pem,
    read_partners,
)

WRITER: Final = 1
OWNER: Final = 2
CERTIFICATES_MAX: Final = 64  # of one partner


def enrol(root: Path, name: str, body: bytes, *, is_owner: bool) -> PartnerSettings:
    """Do what *body* asks for the partner *name*; return its settings, durably saved.

    A certificate that has the right already, or is to lose one it has not, is done.

    Raises:
        StoreDenied: the visitor may not, or the certificate is somebody else's.
        UsageError: *body* cannot be understood.
        ConfigError: the settings cannot be read or written.
    """
    right, pem, is_alone, is_leaving = _parse(body)
    pin = pin_of_pem(pem)
    if is_leaving:
        if not is_owner:
            raise StoreDenied("a certificate is let out by the archive's owner alone")
        return change_partner(root, name, lambda settings: without(settings, right, pin))

    def add(settings: PartnerSettings) -> PartnerSettings:
        if is_alone and not is_owner:
            raise StoreDenied("other machines are sent away by the archive's owner alone")
        if pin in (settings.writer_pins if right == WRITER else settings.admin_pins):
            return replace(settings, writers=(pem,)) if is_alone else settings
        if not is_owner and (right == WRITER or settings.admins):
            raise StoreDenied(
                "another certificate is let in by the archive's owner alone, and one is known "
                "here already: it takes the archive's admin key"
            )
        if any(pin in other.pins for other in read_partners(root)[0].values()):
            # Whoever else it is: that is nobody's business.
            raise StoreDenied("this certificate has another right here already")
        if len(settings.writers) + len(settings.admins) >= CERTIFICATES_MAX:
            raise StoreDenied(
                f"{CERTIFICATES_MAX} certificates are let in already; have old ones removed"
            )
        if right == WRITER:
            kept = () if is_alone else settings.writers
            return replace(settings, writers=(*kept, pem))
        return replace(settings, admins=(*settings.admins, pem))

    return change_partner(root, name, add)


def without(settings: PartnerSettings, right: int, pin: str) -> PartnerSettings:
    """Return *settings* without the certificate's right."""
    if right == WRITER:
        kept = tuple(pem for pem in settings.writers if pin_of_pem(pem) != pin)
        return replace(settings, writers=kept)
    kept = tuple(pem for pem in settings.admins if pin_of_pem(pem) != pin)
    return replace(settings, admins=kept)


def _parse(body: bytes) -> tuple[int, str, bool, bool]:
    what = "the certificate to let in"
    try:
        f = encoding.fields_of(encoding.decode(body, what), what, frozenset(range(4)))
        right = encoding.u64(f, 0, what, OWNER)
        der = encoding.bin_(f, 1, what, limit=CERTIFICATE_LEN_MAX)
    except ObjectCorrupt as exc:
        raise UsageError(str(exc)) from exc
    if right not in (WRITER, OWNER):
        raise UsageError(f"{what}: expected the right 1 (writer) or 2 (owner)")
    is_alone, is_leaving = f.get(2, False), f.get(3, False)
    if type(is_alone) is not bool or (is_alone and right != WRITER):
        raise UsageError(f"{what}: only a writer can be the only one")
    if type(is_leaving) is not bool or (is_alone and is_leaving):
        raise UsageError(f"{what}: either it is let in or out")
    pem = ssl.DER_cert_to_PEM_cert(der)
    parse_certificate(pem, what)
    return right, pem, is_alone, is_leaving
