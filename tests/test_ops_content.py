"""Files and streams become spans: cuts, holes, inline content, long lists."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from archive_fixtures import Lab, content_of, entry_below, lab, take, write
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from coopfs.format.chunker import Chunker, ChunkerParams
from coopfs.format.tree import INLINE_MAX, SPANS_MAX
from coopfs.ids import ChunkId, SpanNodeId
from coopfs.ops import content as content_module
from coopfs.ops.content import Content, ContentReader

__all__ = ["lab"]  # a fixture

PARAMS = ChunkerParams.for_average(4096)  # the smallest: cuts in little data


class FakeWriter:
    """Keeps what is saved under ids of its own making."""

    def __init__(self) -> None:
        self.chunks: dict[bytes, bytes] = {}
        self.nodes: dict[bytes, bytes] = {}

    def save_chunk(self, piece: bytes | memoryview) -> ChunkId:
        from blake3 import blake3

        data = bytes(piece)
        chunk_id = ChunkId(blake3(data).digest())
        self.chunks[chunk_id] = data
        return chunk_id

    def save_span_node(self, node: bytes) -> SpanNodeId:
        from blake3 import blake3

        node_id = SpanNodeId(blake3(b"node" + node).digest())
        self.nodes[node_id] = node
        return node_id


class Cutter:
    """A reader of files without an archive."""

    def __init__(self, params: ChunkerParams = PARAMS) -> None:
        self.writer = FakeWriter()
        self.told: list[int] = []
        self.reader = ContentReader(
            self.writer,  # type: ignore[arg-type]  # as much of a writer as is used
            Chunker(params, 12345),
            self.told.append,
        )

    def read(self, path: Path) -> Content:
        fd = os.open(path, os.O_RDONLY)
        try:
            status = os.fstat(fd)
            return self.reader.read_file(fd, status.st_size, status.st_blocks)
        finally:
            os.close(fd)

    def stream(self, data: bytes) -> Content:
        read_fd, write_fd = os.pipe()

        def feed() -> None:
            with os.fdopen(write_fd, "wb") as pipe:
                pipe.write(data)

        feeder = threading.Thread(target=feed)
        feeder.start()
        try:
            return self.reader.read_stream(read_fd)
        finally:
            feeder.join()
            os.close(read_fd)

    def joined(self, content: Content) -> bytes:
        if content.inline is not None:
            return content.inline
        assert content.spans is not None
        return b"".join(
            bytes(length) if chunk_id is None else self.writer.chunks[chunk_id]
            for length, chunk_id in content.spans
        )


@pytest.fixture
def cutter() -> Cutter:
    return Cutter()


def sparse_file(path: Path, pieces: list[tuple[bool, int]], seed: int = 1) -> bytes:
    """Write a file of holes and data, (is data, length) each; return what it reads as."""
    rng = random.Random(seed)
    size = 0
    with path.open("wb") as file:
        for is_data, length in pieces:
            if is_data:
                file.seek(size)
                file.write(rng.randbytes(length))
            size += length
        file.truncate(size)
    return path.read_bytes()


@pytest.mark.parametrize("size", [0, 1, INLINE_MAX, INLINE_MAX + 1, 1024, 1025, 4096, 50_000])
def test_what_is_read_is_what_is_stored(tmp_path: Path, cutter: Cutter, size: int) -> None:
    data = random.Random(size).randbytes(size)
    content = cutter.read(write(tmp_path / "f", data))
    assert cutter.joined(content) == data
    assert (content.size, content.read_len, content.data_len) == (size, size, None)
    assert (content.inline is not None) == (size <= INLINE_MAX)
    if INLINE_MAX < size <= PARAMS.min_len:
        assert content.spans is not None and len(content.spans) == 1


def test_cut_points_do_not_depend_on_how_much_is_read_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "f", random.Random(1).randbytes(200_000))
    spans = []
    for length in (1, 20_000, 40_000, 65_536, 1 << 23):
        monkeypatch.setattr(content_module, "READ_LEN", length)
        spans.append(Cutter().read(path).spans)
        monkeypatch.setattr(content_module, "STREAM_LEN", max(1, length // 3))
        spans.append(Cutter().stream(path.read_bytes()).spans)
    assert len({*spans}) == 1
    assert spans[0] is not None and len(spans[0]) > 10


def test_an_insertion_changes_the_chunks_around_it_only(tmp_path: Path) -> None:
    data = random.Random(1).randbytes(200_000)
    cutter = Cutter()
    cutter.read(write(tmp_path / "f", data))
    before = set(cutter.writer.chunks)
    cutter.read(write(tmp_path / "g", data[:100_000] + b"inserted" + data[100_000:]))
    assert len(set(cutter.writer.chunks) - before) <= 3


def test_chunks_larger_than_a_read_are_cut(tmp_path: Path) -> None:
    # The largest average there is: a chunk may be 16 MiB, more than is read at a time.
    cutter = Cutter(ChunkerParams.for_average(4 << 20))
    data = random.Random(1).randbytes(40_000_000)
    content = cutter.read(write(tmp_path / "f", data))
    assert cutter.joined(content) == data
    assert content.spans == cutter.stream(data).spans


@pytest.mark.parametrize(
    "pieces",
    [
        [(False, 1 << 20)],
        [(False, 1)],
        [(False, 100)],
        [(False, 5000)],
        [(True, 4096), (False, 1 << 20)],
        [(False, 1 << 20), (True, 4096)],
        [(False, 1 << 20), (True, 10)],
        [(True, 10), (False, 1 << 20)],
        [(True, 10), (False, 1 << 20), (True, 10)],
        [(False, 65536), (True, 4096), (False, 65536), (True, 100_000), (False, 1)],
        [(True, 100_000), (False, 1 << 30)],
        [(False, 8192), (True, 1)],
    ],
)
def test_holes_are_neither_read_nor_stored(
    tmp_path: Path, cutter: Cutter, pieces: list[tuple[bool, int]]
) -> None:
    path = tmp_path / "f"
    with path.open("wb") as file:
        size = 0
        for is_data, length in pieces:
            if is_data:
                file.seek(size)
                file.write(random.Random(size).randbytes(length))
            size += length
        file.truncate(size)
    content = cutter.read(path)
    data_len = sum(length for is_data, length in pieces if is_data)
    assert content.size == size
    # The file system's unit is a page: at most that much more is data at each edge.
    assert content.read_len <= data_len + 8192 * len(pieces)
    if size > 1 << 16:
        assert content.read_len < size
        assert content.data_len == content.read_len
        assert content.spans is not None
        assert sum(s.length for s in content.spans if s.chunk_id is None) == size - content.read_len
    if size < 1 << 25:
        assert cutter.joined(content) == path.read_bytes()
    if not data_len and size > PARAMS.min_len:
        assert cutter.writer.chunks == {}
        assert content.spans == ((size, None),)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pieces=st.lists(
        st.tuples(st.booleans(), st.sampled_from([1, 100, 4095, 4096, 4097, 8192, 30_000, 65_536])),
        max_size=8,
    )
)
@example(pieces=[(False, 4096), (False, 1), (True, 1)])
def test_any_pattern_of_holes_reads_as_it_was(
    tmp_path: Path, pieces: list[tuple[bool, int]]
) -> None:
    cutter = Cutter()
    expected = sparse_file(tmp_path / "f", pieces)
    assert cutter.joined(cutter.read(tmp_path / "f")) == expected


def test_what_is_appended_while_a_sparse_file_is_read_is_not_taken_for_a_hole(
    tmp_path: Path, cutter: Cutter, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f"
    sparse_file(path, [(True, 4096), (False, 100_000)])
    seek = content_module._seek

    def append_after(fd: int, position: int, whence: int) -> int | None:
        found = seek(fd, position, whence)
        if found is None:
            with path.open("ab") as file:
                file.write(b"appended" * 1000)
        return found

    monkeypatch.setattr(content_module, "_seek", append_after)
    content = cutter.read(path)
    assert cutter.joined(content) == path.read_bytes()[: content.size]


def test_a_sparse_file_cut_short_while_it_is_read_ends_there(
    tmp_path: Path, cutter: Cutter, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f"
    whole = sparse_file(path, [(True, 8192), (False, 65536), (True, 8192), (False, 65536)])
    seek = content_module._seek
    calls = []

    def cut_after(fd: int, position: int, whence: int) -> int | None:
        calls.append(whence)
        found = seek(fd, position, whence)
        if len(calls) == 2:  # the end of the first data is known
            os.truncate(path, 5000)
        return found

    monkeypatch.setattr(content_module, "_seek", cut_after)
    assert cutter.joined(cutter.read(path)) == whole[:5000]


def test_a_file_that_has_grown_since_its_stat_is_read_whole(tmp_path: Path, cutter: Cutter) -> None:
    data = random.Random(1).randbytes(30_000)
    path = write(tmp_path / "f", data)
    fd = os.open(path, os.O_RDONLY)
    try:
        for stated in (0, 100, 1024, 29_999):
            os.lseek(fd, 0, os.SEEK_SET)
            content = cutter.reader.read_file(fd, stated, 64)
            assert cutter.joined(content) == data
        os.lseek(fd, 0, os.SEEK_SET)
        assert cutter.joined(cutter.reader.read_file(fd, 1 << 40, 1 << 40)) == data
    finally:
        os.close(fd)


@pytest.mark.parametrize("most", [1, 700, 5000])
@pytest.mark.parametrize("stated", [0, 900, 1000, 100_000])
def test_a_file_system_that_returns_less_than_it_was_asked_for_is_asked_again(
    tmp_path: Path, cutter: Cutter, monkeypatch: pytest.MonkeyPatch, stated: int, most: int
) -> None:
    read, pread = os.read, os.pread
    monkeypatch.setattr(os, "read", lambda fd, n: read(fd, min(n, most)))
    monkeypatch.setattr(os, "pread", lambda fd, n, at: pread(fd, min(n, most), at))
    for length in (1000, 30_000):
        data = random.Random(most).randbytes(length)
        fd = os.open(write(tmp_path / "f", data), os.O_RDONLY)
        try:
            content = cutter.reader.read_file(fd, stated, 256)
        finally:
            os.close(fd)
        assert (content.size, cutter.joined(content)) == (length, data)


@pytest.mark.parametrize("path", ["/proc/sys/kernel/ostype", "/proc/self/mountinfo"])
def test_what_has_content_though_it_says_it_is_empty_is_read(cutter: Cutter, path: str) -> None:
    # /proc/sys refuses to be read by megabytes.
    assert Path(path).stat().st_size == 0
    content = cutter.read(Path(path))
    assert cutter.joined(content) == Path(path).read_bytes() != b""


@pytest.mark.parametrize("special", ["/dev/zero", "/dev/null"])
def test_a_device_is_never_read_as_a_long_file(cutter: Cutter, special: str) -> None:
    fd = os.open(special, os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="replaced by something else"):
            cutter.reader.read_file(fd, 1 << 20, 1 << 20)
    finally:
        os.close(fd)


def test_many_spans_become_a_tree(lab: Lab) -> None:
    count = SPANS_MAX * 3
    path = lab.source / "f"
    with path.open("wb") as file:
        for number in range(count):  # data and holes by turns
            file.seek(number * 16_384)
            file.write(b"%d" % number * 100)
    long = write(lab.source / "long", random.Random(3).randbytes(20_000_000))
    with lab.open() as (archive, _):
        report = take(archive, lab.source)
        for name in (path, long):
            entry = entry_below(archive, report.facts.root, name)
            assert entry.span_root is not None and entry.spans is None
            assert content_of(archive, entry) == name.read_bytes()
        entry = entry_below(archive, report.facts.root, path)
        assert entry.data_len is not None and entry.data_len < entry.size


def test_progress_is_told_of_every_byte_of_a_long_file(
    tmp_path: Path, cutter: Cutter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content_module, "READ_LEN", 40_000)
    slow = Cutter()
    slow.read(write(tmp_path / "f", random.Random(1).randbytes(200_000)))
    assert sum(slow.told) == 200_000
    assert len(slow.told) >= 5


def test_a_stop_ends_a_long_file_at_once(tmp_path: Path) -> None:
    cutter = Cutter()

    def stop(length: int) -> None:
        raise KeyboardInterrupt

    reader: Callable[..., ContentReader] = ContentReader
    stopping = reader(cutter.writer, Chunker(PARAMS, 1), stop)
    path = write(tmp_path / "f", bytes(30_000_000))
    fd = os.open(path, os.O_RDONLY)
    try:
        with pytest.raises(KeyboardInterrupt):
            stopping.read_file(fd, 30_000_000, 1 << 20)
    finally:
        os.close(fd)
    assert sum(map(len, cutter.writer.chunks.values())) < 10_000_000
