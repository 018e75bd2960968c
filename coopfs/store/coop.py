"""A partner's store: the REST protocol to ``coopfs serve``, both ends pinned, and what is beyond.

``coop://NAME`` is looked up in :mod:`coopfs.store.partners`.  This machine comes as a
writer; what only the archive's owner may do (deleting) is done with the owner's
identity, once it was lent.  coopfs-format(5), "Beyond REST".
"""

from __future__ import annotations

import base64
import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from enum import IntEnum
from functools import cached_property
from typing import Final

from coopfs.dirs import Dirs
from coopfs.errors import (
    CoopfsError,
    NotAStore,
    ObjectCorrupt,
    StoreDenied,
    StoreError,
    UsageError,
)
from coopfs.format import encoding
from coopfs.format.keys import SIGNATURE_LEN
from coopfs.format.receipt import open_receipt
from coopfs.identity import Identity, load_identity, public_key_of
from coopfs.ids import ObjectId
from coopfs.store.base import Kind, created, object_hex, object_label, parse_object_name
from coopfs.store.coopstatus import PartnerStatus, load_contact, note_audit, save_contact
from coopfs.store.http import STALL_S, Answer, Endpoint, HttpPool, Requests, certificate_trust
from coopfs.store.line import Line
from coopfs.store.partners import (
    PartnerAccess,
    identity_path,
    load_access,
    partner_of_address,
)
from coopfs.store.receipts import ReceiptBook, SignedReceipt
from coopfs.store.rest import FEATURES_HEADER, RestStore
from coopfs.store.retry import Patience

STATUS_LEN_MAX: Final = 1 << 20  # bytes
NAMES_MAX: Final = 10_000  # of one request to undelete
PROOF_LEN: Final = 32

log = logging.getLogger(__name__)

LoadOwner = Callable[[], Identity | None]


class Right(IntEnum):
    """What a certificate that is enrolled at the partner's may do."""

    WRITER = 1  # put, get, list
    OWNER = 2  # delete, and enrol others


@dataclass(frozen=True, slots=True)
class Undeleted:
    """What came back from a trash."""

    objects: int
    size: int  # bytes of them


