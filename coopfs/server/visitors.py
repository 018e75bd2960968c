"""Who may come in, and to whose objects: every partner of this server, by key.

Owns the way from a certificate (or a token, for plain HTTP on this machine) to one
partner and one right, and what the network side keeps of each partner: its depot, its
rates, the owners of its locks.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from coopfs.bandwidth import Bucket, Schedule
from coopfs.dirs import make_private_folder
from coopfs.errors import CoopfsError, StateBusy
from coopfs.format.keys import SigningKey
from coopfs.oserrors import store_error
from coopfs.server.depot import LOCKS, Depot
from coopfs.server.house import HouseSettings
from coopfs.server.settings import PartnerSettings, partner_folder, read_partners

log = logging.getLogger("coopfs.serve")

LOCK_OWNERS: Final = "lock-owners"
# While somebody restores, uploads keep this part of the rate they may have: enough to
# stay connected.  A restore asks in pieces, so it counts as going on for a while.
UPLOADS_BESIDE_RESTORE: Final = 0.1
RESTORE_QUIET_S: Final = 2.0


class Role(Enum):
    """What a key may do."""

    WRITER = "writer"  # put, get, list; delete its own locks
    ADMIN = "admin"  # delete, too
    DIALLER = "dialler"  # none of these: it leaves lines here, see parked.py


class LockOwners:
    """Which key put which lock: one small file each, beside the objects."""

    def __init__(self, folder: Path, depot: Depot) -> None:
        """Use *folder*, made if need be (StoreError, ConfigError)."""
        self._folder = folder
        make_private_folder(folder)
        present = {listed.name for listed in depot.list(LOCKS)}
        with self._translated():
            for entry in list(folder.iterdir()):  # left by a server that was killed in between
                if entry.name not in present:
                    entry.unlink(missing_ok=True)

    def remember(self, name: str, pin: str) -> bool:
        """Note that the lock *name* is *pin*'s; False: it is somebody's already.

        Raises:
            StoreFull, StoreError: that cannot be written.
        """
        path = self._folder / name
        with self._translated():
            try:
                with path.open("x", encoding="ascii") as file:
                    file.write(pin)
            except FileExistsError:
                return False
        return True

    def owner_of(self, name: str) -> str | None:
        """Return the pin of who put the lock, None if nobody knows."""
        try:
            return (self._folder / name).read_text(encoding="ascii")
        except OSError:
            return None

    def forget(self, name: str) -> None:
        """The lock is gone (StoreError)."""
        with self._translated():
            (self._folder / name).unlink(missing_ok=True)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            folder = os.fspath(self._folder)
            raise store_error(exc, f"{LOCKS}/", folder) from exc


class House:
    """What all partners share: the line's rates, and who goes first on it.  Thread-safe."""

    def __init__(self, settings: HouseSettings) -> None:
        self.receive = Bucket(Schedule.parse(settings.receive_rate))
        self.send = Bucket(Schedule.parse(settings.send_rate))
        # For workers: have settings that were just saved hold, and return then.
        self.reload_now: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._restores = 0  # going on at this moment
        self._quiet_since = 0.0
        self.uploads_make_way = False

    def change(self, settings: HouseSettings) -> None:
        """Keep to other rates from now on."""
        self.receive.change(Schedule.parse(settings.receive_rate))
        self.send.change(Schedule.parse(settings.send_rate))

    @contextmanager
    def restoring(self) -> Iterator[None]:
        """Have uploads make way as long as the block runs, and a little longer."""
        with self._lock:
            self._restores += 1
            if self._restores == 1:
                self.receive.slow_down(UPLOADS_BESIDE_RESTORE)
                self.uploads_make_way = True
        try:
            yield
        finally:
            with self._lock:
                self._restores -= 1
                self._quiet_since = time.monotonic()

    def settle(self) -> None:
        """Let uploads have the line again once no restore has gone on for a while."""
        with self._lock:
            if not self._restores and time.monotonic() - self._quiet_since > RESTORE_QUIET_S:
                self.receive.slow_down(1.0)
                self.uploads_make_way = False


class Desk:
    """Everything the network side keeps about one partner."""

    def __init__(self, root: Path, settings: PartnerSettings, house: House) -> None:
        """Open the partner's depot (see there for what it raises)."""
        self.settings = settings
        self.depot = Depot(root, settings)
        self.locks = LockOwners(partner_folder(root, settings.name) / LOCK_OWNERS, self.depot)
        self.house = house
        self._receive = Bucket(Schedule.parse(settings.receive_rate))
        self._send = Bucket(Schedule.parse(settings.send_rate))
        self.receive_buckets = (self._receive, house.receive)
        self.send_buckets = (self._send, house.send)
        self.connections = 0  # open now; the event loop's
        self.last_seen_ns = 0  # when it last asked for anything

    @property
    def name(self) -> str:
        """The partner's name."""
        return self.settings.name

    def restoring(self) -> AbstractContextManager[None]:
        """See :meth:`House.restoring`."""
        return self.house.restoring()

    def change(self, settings: PartnerSettings) -> None:
        """Have other settings hold from now on, for what goes on, too."""
        old, self.settings = self.settings, settings
        self.depot.change_terms(settings)
        if old.receive_rate != settings.receive_rate:
            self._receive.change(Schedule.parse(settings.receive_rate))
        if old.send_rate != settings.send_rate:
            self._send.change(Schedule.parse(settings.send_rate))


