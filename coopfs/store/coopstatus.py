"""What a partner's server says of what it holds, and what is remembered of it here.

Untrusted: each figure is checked, and what makes no sense counts as not said.  Owns
``partners/NAME.json`` in the state folder, which may be lost: it is told again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import date
from pathlib import Path
from typing import Any, Final

from coopfs.dirs import Dirs, make_private_folder, write_private
from coopfs.errors import ConfigError
from coopfs.format.invitation import check_partner_name

FIGURE_MAX: Final = 1 << 63
TEXT_MAX: Final = 200  # characters of what the partner's server says in words
FINDINGS_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class PartnerStatus:
    """What the partner's server said, in bytes where nothing else is; None: it did not."""

    objects: int | None = None  # how many
    used: int | None = None
    quota: int | None = None  # 0: as much as the disk holds
    left: int | None = None
    trash_used: int | None = None
    retention_days: int | None = None
    receive_rate: str | None = None  # what we may upload with, see coopfs-config(5)
    send_rate: str | None = None
    keeps_until: str | None = None  # ISO date: the partner leaves, and keeps what is there so long
    clock_jump: str | None = None  # the partner's clock is in doubt: no trash is emptied
    damaged: int | None = None  # objects that its disk has damaged; put again, they are whole
    findings: tuple[str, ...] = field(default=())  # the first of them, as KIND/NAME

    @classmethod
    def parse(cls, told: Mapping[str, Any]) -> PartnerStatus:
        """Return what of *told* makes sense."""
        return cls(
            objects=_figure(told.get("objects")),
            used=_figure(told.get("used")),
            quota=_figure(told.get("quota")),
            left=_figure(told.get("left")),
            trash_used=_figure(told.get("trash_used")),
            retention_days=_figure(told.get("retention_days")),
            damaged=_figure(told.get("damaged")),
            receive_rate=_text(told.get("receive_rate")),
            send_rate=_text(told.get("send_rate")),
            clock_jump=_text(told.get("clock_jump")),
            keeps_until=_date(told.get("keeps_until")),
            findings=_findings(told.get("findings")),
        )


def _figure(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < FIGURE_MAX else None


def _text(value: object) -> str | None:
    # It goes onto a terminal.
    if type(value) is not str or not value or not value.isprintable():
        return None
    return value[:TEXT_MAX]


def _date(value: object) -> str | None:
    with suppress(ValueError):
        return date.fromisoformat(value).isoformat() if type(value) is str else None
    return None


def _findings(value: object) -> tuple[str, ...]:
    if type(value) is not list:
        return ()
    found = []
    for item in value[:FINDINGS_MAX]:
        if type(item) is not dict:
            continue
        kind, name = item.get("kind"), item.get("name")
        if type(kind) is str and type(name) is str and (text := _text(f"{kind}/{name}")):
            found.append(text)
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Contact:
    """The last answer of a partner's server, and what it said; times by our clock."""

    time_ns: int | None = None
    clock_ahead_ms: int | None = None  # the partner's clock minus ours
    used: int | None = None
    quota: int | None = None
    left: int | None = None
    keeps_until: str | None = None
    audited_ns: int | None = None  # when the partner last proved that it has our data
    audit: str | None = None  # how that went, in a few words

    def with_status(self, status: PartnerStatus) -> Contact:
        """Return it with what *status* says."""
        return replace(
            self,
            used=status.used,
            quota=status.quota,
            left=status.left,
            keeps_until=status.keeps_until,
        )


def load_contact(dirs: Dirs, name: str) -> Contact:
    """Return what is remembered of the partner; nothing if that was lost."""
    try:
        told = json.loads(_contact_path(dirs, name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return Contact()
    if type(told) is not dict:
        return Contact()
    kept: dict[str, Any] = {}
    for item in fields(Contact):
        value = told.get(item.name)
        if item.name in ("keeps_until", "audit"):
            kept[item.name] = _text(value)
        elif type(value) is int and abs(value) < FIGURE_MAX:
            kept[item.name] = value
    return Contact(**kept)


def save_contact(dirs: Dirs, name: str, contact: Contact) -> None:
    """Remember *contact*; that it cannot be is no reason to fail."""
    path = _contact_path(dirs, name)
    with suppress(ConfigError):
        make_private_folder(path.parent)
        write_private(path, json.dumps(asdict(contact)).encode(), replace=True)


def note_audit(dirs: Dirs, name: str, time_ns: int, outcome: str) -> None:
    """Remember how an audit of the partner went, for ``coopfs partner list``."""
    contact = load_contact(dirs, name)
    save_contact(dirs, name, replace(contact, audited_ns=time_ns, audit=outcome[:TEXT_MAX]))


def _contact_path(dirs: Dirs, name: str) -> Path:
    return dirs.state / "partners" / f"{check_partner_name(name)}.json"
