"""A key from the recovery kit: its file, standard input, or typed words."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from io import RawIOBase
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from coopfs.cli.context import Context
from coopfs.cli.passphrase import TRIES, has_terminal
from coopfs.errors import UsageError

if TYPE_CHECKING:
    from coopfs.archive.kit import KitKeys, Sheet

T = TypeVar("T")


def obtain_key(ctx: Context, which: Sheet, kit_file: Path | None) -> bytes:
    """Return the archive key or the admin key (32 bytes).

    Read from *kit_file*, from standard input where that is no terminal, or asked for.

    Raises:
        UsageError: there is no such key in it, or nobody to ask.
        ConfigError: the file cannot be read.
    """
    from coopfs.archive.kit import parse_kit, read_kit_file

    if kit_file is not None:
        return _pick(ctx, read_kit_file(kit_file), which, str(kit_file))
    if not sys.stdin.isatty():
        text = sys.stdin.read(1 << 20)
        if text.strip():
            return _pick(ctx, parse_kit(text), which, "standard input")
    if not has_terminal():
        raise UsageError(
            f"the {which} key is needed, and there is no terminal to ask on: give its sheet of "
            "the recovery kit by --recovery-kit FILE or on standard input"
        )
    key = _ask(which)
    if key is None:
        raise AssertionError("only what may be left out is None")
    return key


def _pick(ctx: Context, keys: KitKeys, which: Sheet, where: str) -> bytes:
    if which == "archive":
        if keys.admin_key is not None:
            ctx.warn(
                f"{where} holds the admin key as well, which a host that only writes should not "
                "have: delete it here"
            )
        found = keys.archive_key or keys.loose_key
    else:
        found = keys.admin_key or keys.loose_key
    if found is None:
        raise UsageError(f"{where}: the sheet of the {which} key is not in it")
    return found


def _ask(which: Sheet, if_empty: str = "") -> bytes | None:
    """Have the words typed; with *if_empty*, which says what it means, an empty line is None.

    Raises:
        UsageError: there are too few, or the checksum was wrong again and again.
    """
    from coopfs.archive.words import KEY_WORDS, parse_words

    hint = f"; {if_empty}" if if_empty else ""
    # Echoed: nobody types 24 words blindly without a slip.
    with open("/dev/tty", "r+b", buffering=0) as terminal:
        terminal.write(
            f"The {KEY_WORDS} words of the {which} key, in one line or several "
            f"(the first four letters of each are enough{hint}):\n".encode()
        )
        tries = TRIES
        while True:
            words = _typed_words(terminal)
            if not words and if_empty:
                return None
            if len(words) < KEY_WORDS:
                raise UsageError(f"{len(words)} words were typed; nothing was done")
            tries -= 1
            try:
                return parse_words(" ".join(words))
            except UsageError as exc:
                if not tries:
                    raise
                terminal.write(f"{exc}. All of them again:\n".encode())


def _typed_words(terminal: RawIOBase) -> list[str]:
    """Read lines until there are a key's words, or an empty one; a slip costs its line only."""
    from coopfs.archive.words import KEY_WORDS, typed_words

    words: list[str] = []
    while len(words) < KEY_WORDS:
        line = (terminal.readline() or b"").decode("utf-8", "replace")
        try:
            found = typed_words(line, len(words) + 1)
        except UsageError as exc:
            terminal.write(f"{exc}. Nothing of that line was taken; again:\n".encode())
            continue
        if not found:
            break
        words += found
    return words


def obtain_kit(
    ctx: Context, files: Sequence[Path], *, is_published: bool = False, otherwise: str = ""
) -> KitKeys:
    """Return both keys of a kit, and where its store is as far as it says.

    Read from *files* (a sheet each, or all in one), from standard input where that is no
    terminal, or the words are asked for.  Without an admin key that is None.  Where the
    archive key *is_published* nothing but *files* is looked at, and they need not have it.
    *otherwise* ends the message where there is nobody to ask.

    Raises:
        UsageError: there is no archive key in it, or nobody to ask.
        ConfigError: a file cannot be read.
    """
    from coopfs.archive.kit import KitKeys, parse_kit, read_kit_file

    sheets = [read_kit_file(path) for path in files]
    where = " and ".join(map(str, files)) or "standard input"
    if not files and is_published:
        return KitKeys(None, None, None)
    if not files and not sys.stdin.isatty() and (text := sys.stdin.read(1 << 20)).strip():
        sheets = [parse_kit(text)]
    if not sheets:
        if not has_terminal():
            raise UsageError(
                "the recovery kit is needed, and there is no terminal to ask on: give it by "
                f"--recovery-kit FILE or on standard input{otherwise}"
            )
        without = "an empty line, if it is not at hand: then this machine can only read"
        return KitKeys(_ask("archive"), _ask("admin", without), None)
    loose = [sheet.loose_key for sheet in sheets if sheet.loose_key]
    archive_key = _first(sheet.archive_key for sheet in sheets)
    if archive_key is None and not is_published:
        archive_key = loose.pop(0) if loose else None
    if archive_key is None and not is_published:
        raise UsageError(f"{where}: the sheet of the archive key is not in it")
    return KitKeys(
        archive_key,
        _first(sheet.admin_key for sheet in sheets) or (loose.pop(0) if loose else None),
        None,
        _first(sheet.store for sheet in sheets),
        _first(sheet.partner for sheet in sheets),
    )


def _first(values: Iterable[T | None]) -> T | None:
    return next((value for value in values if value is not None), None)
