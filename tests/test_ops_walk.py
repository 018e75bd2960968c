"""Any tree, changed in any way between snapshots, is archived as it is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest
from archive_fixtures import (
    Lab,
    archived_picture,
    entry_below,
    keep_above_still,
    real_picture,
    take,
)
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from coopfs.archive.archive import Archive
from coopfs.errors import Interrupted

NAMES = ("a", "b", "c", "a.b", "\udcff")
PLACES = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map("/".join)
CONTENTS = st.sampled_from([b"", b"x", b"y" * 300, b"z" * 9000, bytes(range(256)) * 300])
# Not shrunk: an example takes a quarter of a second.
SETTINGS = settings(
    phases=(Phase.explicit, Phase.reuse, Phase.generate), suppress_health_check=list(HealthCheck)
)
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("write"), PLACES, CONTENTS),
        st.tuples(st.just("folder"), PLACES),
        st.tuples(st.just("delete"), PLACES),
        st.tuples(st.just("rename"), PLACES, PLACES),
        st.tuples(st.just("link"), PLACES, PLACES),
        st.tuples(st.just("symlink"), PLACES),
        st.tuples(st.just("fifo"), PLACES),
        st.tuples(st.just("chmod"), PLACES, st.sampled_from([0o600, 0o755, 0o4711])),
        st.tuples(st.just("touch"), PLACES, st.integers(-(10**18), 2 * 10**18)),
        st.tuples(st.just("append"), PLACES, CONTENTS),
        st.tuples(st.just("xattr"), PLACES, CONTENTS),
        st.tuples(st.just("sparse"), PLACES),
    ),
    min_size=1,
    max_size=6,
)


def change(top: Path, what: str, place: str, *more: object) -> None:
    """Do one thing to the tree below *top*; what cannot be done is not."""
    path = top / place
    try:
        match what:
            case "write":
                make_way(path)
                path.write_bytes(more[0])  # type: ignore[arg-type]
            case "append":
                if path.is_file() and not path.is_symlink():  # opening a FIFO would wait for ever
                    with path.open("ab") as file:
                        file.write(more[0])  # type: ignore[arg-type]
            case "sparse":
                make_way(path)
                with path.open("wb") as file:
                    file.seek(20_000)
                    file.write(b"end")
            case "folder":
                make_way(path)
                path.mkdir()
            case "delete":
                remove(path)
            case "rename":
                path.rename(top / str(more[0]))
            case "link":
                os.link(path, top / str(more[0]), follow_symlinks=False)
            case "symlink":
                make_way(path)
                path.symlink_to("../anywhere")
            case "fifo":
                make_way(path)
                os.mkfifo(path)
            case "chmod":
                if not path.is_symlink():
                    path.chmod(more[0])  # type: ignore[arg-type]
            case "touch":
                os.utime(path, ns=(0, more[0]), follow_symlinks=False)  # type: ignore[arg-type]
            case "xattr":
                if not path.is_symlink():
                    os.setxattr(path, "user.test", more[0][:1000])  # type: ignore[index]
    except OSError:
        pass


def make_way(path: Path) -> None:
    """Replace what is there, and make folders of what is above."""
    for above in reversed(path.parents):
        if (above.is_symlink() or above.exists()) and not above.is_dir():
            above.unlink()
        above.mkdir(exist_ok=True)
    remove(path)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lab, Archive, Iterator[int]]]:
    """One archive for all examples; each has a source and a series of its own."""
    lab = Lab(tmp_path_factory.mktemp("walk")).init()
    with lab.open() as (archive, _), pytest.MonkeyPatch.context() as patch:
        patch.setattr("coopfs.ops.witness.RACY_NS", 0)
        keep_above_still(patch)
        yield lab, archive, count()


def expect_same(archive: Archive, root: object, top: Path) -> None:
    entry = entry_below(archive, root, top)  # type: ignore[arg-type]
    assert entry.tree is not None
    found, real = archived_picture(archive, entry.tree), real_picture(top)
    assert found.entries == real.entries
    assert found.links == real.links


def treat_as_large(patch: pytest.MonkeyPatch) -> None:
    """Have every folder handled as one of a million entries is."""
    patch.setattr("coopfs.ops.folder.STATS_KEPT", 0)
    patch.setattr("coopfs.ops.witness.PART_LEN", 50)
    patch.setattr("coopfs.ops.snapshot.UNSENT_LEN", 1)


@settings(SETTINGS, max_examples=20)
@given(rounds=st.lists(CHANGES, min_size=2, max_size=5), is_large=st.booleans())
def test_after_any_changes_the_snapshot_equals_the_source(
    bench: tuple[Lab, Archive, Iterator[int]],
    rounds: list[list[tuple[object, ...]]],
    is_large: bool,
) -> None:
    lab, archive, numbers = bench
    series = f"s{next(numbers)}"
    top = lab.source / series
    top.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        if is_large:
            treat_as_large(patch)
        for changes in rounds:
            for one in changes:
                change(top, *one)  # type: ignore[arg-type]
            report = take(archive, top, series=series)
            assert report.facts.problem_count == 0
            expect_same(archive, report.facts.root, top)
    # And as it is now, with no memory of what was, it is the same tree.
    fresh = take(archive, top, series=f"{series}-fresh")
    assert fresh.facts.root == report.facts.root
    shutil.rmtree(top)


@settings(SETTINGS, max_examples=12)
@given(
    rounds=st.lists(st.tuples(CHANGES, st.integers(1, 8)), min_size=2, max_size=4),
    has_checkpoints=st.booleans(),
    is_large=st.booleans(),
)
def test_interruptions_and_checkpoints_at_any_moment_change_nothing(
    bench: tuple[Lab, Archive, Iterator[int]],
    rounds: list[tuple[list[tuple[object, ...]], int]],
    has_checkpoints: bool,
    is_large: bool,
) -> None:
    lab, archive, numbers = bench
    series = f"s{next(numbers)}"
    top = lab.source / series
    top.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        if has_checkpoints:
            patch.setattr("coopfs.ops.snapshot.CHECKPOINT_CHUNKS", 1)
        if is_large:
            treat_as_large(patch)
        for changes, calls in rounds:
            for one in changes:
                change(top, *one)  # type: ignore[arg-type]
            left = [calls]

            def is_stopped(left: list[int] = left) -> bool:
                left[0] -= 1
                return left[0] < 0

            with suppress(Interrupted):
                take(archive, top, series=series, is_stopped=is_stopped)
    report = take(archive, top, series=series)
    expect_same(archive, report.facts.root, top)
    assert take(archive, top, series=f"{series}-fresh").facts.root == report.facts.root
    shutil.rmtree(top)
