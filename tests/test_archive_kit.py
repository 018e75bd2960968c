from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import segno

from coopfs.archive.kit import (
    KitKeys,
    PartnerPlace,
    RecoveryKit,
    parse_kit,
    parse_place,
    qr_rows,
    read_kit_file,
    render_kit,
)
from coopfs.archive.words import key_words
from coopfs.errors import ConfigError, UsageError
from coopfs.format.invitation import Endpoint
from coopfs.ids import ArchiveId

KIT = RecoveryKit(
    name="home",
    archive_id=ArchiveId(bytes(range(16))),
    store="/mnt/1 abandon 2 ability/store",  # must not be read as words
    host="anna",
    created_ns=1_763_800_000_000_000_000,
    archive_key=bytes(range(32)),
    admin_key=bytes(range(32, 64)),
)


def test_a_kit_is_read_back() -> None:
    assert parse_kit(render_kit(KIT)) == KitKeys(KIT.archive_key, KIT.admin_key, None, KIT.store)


@pytest.mark.parametrize("host", ["backup.example.org", "2001:db8::7", "192.0.2.7"])
def test_a_kit_of_a_partners_store_says_where_it_is(host: str) -> None:
    place = PartnerPlace(Endpoint(host, 8765), "anna", "5e" * 32)
    kit = replace(KIT, store="coop://berta", partner=place)
    for sheet in render_kit(kit).split("\f"):
        keys = parse_kit(sheet)
        assert (keys.store, keys.partner) == ("coop://berta", place)
        assert max(map(len, sheet.splitlines())) <= 85


@pytest.mark.parametrize(
    ("server", "pin"),
    [
        ("https://a:1/b", "5e" * 32),
        ("coop://a/b", "5e" * 32),
        ("coop://a:1", "5e" * 32),
        ("coop://a:1/b/c", "5e" * 32),
        ("coop://a:1/b", "5e" * 31),
    ],
)
def test_what_does_not_say_where_a_partner_is_is_refused(server: str, pin: str) -> None:
    with pytest.raises(UsageError):
        parse_place(server, pin)


def test_each_sheet_is_read_back_alone() -> None:
    first, second = render_kit(KIT).split("\f")
    assert parse_kit(first) == KitKeys(KIT.archive_key, None, None, KIT.store)
    assert parse_kit(second) == KitKeys(None, KIT.admin_key, None, KIT.store)


def test_a_kit_survives_mail_and_editors() -> None:
    text = render_kit(KIT).replace("\n", "\r\n").replace("  ", "\t").upper()
    keys = parse_kit("> see below\n\n" + text)
    assert (keys.archive_key, keys.admin_key) == (KIT.archive_key, KIT.admin_key)


def test_loose_words_do_not_say_whose_they_are() -> None:
    assert parse_kit(" ".join(key_words(KIT.admin_key or b""))) == KitKeys(
        None, None, KIT.admin_key
    )


def test_a_sheet_says_what_it_is_for() -> None:
    first, second = render_kit(KIT).split("\f")
    for sheet, title in ((first, "ARCHIVE KEY"), (second, "ADMIN KEY")):
        assert title in sheet.splitlines()[0 if sheet is first else 1]
        assert bytes(range(16)).hex() in sheet
        assert KIT.store in sheet
        assert "2025-11-22" in sheet
    assert "ADMIN KEY" not in first
    assert not set(key_words(KIT.admin_key or b"")) & set(_words_of(first))


def _words_of(sheet: str) -> list[str]:
    return [w for line in sheet.splitlines() if line.startswith("   1 ") for w in line.split()]


def test_a_kit_without_the_admin_key_is_one_sheet() -> None:
    text = render_kit(replace(KIT, admin_key=None))
    assert "sheet 1 of 1" in text
    assert parse_kit(text) == KitKeys(KIT.archive_key, None, None, KIT.store)


def test_a_kit_fits_on_a_screen_and_a_page() -> None:
    for sheet in render_kit(KIT).split("\f"):
        assert max(map(len, sheet.splitlines())) <= 85
        assert len(sheet.splitlines()) <= 60


def matrix_of(rows: list[str], size: int) -> list[list[bool]]:
    """The modules a scanner sees in half blocks."""
    matrix = []
    for row in rows:
        padded = row.ljust(size)
        matrix.append([c in "▀█" for c in padded])
        matrix.append([c in "▄█" for c in padded])
    return matrix[:size]


def test_the_qr_code_shows_every_module_of_the_words() -> None:
    text = " ".join(key_words(KIT.archive_key)).upper()
    rows = list(qr_rows(text))
    expected = [[bool(m) for m in row] for row in segno.make(text, error="m").matrix_iter(border=4)]
    assert len(expected) == len(expected[0])
    assert matrix_of(rows, len(expected)) == expected
    assert all(row in render_kit(KIT) for row in rows)


def test_on_a_terminal_the_qr_code_is_black_on_white() -> None:
    plain, coloured = list(qr_rows("ABANDON")), list(qr_rows("ABANDON", ansi=True))
    for without, with_colours in zip(plain, coloured, strict=True):
        body = with_colours.removeprefix("\x1b[38;5;16;48;5;231m").removesuffix("\x1b[0m")
        assert len(body) == len(coloured[0]) - len("\x1b[38;5;16;48;5;231m\x1b[0m")
        assert body.rstrip() == without
    assert "\x1b" not in render_kit(KIT)
    assert "\x1b" in render_kit(KIT, ansi=True)


def test_a_damaged_sheet_is_named() -> None:
    words = key_words(KIT.admin_key or b"")
    text = render_kit(KIT)
    start = text.index("ADMIN KEY")
    damaged = text[:start] + text[start:].replace(f" 5 {words[4]}", " 5 abandom")
    with pytest.raises(UsageError, match="sheet of the admin key: word 5, 'abandom'"):
        parse_kit(damaged)
    torn = text[:start] + text[start:].replace(f"   5 {words[4]}", " " * 8)
    with pytest.raises(UsageError, match="sheet of the admin key: word 5 is missing"):
        parse_kit(torn)


def test_a_file_without_a_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "kit"
    with pytest.raises(ConfigError, match="kit: cannot be read"):
        read_kit_file(path)
    for content in (b"", b"\xff\xfe", b"hello\n", b"coopfs recovery kit: ARCHIVE KEY\n"):
        path.write_bytes(content)
        with pytest.raises(UsageError, match="kit: "):
            read_kit_file(path)
    path.write_bytes(bytes(1 << 20))
    with pytest.raises(UsageError, match="too long"):
        read_kit_file(path)
