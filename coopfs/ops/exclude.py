"""Exclude patterns as in gitignore(5), on raw byte paths.

Owns the reading of patterns and of ``--exclude-file``, and the question whether an
entry is left out.  Patterns with a slash at the start or inside are anchored at the
root of the file system, since paths keep their place from there in a snapshot:
``/home/*/.cache``, ``home/*/.cache`` and ``**/.cache`` are paths, ``.cache`` and
``.cache/`` are names at any depth.  Nothing here touches the file system except
:func:`read_exclude_file`.

Each pattern becomes a regular expression on bytes; neighbours of one sign become one
alternation, so that an entry costs a few calls whatever the number of patterns.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import groupby
from pathlib import Path
from typing import Any, Final, NamedTuple

from coopfs.errors import UsageError

EXCLUDE_FILE_MAX: Final = 16 << 20  # bytes; a list of patterns, not of files

_Match = Callable[[bytes], Any]


class _Pattern(NamedTuple):
    """One pattern, translated."""

    excludes: bool  # False: "!", takes back what an earlier one excluded
    folders_only: bool
    on_path: bool  # matched against the whole path; otherwise against the name
    literal: bytes | None  # what it matches, where that is one name or path only
    ending: bytes | None  # what it matches, where that is every name with this ending
    regex: bytes


class _Rule(NamedTuple):
    """Neighbouring patterns of one sign, as they apply to files or to folders."""

    excludes: bool
    names: frozenset[bytes]
    endings: tuple[bytes, ...]  # of names
    paths: frozenset[bytes]
    name_matches: _Match | None
    path_matches: _Match | None


@dataclass(frozen=True, slots=True)
class Excludes:
    """Which entries of the sources a snapshot leaves out."""

    patterns: tuple[bytes, ...]  # as given, in order
    useless: tuple[bytes, ...]  # those that cannot match anything (an open "[", say)
    _for_files: tuple[_Rule, ...]  # the last to be written comes first, and decides
    _for_folders: tuple[_Rule, ...]

    @classmethod
    def from_patterns(cls, patterns: Iterable[str | bytes]) -> Excludes:
        """Return the excludes of *patterns*; text stands for its bytes as the system has them."""
        raw = tuple(p.encode("utf-8", "surrogateescape") if isinstance(p, str) else p
                    for p in patterns)  # fmt: skip
        translated = [_translate(pattern) for pattern in raw]
        usable = [pattern for pattern in translated if pattern is not None]
        return cls(
            patterns=raw,
            useless=tuple(p for p, made in zip(raw, translated, strict=True) if made is None),
            _for_files=_rules([pattern for pattern in usable if not pattern.folders_only]),
            _for_folders=_rules(usable),
        )

    @classmethod
    def from_file(cls, path: str | Path) -> Excludes:
        """Return the excludes of the patterns in the file at *path* (UsageError)."""
        return cls.from_patterns(read_exclude_file(path))

    @property
    def is_empty(self) -> bool:
        """Whether nothing is ever excluded, so that nobody need ask."""
        return not self._for_folders

    def matches(self, path: bytes, name: bytes, is_folder: bool) -> bool:
        """Tell whether the entry at *path*, whose last part is *name*, is left out.

        *path* is absolute, without a slash at the end.  The last pattern that matches
        decides.  An excluded folder is not walked, so nothing below it is asked about:
        a file cannot be taken back in when its folder is excluded.
        """
        rules = self._for_folders if is_folder else self._for_files
        for excludes, names, endings, paths, name_matches, path_matches in rules:
            if (
                name in names
                or (endings and name.endswith(endings))
                or (name_matches is not None and name_matches(name))
                or (paths and path in paths)
                or (path_matches is not None and path_matches(path))
            ):
                return excludes
        return False


def read_exclude_file(path: str | Path) -> tuple[bytes, ...]:
    r"""Return the patterns in the file at *path*, one a line.

    Empty lines and lines that start with ``#`` are none; spaces at a line's end are
    dropped unless escaped; ``\#`` and ``\!`` start a pattern with that character.

    Raises:
        UsageError: the file cannot be read, or is too large for a list of patterns.
    """
    try:
        with Path(path).open("rb") as file:
            text = file.read(EXCLUDE_FILE_MAX + 1)
    except OSError as exc:
        raise UsageError(f"exclude file {path}: {exc.strerror}") from exc
    if len(text) > EXCLUDE_FILE_MAX:
        raise UsageError(
            f"exclude file {path}: over {EXCLUDE_FILE_MAX >> 20} MiB; is it a list of patterns?"
        )
    lines = text.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    kept = (_trim(line.removesuffix(b"\r")) for line in lines if not line.startswith(b"#"))
    return tuple(pattern for pattern in kept if pattern)


_TRAILING_SPACES = re.compile(rb"((?:[^\\]|\\.)*?) *", re.DOTALL)


def _trim(line: bytes) -> bytes:
    match = _TRAILING_SPACES.fullmatch(line)
    return match[1] if match else line  # no match: it ends in a lone backslash


# --- from patterns to rules ----------------------------------------------------


def _rules(patterns: Sequence[_Pattern]) -> tuple[_Rule, ...]:
    rules = []
    for excludes, group in groupby(reversed(patterns), lambda pattern: pattern.excludes):
        neighbours = list(group)
        names = [p for p in neighbours if not p.on_path]
        paths = [p for p in neighbours if p.on_path]
        rules.append(
            _Rule(
                excludes,
                frozenset(p.literal for p in names if p.literal is not None),
                tuple(p.ending for p in names if p.ending is not None),
                frozenset(p.literal for p in paths if p.literal is not None),
                _alternation(p.regex for p in names if p.literal is None and p.ending is None),
                _alternation(p.regex for p in paths if p.literal is None),
            )
        )
    if rules and not rules[-1].excludes:
        rules.pop()  # a "!" with nothing before it takes nothing back
    return tuple(rules)


def _alternation(regexes: Iterable[bytes]) -> _Match | None:
    combined = b"|".join(regexes)
    return re.compile(combined, re.DOTALL).fullmatch if combined else None


# --- from one pattern to a regular expression ----------------------------------


class _Wild(Enum):
    STAR = 1
    STARS = 2  # two or more in a row


# What a pattern is made of: a byte, one of several bytes, or any number of them.
_Token = int | frozenset[int] | _Wild

_SLASH: Final = ord("/")
_NOT_SLASH: Final = frozenset(range(256)) - {_SLASH}


class _UnmatchableError(Exception):
    """The pattern cannot match any name."""


def _translate(pattern: bytes) -> _Pattern | None:
    text = pattern.removeprefix(b"!")
    folders_only = text.endswith(b"/")
    text = text.removesuffix(b"/")
    on_path = b"/" in text
    text = text.removeprefix(b"/")
    if not text or b"\0" in text:
        return None
    try:
        tokens = list(_tokens(text))
    except _UnmatchableError:
        return None
    root = b"/" if on_path else b""
    numbers = [token for token in tokens if isinstance(token, int)]
    is_ending = tokens[0] is _Wild.STAR and len(numbers) == len(tokens) - 1
    return _Pattern(
        excludes=not pattern.startswith(b"!"),
        folders_only=folders_only,
        on_path=on_path,
        literal=root + bytes(numbers) if len(numbers) == len(tokens) else None,
        ending=bytes(numbers) if is_ending and not on_path else None,
        regex=root + (_path_regex(tokens) if on_path else _part_regex(tokens)),
    )


def _tokens(text: bytes) -> Iterator[_Token]:
    place = 0
    while place < len(text):
        char = text[place : place + 1]
        place += 1
        if char == b"*":
            end = place
            while text[end : end + 1] == b"*":
                end += 1
            yield _Wild.STAR if end == place else _Wild.STARS
            place = end
        elif char == b"?":
            yield _NOT_SLASH
        elif char == b"[":
            members, place = _class(text, place)
            yield members
        else:
            if char == b"\\":
                char = text[place : place + 1]
                place += 1
            if not char:
                raise _UnmatchableError  # a lone backslash at the end
            yield char[0]


_CLASSES: Final = {
    b"alnum": string.ascii_letters + string.digits,
    b"alpha": string.ascii_letters,
    b"blank": " \t",
    b"cntrl": "".join(map(chr, range(32))) + "\x7f",
    b"digit": string.digits,
    b"graph": string.ascii_letters + string.digits + string.punctuation,
    b"lower": string.ascii_lowercase,
    b"print": string.ascii_letters + string.digits + string.punctuation + " ",
    b"punct": string.punctuation,
    b"space": string.whitespace,
    b"upper": string.ascii_uppercase,
    b"xdigit": string.hexdigits,
}
_NAMED_CLASS = re.compile(rb"\[:([^]]*):\]")


def _class(text: bytes, place: int) -> tuple[frozenset[int], int]:
    """Return the bytes that the class after a "[" at *place* matches, and where it ends.

    The rules are wildmatch.c's (git), also where they are odd: a range turned round
    still matches its first character.
    """
    negated = text[place : place + 1] in (b"!", b"^")
    place += negated
    start = place
    members: set[int] = set()
    previous = None  # what a "-" would start its range from
    while text[place : place + 1] != b"]" or place == start:
        named = _NAMED_CLASS.match(text, place)
        if named:
            if named[1] not in _CLASSES:
                raise _UnmatchableError
            members.update(map(ord, _CLASSES[named[1]]))
            previous, place = None, named.end()
            continue
        is_range = (
            previous is not None
            and text[place : place + 1] == b"-"
            and text[place + 1 : place + 2] not in (b"", b"]")
        )
        place += is_range
        place += text[place : place + 1] == b"\\"
        if place >= len(text):
            raise _UnmatchableError  # no "]"
        members.update(range(previous if is_range and previous else text[place], text[place] + 1))
        previous = None if is_range else text[place]
        place += 1
    return (_NOT_SLASH - members if negated else _NOT_SLASH & members), place + 1


def _path_regex(tokens: Sequence[_Token]) -> bytes:
    parts = _split(tokens, _SLASH)
    regex = b""
    for number, part in enumerate(parts, 1):
        is_last = number == len(parts)
        if part == [_Wild.STARS]:
            regex += b".+" if is_last else b"(?:.*/)?"
        else:
            regex += _part_regex(part) + (b"" if is_last else b"/")
    return regex


def _part_regex(tokens: Sequence[_Token]) -> bytes:
    """Return the regex of what stands between two slashes.

    Between two stars the first place that fits is as good as any later one, so all but
    the last star are atomic: no pattern takes more than quadratic time.
    """
    stars: list[_Token] = [_Wild.STAR if token is _Wild.STARS else token for token in tokens]
    first, *rest = [b"".join(map(_byte_regex, piece)) for piece in _split(stars, _Wild.STAR)]
    middle = b"".join(b"(?>[^/]*?" + piece + b")" for piece in rest[:-1])
    return first + middle + (b"[^/]*" + rest[-1] if rest else b"")


def _split(tokens: Sequence[_Token], separator: _Token) -> list[list[_Token]]:
    parts: list[list[_Token]] = [[]]
    for token in tokens:
        if token == separator:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def _byte_regex(token: _Token) -> bytes:
    if isinstance(token, int):
        return b"\\x%02x" % token
    if token is _NOT_SLASH:
        return b"[^/]"
    assert isinstance(token, frozenset)  # noqa: S101  # stars were split away
    if not token:
        return b"(?!)"  # a class without members matches nothing
    return b"[" + b"".join(b"\\x%02x" % member for member in sorted(token)) + b"]"