@dataclass(frozen=True, slots=True)
class Visitor:
    """Somebody who has proved a key: whose objects, and what may be done with them."""

    desk: Desk
    role: Role
    pin: str  # SHA-256 of the certificate or of the token
    signer: SigningKey  # the server's, for receipts


class Partners:
    """All partners of this server; read again by :meth:`reload` while it runs."""

    def __init__(self, root: Path, signer: SigningKey, house: House) -> None:
        self._root, self._signer, self._house = root, signer, house
        self.desks: dict[str, Desk] = {}
        self._by_key: dict[str, tuple[Desk, Role]] = {}
        self._by_token: dict[str, tuple[Desk, Role]] = {}

    def reload(self) -> bool:
        """Read all settings; return whether certificates have changed.  Blocking.

        A partner whose file cannot be used keeps what held before; the log says so.

        Raises:
            ConfigError: the folder of partners cannot be read at all.
            StateBusy: another server serves one of them.
        """
        found, problems = read_partners(self._root)
        for name, problem in problems.items():
            held = "; what held before still holds" if name in self.desks else ""
            log.error("partner %s: %s%s", name, problem, held)
            if name in self.desks:
                found[name] = self.desks[name].settings
        desks: dict[str, Desk] = {}
        for name, settings in found.items():
            if desk := self._open(name, settings):
                desks[name] = desk
        before = set(self._by_key)
        gone = [desk for name, desk in self.desks.items() if name not in desks]
        by_key, by_token = _keys_of(desks)
        self.desks, self._by_key, self._by_token = desks, by_key, by_token
        for desk in gone:
            log.warning("partner %s is no partner any more", desk.name)
            desk.depot.close()
        return set(by_key) != before

    def _open(self, name: str, settings: PartnerSettings) -> Desk | None:
        desk = self.desks.get(name)
        try:
            if desk is None:
                return Desk(self._root, settings, self._house)
            if desk.settings != settings:
                desk.change(settings)
                log.info("partner %s: settings have changed", name)
        except StateBusy:
            raise  # another server runs here: then all of this one is a mistake
        except CoopfsError as exc:
            log.error("partner %s cannot be served: %s", name, exc)
        return desk

    def certificates(self) -> list[str]:
        """Return every certificate that may come in, in PEM."""
        return [
            pem
            for desk in self.desks.values()
            for pem in (
                *desk.settings.writers,
                *desk.settings.admins,
                *desk.settings.diallers,
            )
        ]

    def by_certificate(self, der: bytes | None) -> Visitor | None:
        """Return whose certificate it is, None: nobody's (any more)."""
        pin = hashlib.sha256(der or b"").hexdigest()
        return self._visitor(pin, self._by_key.get(pin))

    def by_token(self, name: str, token: str) -> Visitor | None:
        """Return whose token it is, None: nobody's, or not of the partner *name*."""
        # A dictionary of hashes of random tokens: how long the look takes tells nothing.
        pin = hashlib.sha256(token.encode()).hexdigest()
        found = self._by_token.get(pin)
        return self._visitor(pin, found) if found and found[0].name == name else None

    def _visitor(self, pin: str, found: tuple[Desk, Role] | None) -> Visitor | None:
        return Visitor(*found, pin, self._signer) if found else None

    def close(self) -> None:
        """Let go of every depot."""
        for desk in self.desks.values():
            desk.depot.close()


def _keys_of(
    desks: dict[str, Desk],
) -> tuple[dict[str, tuple[Desk, Role]], dict[str, tuple[Desk, Role]]]:
    by_key: dict[str, tuple[Desk, Role]] = {}
    by_token: dict[str, tuple[Desk, Role]] = {}
    for desk in desks.values():
        settings = desk.settings
        by_key |= dict.fromkeys(settings.writer_pins, (desk, Role.WRITER))
        by_key |= dict.fromkeys(settings.admin_pins, (desk, Role.ADMIN))
        by_key |= dict.fromkeys(settings.dialler_pins, (desk, Role.DIALLER))
        by_token |= dict.fromkeys(settings.writer_tokens, (desk, Role.WRITER))
        by_token |= dict.fromkeys(settings.admin_tokens, (desk, Role.ADMIN))
    return by_key, by_token


def changed_files(root: Path) -> Callable[[], bool]:
    """Return a function that tells whether any settings file changed since it was last asked."""
    seen = _stamps(root)

    def look() -> bool:
        nonlocal seen
        before, seen = seen, _stamps(root)
        return seen != before

    return look


def _stamps(root: Path) -> dict[str, tuple[int, int]]:
    from coopfs.server.house import HOUSE_FILE
    from coopfs.server.settings import PARTNERS, SETTINGS_FILE

    found = {}
    try:
        names = os.listdir(root / PARTNERS)
    except OSError:
        names = []
    for path in (root / HOUSE_FILE, *(root / PARTNERS / name / SETTINGS_FILE for name in names)):
        with suppress(OSError):
            status = path.stat()
            found[str(path)] = (status.st_ino, status.st_mtime_ns)
    return found
