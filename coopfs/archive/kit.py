"""The recovery kit: archive key and admin key on paper, a sheet each.

Owns its text, which is read back from a file as well as typed from paper: 24
numbered words, and a QR code of the same words.  With the kit and the store an
archive is had again on any machine.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from coopfs.archive.words import key_words, parse_words
from coopfs.errors import ConfigError, UsageError
from coopfs.format.invitation import Endpoint, check_partner_name, parse_endpoint
from coopfs.identity import parse_pin
from coopfs.ids import ArchiveId

KIT_LEN_MAX: Final = 256 << 10  # bytes; a real one has about 8 KiB
QR_BORDER: Final = 4  # modules of quiet zone, ISO/IEC 18004
Sheet = Literal["archive", "admin"]
_TITLES: Final = {"archive": "ARCHIVE KEY", "admin": "ADMIN KEY"}
_TITLE = re.compile(r"coopfs recovery kit: *(ARCHIVE|ADMIN) KEY\b", re.IGNORECASE)
_PLACE = re.compile(r"coop://([^/]+)/([^/]+)", re.IGNORECASE)
_STORE_ROW = re.compile(r"^[> \t]*store[ \t]+(\S.*?)\s*$", re.IGNORECASE | re.MULTILINE)
_SERVER_ROW = re.compile(
    r"^[> \t]*server[ \t]+(coop://\S+)\s+pin[ \t]+([0-9a-f]{64})\s*$", re.IGNORECASE | re.MULTILINE
)
_NUMBERED = re.compile(r"(\d{1,2})[.:)]?\s+([^\W\d_]+)")
_WORD_ROW = re.compile(r"(?:\s*\d{1,2}[.:)]?\s+[^\W\d_]+)+\s*")

_ARCHIVE_TEXT: Final = """\
Whoever has these 24 words and can reach the store reads everything in the archive.
Without them, or a machine that has them, nobody can. Keep this sheet in a safe
place away from the machines it is for, and apart from the sheet of the admin key.

To read the archive on another machine, with coopfs installed there:

    coopfs writer request {store}

It asks for the words; then `coopfs snapshots`, `restore` and `mount` work. With both
sheets at hand a machine takes the place of the lost one by `coopfs recover`.
"""
_ADMIN_TEXT: Final = """\
This key signs what decides about the archive: which hosts may write to it, and
what may be deleted. It reads nothing. Keep it apart from the archive key.

To use it on a machine that already has the archive:

    coopfs key online
"""


@dataclass(frozen=True, slots=True)
class PartnerPlace:
    """How a partner's server is found and recognised by who has nothing else."""

    endpoint: Endpoint
    path: str  # the name under which it knows us
    pin: str  # of its certificate, 64 hex digits

    def __str__(self) -> str:
        return f"coop://{self.endpoint}/{self.path}"


@dataclass(frozen=True, slots=True)
class RecoveryKit:
    """What a kit says (keys: 32 bytes each)."""

    name: str
    archive_id: ArchiveId
    store: str  # address
    host: str  # where it was printed
    created_ns: int  # of the archive
    archive_key: bytes = field(repr=False)
    admin_key: bytes | None = field(repr=False)  # None: not on the machine that printed it
    partner: PartnerPlace | None = None  # of a coop:// store whose partner can be reached


@dataclass(frozen=True, slots=True)
class KitKeys:
    """What could be read from a kit's file, or from words alone."""

    archive_key: bytes | None = field(repr=False)
    admin_key: bytes | None = field(repr=False)
    loose_key: bytes | None = field(repr=False)  # 24 words that do not say whose they are
    store: str | None = None  # address
    partner: PartnerPlace | None = None


def render_kit(kit: RecoveryKit, *, sheet: Sheet | None = None, ansi: bool = False) -> str:
    """Return the kit as text, or one *sheet* of it.

    With *ansi* the QR codes are black on white on a terminal.
    """
    sheets: list[Sheet] = ["archive"] if kit.admin_key is None else ["archive", "admin"]
    return "\f\n".join(
        _render_sheet(kit, each, f"sheet {place} of {len(sheets)}", ansi)
        for place, each in enumerate(sheets, 1)
        if sheet in (None, each)
    )