class CoopStore(RestStore):
    """See :class:`Store`; made by :func:`open_coop`."""

    can_prove = True

    def __init__(self, access: PartnerAccess, identity: Identity, patience: Patience) -> None:
        """Come to the partner as *identity*; connects when first used."""
        self.partner = access
        self._patience = patience
        self._owner_lock = threading.Lock()
        self._owner_pool: HttpPool | None = None
        self._load_owner: LoadOwner = lambda: None
        self._is_owner = False
        self._dirs: Dirs | None = None  # where to remember the contact
        self._clock_ahead_s: float | None = None
        self._contact_ns = 0
        self._status: PartnerStatus | None = None
        self._book: ReceiptBook | None = None
        self._has_complained = False  # of a receipt that is none
        address = f"coop://{access.name}"
        super().__init__(address, _pool(access, identity, patience), f"/{access.path}/", patience)

    # --- the owner ----------------------------------------------------------------

    def lend_owner(self, load_owner: LoadOwner) -> None:
        """Let *load_owner* give the owner's identity when something needs it."""
        self._load_owner = load_owner

    def act_as_owner(self) -> None:
        """Do everything as the owner from now on: it may go over the quota a little.

        Raises:
            StoreDenied: nobody has lent its identity.
        """
        self._owner()
        self._is_owner = True

    def _owner(self) -> HttpPool:
        with self._owner_lock:
            if self._owner_pool is None:
                identity = self._load_owner()
                if identity is None:
                    raise StoreDenied(
                        f"{self.address}: only the archive's owner may do this, by the admin key, "
                        'which is not on this machine; bring it here with "coopfs key online"'
                    )
                self._owner_pool = _pool(self.partner, identity, self._patience)
                self._owner_pool.line = self._line
            return self._owner_pool

    def keep_to(self, line: Line) -> None:
        """See :meth:`Store.keep_to`."""
        super().keep_to(line)
        if self._owner_pool is not None:
            self._owner_pool.line = line

    def _pool_for(self, method: str) -> Requests:
        return self._owner() if self._is_owner or method == "DELETE" else self._pool

    def _note(self, answer: Answer, label: str) -> None:
        super()._note(answer, label)
        if FEATURES_HEADER not in answer.headers:
            raise NotAStore(
                f"{label} at {self.address}: what answers with the partner's certificate is not "
                "coopfs serve; is there something between?"
            )
        if not self._contact_ns:
            self._clock_ahead_s = _clock_ahead_s(answer)
        self._contact_ns = time.time_ns()

    def close(self) -> None:
        """See :meth:`Store.close`."""
        super().close()
        if self._owner_pool is not None:
            self._owner_pool.close()
        if self._book is not None:
            self._book.close()
        self._remember()

    def remember_in(self, dirs: Dirs) -> None:
        """Keep in the state folder what the partner signs, and when it last answered.

        The latter once this is closed.
        """
        self._dirs = dirs
        self._book = ReceiptBook(dirs, self.partner.name)

    def _remember(self) -> None:
        if self._dirs is None or not self._contact_ns:
            return
        contact = replace(load_contact(self._dirs, self.partner.name), time_ns=self._contact_ns)
        if self._clock_ahead_s is not None:
            contact = replace(contact, clock_ahead_ms=round(self._clock_ahead_s * 1000))
        if self._status is not None:
            contact = contact.with_status(self._status)
        save_contact(self._dirs, self.partner.name, contact)
        self._contact_ns = 0

    # --- receipts -------------------------------------------------------------------

    def _receive(self, receipt: str, kind: Kind, name: bytes, size: int) -> None:
        if self._book is None:
            return
        label = f"the receipt of {self.address} for {object_label(kind, name)}"
        try:
            data = base64.b64decode(receipt, validate=True)
            opened = open_receipt(data, self._signer, label)
            if (opened.kind, opened.name, opened.size) != (kind, name, size):
                raise ObjectCorrupt(f"{label}: is for another object")
        except (ValueError, CoopfsError) as exc:
            # The object is there, as far as anybody can tell; only the proof is missing.
            if not self._has_complained:
                self._has_complained = True
                log.warning("%s; it is not kept", exc)
            return
        self._book.keep(SignedReceipt(opened, data[-SIGNATURE_LEN:], self._signer))

    @cached_property
    def _signer(self) -> bytes:
        return public_key_of(self.partner.certificate, f"partner {self.partner.name}")

    def delete(self, kind: Kind, name: bytes) -> None:
        """See :meth:`Store.delete`."""
        super().delete(kind, name)
        if self._book is not None:
            self._book.drop(name)

    # --- beyond REST ----------------------------------------------------------------

    def free_bytes(self) -> int | None:
        """See :meth:`Store.free_bytes`: the quota, the day's allowance and the disk."""
        return self.status().left

    def status(self) -> PartnerStatus:
        """Return what the partner's server says about what it holds for us; untrusted."""
        label = "the status"

        def ask() -> bytes:
            with self._request("GET", f"{self._base}?coopfs=status", label) as answer:
                self._expect(answer, label)
                return answer.read_up_to(STATUS_LEN_MAX)

        try:
            told = json.loads(self._retrier.read(label, ask))
        except ValueError as exc:
            raise StoreError(f"{self.address}: the status cannot be understood: {exc}") from exc
        if type(told) is not dict:
            raise StoreError(f"{self.address}: the status is no table")
        self._status = PartnerStatus.parse(told)
        return self._status

    def damaged_packs(self) -> list[ObjectId]:
        """See :meth:`Store.damaged_packs`; no more than a status names."""
        found = []
        for finding in self.status().findings:
            kind, _, name = finding.partition("/")
            pack_id = parse_object_name(name)
            if kind == Kind.DATA and pack_id is not None:
                found.append(pack_id)
        return found

    def clock_ahead_s(self) -> float | None:
        """See :meth:`Store.clock_ahead_s`: right to a second or so."""
        return self._clock_ahead_s

    def note_audit(self, time_ns: int, outcome: str) -> None:
        """See :meth:`Store.note_audit`."""
        if self._dirs is not None:
            note_audit(self._dirs, self.partner.name, time_ns, outcome)

    def prove(self, name: bytes, key: bytes) -> bytes:
        """Return the partner's answer for the pack *name*: its BLAKE3 keyed with *key*.

        Nothing is transferred; what the answer is worth, who knows the right one decides.

        Raises:
            ObjectNotFound: the partner says that it has no such pack.
        """
        object_hex(name)
        body = encoding.encode({"name": name, "key": key})
        answer = self._ask("prove", body, f"the proof for data/{name.hex()}")
        if len(answer) != PROOF_LEN:
            raise StoreError(f"{self.address}: a proof of {len(answer)} bytes; expected 32")
        return answer

    def undelete(
        self, names: Sequence[bytes] | None = None, *, since_ns: int | None = None
    ) -> Undeleted:
        """Have objects back from the partner's trash: of *names*, or deleted since *since_ns*.

        Without either, all that is there.  Names come back whatever their kind.
        """
        asked: dict[str, object] = {}
        if names is not None:
            if len(names) > NAMES_MAX:
                raise UsageError(f"{len(names)} names at once; expected {NAMES_MAX} at most")
            asked["names"] = list(names)
        if names is None or since_ns is not None:
            asked["since_ns"] = since_ns or 0
        told = encoding.decode(self._ask("undelete", encoding.encode(asked), "the trash"), "answer")
        told = told if type(told) is dict else {}
        objects, size = told.get("restored"), told.get("bytes")
        if type(objects) is not int or type(size) is not int:
            raise StoreError(f"{self.address}: the answer cannot be understood")
        return Undeleted(objects, size)

    def raise_retention(self, days: int) -> None:
        """Have the partner keep what is deleted for *days*, if that is longer than agreed.

        Raises:
            StoreDenied: only the owner may ask for it.
        """
        self.act_as_owner()
        self._ask("retention", encoding.encode({"days": days}), "the retention")

    def enrol(self, certificate_der: bytes, right: Right, *, is_only_writer: bool = False) -> None:
        """Let another certificate in: a new machine's, or the owner's.

        The owner may enrol anybody; a writer only the first owner there is.  One that is
        enrolled already is done.  With *is_only_writer* every other writer is sent away.

        Raises:
            StoreDenied: we may not.
        """
        asked: dict[int, object] = {0: int(right), 1: certificate_der}
        if is_only_writer:
            asked[2] = True
        body = encoding.encode(asked)
        self._ask("enrol", body, "the certificate")

    def let_out(self, certificate_der: bytes, right: Right) -> None:
        """Have a certificate lose its right: another machine's, or our own as the owner.

        One that has it not is done.  Without any owner the next one a writer enrols is it.

        Raises:
            StoreDenied: only the owner may ask for it.
        """
        self.act_as_owner()
        body = encoding.encode({0: int(right), 1: certificate_der, 3: True})
        self._ask("enrol", body, "the certificate")

    def _ask(self, what: str, body: bytes, label: str) -> bytes:
        def ask() -> bytes:
            path = f"{self._base}?coopfs={what}"
            with self._request("POST", path, label, body=body) as answer:
                self._expect(answer, label)
                return answer.read_up_to(STATUS_LEN_MAX)

        return self._retrier.write(label, ask)


