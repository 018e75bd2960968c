"""Exclude patterns: the same answers as git gives."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from coopfs.errors import UsageError
from coopfs.ops.exclude import Excludes, read_exclude_file


def is_excluded(excludes: Excludes, path: bytes, *, folder: bool = False) -> bool:
    """Ask about *path* as a walk does: its folders first, from the top."""
    parts = path.strip(b"/").split(b"/")
    for count in range(1, len(parts) + 1):
        above = count < len(parts)
        if excludes.matches(b"/" + b"/".join(parts[:count]), parts[count - 1], above or folder):
            return True
    return False


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("*.o", b"/home/ann/a.o", True),
        ("*.o", b"/home/ann/a.oo", False),
        (".cache", b"/home/ann/.cache/deep/file", True),
        ("/home/*/.cache", b"/home/ann/.cache", True),
        ("/home/*/.cache", b"/home/ann/work/.cache", False),
        ("home/*/.cache", b"/home/ann/.cache", True),
        ("**/.cache/big", b"/home/ann/.cache/big", True),
        ("**/.cache/big", b"/.cache/big", True),
        ("/home/**/x", b"/home/x", True),
        ("/home/**/x", b"/home/a/b/x", True),
        ("/home/**", b"/home", False),
        ("/home/**", b"/home/a", True),
        ("/**", b"/", False),
        ("build/", b"/home/build/x", True),
        ("build/", b"/home/build", False),
        ("a?c", b"/abc", True),
        ("a?c", b"/a\xffc", True),
        ("[a-c]x", b"/bx", True),
        ("[!a-c]x", b"/bx", False),
        ("[]x]", b"/]", True),
        ("[[:digit:]]", b"/7", True),
        ("[[:nonsense:]]", b"/7", False),
        (r"\!x", b"/!x", True),
        (r"a\*b", b"/a*b", True),
        (r"a\*b", b"/axb", False),
        ("a b", b"/a b", True),
        ("line\nfeed*", b"/line\nfeeds", True),
        (b"caf\xe9*", b"/caf\xe9s", True),
        ("*", b"/\xff\n\x01", True),
    ],
)
def test_a_pattern_means_what_gitignore_says(
    pattern: str | bytes, path: bytes, expected: bool
) -> None:
    assert is_excluded(Excludes.from_patterns([pattern]), path) is expected


def test_the_last_pattern_that_matches_decides() -> None:
    excludes = Excludes.from_patterns(["*.log", "!keep.log", "keep.log/"])
    assert is_excluded(excludes, b"/a.log")
    assert not is_excluded(excludes, b"/keep.log")
    assert is_excluded(excludes, b"/keep.log", folder=True)


def test_a_file_cannot_be_taken_back_in_when_its_folder_is_excluded() -> None:
    excludes = Excludes.from_patterns(["cache/", "!cache/keep"])
    assert is_excluded(excludes, b"/cache/keep")


def test_a_surrogate_in_text_stands_for_the_raw_byte() -> None:
    assert is_excluded(Excludes.from_patterns([os.fsdecode(b"\xff*")]), b"/\xffx")


def test_without_patterns_nothing_need_be_asked() -> None:
    assert Excludes.from_patterns([]).is_empty
    assert Excludes.from_patterns(["!only", "/"]).is_empty
    assert not Excludes.from_patterns(["x"]).is_empty


def test_patterns_that_cannot_match_are_named() -> None:
    patterns = ["", "!", "/", "[ab", "ab\\", "fine", "nul\0", "[[:nonsense:]]", "[a\\"]
    excludes = Excludes.from_patterns(patterns)
    assert excludes.useless == tuple(p.encode() for p in patterns if p != "fine")
    assert excludes.patterns == tuple(p.encode() for p in patterns)


def test_an_exclude_file_is_read_as_git_reads_one(tmp_path: Path) -> None:
    file = tmp_path / "excludes"
    file.write_bytes(
        b"\xef\xbb\xbf# a comment\n\n*.o\r\n\\#hash\n\\!bang\ntrailing   \nkept\\ \n"
        b"  leading\n   \nin side\nback\\\\  \nlast"
    )
    assert read_exclude_file(file) == (
        b"*.o",
        b"\\#hash",
        b"\\!bang",
        b"trailing",
        b"kept\\ ",
        b"  leading",
        b"in side",
        b"back\\\\",
        b"last",
    )
    assert is_excluded(Excludes.from_file(file), b"/kept ")


def test_an_unreadable_exclude_file_is_a_usage_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere"):
        Excludes.from_file(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="directory"):
        Excludes.from_file(tmp_path)


def test_a_pattern_full_of_stars_takes_no_exponential_time() -> None:
    excludes = Excludes.from_patterns(["*a" * 30 + "b"])
    start = time.process_time()
    assert not excludes.matches(b"/" + b"a" * 250, b"a" * 250, False)
    assert time.process_time() - start < 1


# --- beside git ----------------------------------------------------------------

NAMES = [b"a", b"b", b"ab", b"a.o", b".a", b"a b", b"!a", b"#a", b"[a]", b"a-", b"\xff", b"a\\"]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[bytes]]]:
    """A git repository with a few files and folders of awkward names."""
    root = tmp_path_factory.mktemp("repository")
    subprocess.run(["git", "init", "-q", root], check=True, env={**os.environ, "HOME": str(root)})
    paths = []
    for first in NAMES:
        folder = os.fsencode(root) + b"/" + first
        os.mkdir(folder)
        paths.append(first + b"/")
        for second in NAMES[:6]:
            os.mkdir(folder + b"/" + second)
            paths.append(first + b"/" + second + b"/")
            for third in (b"a", b"ab", b"\xffa"):
                Path(os.fsdecode(folder + b"/" + second + b"/" + third)).touch()
                paths.append(first + b"/" + second + b"/" + third)
    yield root, paths


def git_excludes(root: Path, patterns: list[bytes], paths: list[bytes]) -> set[bytes]:
    """Return which of *paths* git ignores; without slashes at the end, as a walk has them."""
    (root / ".git" / "info" / "exclude").write_bytes(b"\n".join(patterns))
    done = subprocess.run(
        ["git", "-C", root, "check-ignore", "--no-index", "--stdin", "-z"],
        input=b"\0".join(path.rstrip(b"/") for path in paths),
        capture_output=True,
        check=False,
        env={**os.environ, "HOME": str(root), "GIT_CONFIG_NOSYSTEM": "1"},
    )
    assert done.returncode in (0, 1), done.stderr
    return set(done.stdout.split(b"\0")) - {b""}


ATOMS = st.sampled_from(
    [b"a", b"b", b"o", b".", b"-", b" ", b"*", b"*", b"?", b"[ab]", b"[!a]", b"[^b-z]", b"[]-a]",
     b"[a-", b"[[:alpha:]]", b"[[:punct:]x]", b"[z-a]", b"[a\\]]", b"[[:alpha]", b"\\*", b"\\a",
     b"\\\\", b"#", b"\xff", b"!", b"[\xf0-\xff]", b"]", b"[/]", b"[\\a-b]", b"[a-\\b]"]
)  # fmt: skip
PARTS = st.one_of(
    st.just(b"**"), st.just(b"*"), st.lists(ATOMS, min_size=1, max_size=4).map(b"".join)
)
PATTERNS = st.builds(
    lambda bang, root, parts, end: bang + root + b"/".join(parts) + end,
    st.sampled_from([b"", b"", b"!"]),
    st.sampled_from([b"", b"", b"/"]),
    st.lists(PARTS, min_size=1, max_size=4),
    st.sampled_from([b"", b"", b"/"]),
)


def is_agreed(pattern: bytes) -> bool:
    """Leave out "x**/": there git before 2.52 reads "**" against its own manual."""
    return all(b"**" not in part or part.strip(b"!") == b"**" for part in pattern.split(b"/"))


@settings(max_examples=300)
@given(st.lists(PATTERNS.filter(is_agreed), min_size=1, max_size=5))
@example([b"a/", b"!a/a"])
@example([b"*", b"!a", b"!a/*"])
@example([b"**/a", b"!/a/**"])
@example([b"/**", b"!/*/"])
def test_random_patterns_exclude_what_git_excludes(
    repository: tuple[Path, list[bytes]], patterns: list[bytes]
) -> None:
    root, paths = repository
    file = root / ".git" / "patterns"
    file.write_bytes(b"\n".join(patterns))
    excludes = Excludes.from_file(file)
    ours = {
        path.rstrip(b"/")
        for path in paths
        if is_excluded(excludes, b"/" + path, folder=path.endswith(b"/"))
    }
    assert ours == git_excludes(root, patterns, paths)