def _render_sheet(kit: RecoveryKit, sheet: Sheet, place: str, ansi: bool) -> str:
    key = kit.archive_key if sheet == "archive" else kit.admin_key
    if key is None:
        raise ValueError("there is no sheet without a key")
    words = key_words(key)
    made = time.strftime("%Y-%m-%d", time.gmtime(kit.created_ns / 1e9))
    title = f"coopfs recovery kit: {_TITLES[sheet]}"
    body = _ARCHIVE_TEXT if sheet == "archive" else _ADMIN_TEXT
    head = f"{title:<60}{place:>16}"
    return "\n".join(
        (
            head,
            "=" * len(head),
            f"archive  {kit.name}, {kit.archive_id.hex()}",
            f"store    {kit.store}",
            *_place_rows(kit.partner),
            f"made     {made} (UTC), on {kit.host}",
            "",
            *_word_rows(words),
            "",
            *qr_rows(" ".join(words).upper(), ansi=ansi),
            "",
            body.format(store=kit.store),
        )
    )


def _place_rows(place: PartnerPlace | None) -> Iterator[str]:
    if place is not None:
        yield f"server   {place}"
        yield f"pin      {place.pin}"


def parse_place(server: str, pin: str) -> PartnerPlace:
    """Read ``coop://HOST:PORT/PATH`` and the pin (UsageError)."""
    match = _PLACE.fullmatch(server)
    if not match:
        raise UsageError(f"{server!r}: expected coop://HOST:PORT/NAME, as on the recovery kit")
    return PartnerPlace(
        parse_endpoint(match[1], "the server"),
        check_partner_name(match[2]),
        parse_pin(re.sub(r"[\s-]", "", pin).lower(), "the pin"),
    )


def _word_rows(words: tuple[str, ...], columns: int = 4) -> Iterator[str]:
    for start in range(0, len(words), columns):
        row = enumerate(words[start : start + columns], start + 1)
        yield "".join(f"  {place:2} {word:<12}" for place, word in row).rstrip()


def qr_rows(text: str, *, ansi: bool = False) -> Iterator[str]:
    """Yield a QR code of *text* as half blocks, two rows of modules a line.

    Dark modules are drawn: right on paper.  With *ansi* black on white is asked for.
    """
    import segno  # late: only a kit needs it

    # Upper case and spaces are QR's alphanumeric mode: a third smaller.
    code = segno.make(text, error="m", micro=False)
    rows = [list(row) for row in code.matrix_iter(border=QR_BORDER)]
    if len(rows) % 2:
        rows.append([0] * len(rows[0]))
    for upper, lower in zip(rows[::2], rows[1::2], strict=True):
        line = "".join(" ▀▄█"[bool(u) + 2 * bool(v)] for u, v in zip(upper, lower, strict=True))
        yield f"\x1b[38;5;16;48;5;231m{line}\x1b[0m" if ansi else line.rstrip()


def parse_kit(text: str) -> KitKeys:
    """Read a kit's text, one sheet of it, or 24 words alone.

    Raises:
        UsageError: no key in it, or words that are not a key's.
    """
    titles = list(_TITLE.finditer(text))
    if not titles:
        return KitKeys(None, None, parse_words(text))
    found: dict[str, bytes] = {}
    ends = [*(title.start() for title in titles[1:]), len(text)]
    for title, end in zip(titles, ends, strict=True):
        which = title[1].lower()
        try:
            found[which] = _parse_sheet(text[title.end() : end])
        except UsageError as exc:
            raise UsageError(f"sheet of the {which} key: {exc}") from exc
    store, server = _STORE_ROW.search(text), _SERVER_ROW.search(text)
    return KitKeys(
        found.get("archive"),
        found.get("admin"),
        None,
        store[1] if store else None,
        parse_place(server[1], server[2]) if server else None,
    )


def _parse_sheet(text: str) -> bytes:
    # Lines of nothing but numbered words: dates, ids and prose have numbers too.
    words: list[str] = []
    for row in filter(_WORD_ROW.fullmatch, text.splitlines()):
        for number, word in _NUMBERED.findall(row):
            if int(number) != len(words) + 1:
                raise UsageError(f"word {len(words) + 1} is missing")
            words.append(word)
    return parse_words(" ".join(words))


def read_kit_file(path: Path) -> KitKeys:
    """Read a kit, or words, from *path*.

    Raises:
        ConfigError: it cannot be read.
        UsageError: there is no key in it.
    """
    try:
        with path.open("rb") as file:
            data = file.read(KIT_LEN_MAX + 1)
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from exc
    if len(data) > KIT_LEN_MAX:
        raise UsageError(f"{path}: too long for a recovery kit")
    try:
        return parse_kit(data.decode("utf-8", "replace"))
    except UsageError as exc:
        raise UsageError(f"{path}: {exc}") from exc
