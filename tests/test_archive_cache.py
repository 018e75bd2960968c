"""The disk cache: bounded, harmless when the disk is not there."""

from __future__ import annotations

import os
from pathlib import Path

from coopfs.archive.cache import BlockCache
from coopfs.ids import PackId

PACK = PackId(bytes(range(32)))
OTHER = PackId(bytes(32))


def test_a_block_is_found_under_its_pack_place_and_kind(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path)
    assert cache.get(PACK, 1, is_meta=False) is None
    assert not cache.has(PACK, 1, is_meta=False)
    cache.put(PACK, 1, b"sealed", is_meta=False)
    assert cache.get(PACK, 1, is_meta=False) == b"sealed"
    assert cache.has(PACK, 1, is_meta=False)
    for pack_id, ordinal, is_meta in ((PACK, 2, False), (OTHER, 1, False), (PACK, 1, True)):
        assert cache.get(pack_id, ordinal, is_meta=is_meta) is None
    assert [p for p in tmp_path.rglob("*.part")] == []


def test_the_folders_above_are_private_too(tmp_path: Path) -> None:
    BlockCache(tmp_path / "cache" / "id").put(PACK, 1, b"sealed", is_meta=False)
    for made in ("cache", "cache/id"):
        assert (tmp_path / made).stat().st_mode & 0o777 == 0o700


def test_content_is_trimmed_oldest_first_and_metadata_never(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, 1000)
    cache.put(OTHER, 0, bytes(5000), is_meta=True)
    for ordinal in range(10):
        cache.put(PACK, ordinal, bytes(100), is_meta=False)
        for path in (tmp_path / "data").rglob(f"*-{ordinal}"):
            os.utime(path, (1000 + ordinal, 1000 + ordinal))
    cache.put(PACK, 10, bytes(100), is_meta=False)  # one too many
    here = [n for n in range(11) if cache.has(PACK, n, is_meta=False)]
    assert here == [2, 3, 4, 5, 6, 7, 8, 9, 10]
    assert cache.get(OTHER, 0, is_meta=True) == bytes(5000)


def test_what_was_there_before_counts(tmp_path: Path) -> None:
    for ordinal in range(5):
        BlockCache(tmp_path, 10_000).put(PACK, ordinal, bytes(100), is_meta=False)
    small = BlockCache(tmp_path, 300)
    small.put(PACK, 5, bytes(100), is_meta=False)
    kept = sum(path.stat().st_size for path in (tmp_path / "data").rglob("*-*"))
    assert kept <= 300


def test_a_disk_that_takes_nothing_only_means_that_nothing_is_kept(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = BlockCache(tmp_path / "file")
    cache.put(PACK, 1, b"sealed", is_meta=False)
    assert cache.get(PACK, 1, is_meta=False) is None
    assert not cache.has(PACK, 1, is_meta=False)


def test_metadata_of_packs_that_are_gone_is_dropped_and_nothing_else(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path)
    cache.keep_only_meta(set())  # nothing was ever kept
    for pack in (PACK, OTHER):
        for ordinal in (0, 11):
            cache.put(pack, ordinal, b"meta", is_meta=True)
        cache.put(pack, 0, b"data", is_meta=False)
    strange = tmp_path / "meta" / "00" / "strange"
    strange.write_bytes(b"")
    cache.keep_only_meta({PACK})
    for ordinal in (0, 11):
        assert cache.has(PACK, ordinal, is_meta=True)
        assert not cache.has(OTHER, ordinal, is_meta=True)
    assert cache.has(OTHER, 0, is_meta=False)
    assert not strange.exists()