def _clock_ahead_s(answer: Answer) -> float | None:
    try:
        told = parsedate_to_datetime(answer.headers["Date"]).timestamp()
    except (KeyError, ValueError, TypeError, OverflowError):
        return None
    # A Date has no fractions: in the middle of its second it is right on average.
    return told + 0.5 - time.time()


def _pool(access: PartnerAccess, identity: Identity, patience: Patience) -> HttpPool:
    trust = certificate_trust(access.certificate, access.pin)
    identity.load_into(trust.context)
    where = f"coop://{access.name}"
    if access.endpoint is not None:
        endpoint = Endpoint("https", access.endpoint.host, access.endpoint.port)
    else:
        endpoint = Endpoint("https", "localhost", 443, access.socket)
        where += " (which dials in to coopfs serve here)"
    stall_s = min(STALL_S, patience.read_s) if patience.read_s else STALL_S
    return HttpPool(endpoint, where, trust=trust, stall_s=stall_s)


# --- for store/open.py ----------------------------------------------------------


def check_coop(address: str) -> None:
    """Refuse an address that names no partner; whether there is one is seen later (UsageError)."""
    if partner_of_address(address) is None:
        raise UsageError("the address of a partner's store is coop://NAME")


def open_coop(address: str) -> CoopStore:
    """Open the store at a partner's, without connecting.

    Raises:
        UsageError: the address names no partner.
        NotFound: there is no such partner here.
        ConfigError, FormatUnsupported: its file or our identity cannot be used.
    """
    check_coop(address)
    dirs = Dirs.from_environment()
    access = load_access(dirs, partner_of_address(address) or "")
    identity = load_identity(identity_path(dirs, access))
    store = CoopStore(access, identity, Patience.from_environment())
    store.remember_in(dirs)
    return store


def create_coop(address: str) -> CoopStore:
    """Begin the new store that the partner keeps room for; see ``create_store``."""
    return created(open_coop(address))
