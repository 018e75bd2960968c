"""hypothesis strategies for the values that coopfs/format stores."""

from __future__ import annotations

from hypothesis import strategies as st

from coopfs.format.snapshot import (
    ClockFacts,
    Counts,
    Origin,
    OriginKind,
    Problem,
    SnapshotFacts,
    State,
)
from coopfs.format.tree import Entry, Kind, Span, Totals, is_entry_name
from coopfs.ids import ArchiveId, ChunkId, SnapshotId, SpanNodeId, TreeId, WriterId

ids = st.binary(min_size=32, max_size=32)
u32 = st.integers(0, (1 << 32) - 1)
times = st.integers(-(1 << 63) + 1, (1 << 63) - 1)
counts = st.integers(0, (1 << 63) - 1)
names = st.binary(min_size=1, max_size=40).filter(is_entry_name)
labels = st.from_regex(r"[A-Za-z0-9.-]{1,20}", fullmatch=True).filter(
    lambda label: label not in (".", "..")
)
owners = st.binary(max_size=20).filter(lambda name: b"\0" not in name)
xattrs = st.dictionaries(
    st.binary(min_size=1, max_size=10).filter(lambda name: b"\0" not in name),
    st.binary(max_size=20),
    max_size=4,
).map(lambda pairs: tuple(sorted(pairs.items())))
spans = st.builds(Span, st.integers(1, 1 << 40), st.none() | ids.map(ChunkId))
span_lists = st.lists(spans, min_size=1, max_size=8).map(tuple)


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    """An entry of any kind with everything that kind may have."""
    kind = draw(st.sampled_from(Kind))
    entry = Entry(
        name=draw(names),
        kind=kind,
        mode=draw(st.integers(0, 0o7777)),
        uid=draw(u32),
        gid=draw(u32),
        mtime_ns=draw(times),
        user=draw(owners),
        group=draw(owners),
        birth_ns=draw(st.none() | times),
        xattrs=draw(xattrs),
    )
    if kind is Kind.FOLDER:
        totals = draw(st.none() | st.builds(Totals, counts, counts, counts))
        return entry._replace(tree=TreeId(draw(ids)), totals=totals)
    if draw(st.booleans()):
        link_id = draw(st.binary(min_size=16, max_size=16))
        entry = entry._replace(hard_link_id=link_id, link_count=draw(st.integers(1, 1 << 31)))
    if kind is Kind.SYMLINK:
        target = draw(st.binary(min_size=1, max_size=40).filter(lambda name: b"\0" not in name))
        return entry._replace(target=target)
    if kind in (Kind.CHAR_DEVICE, Kind.BLOCK_DEVICE):
        return entry._replace(rdev=draw(st.integers(0, (1 << 64) - 1)))
    return draw(with_content(entry)) if kind is Kind.FILE else entry


@st.composite
def with_content(draw: st.DrawFn, entry: Entry) -> Entry:
    """The file *entry* with one of the three contents."""
    form = draw(st.sampled_from(("inline", "spans", "root")))
    if form == "inline":
        content = draw(st.binary(max_size=100))
        entry = entry._replace(size=len(content), inline=content)
    elif form == "spans":
        pieces = draw(span_lists)
        entry = entry._replace(size=sum(span.length for span in pieces), spans=pieces)
    else:
        entry = entry._replace(size=draw(counts), span_root=SpanNodeId(draw(ids)))
    if entry.size and draw(st.booleans()):
        return entry._replace(data_len=draw(st.integers(0, entry.size)))
    return entry


origins = st.builds(
    Origin,
    st.sampled_from(OriginKind),
    st.none() | st.binary(min_size=16, max_size=16).map(ArchiveId),
    st.none() | ids.map(SnapshotId),
    counts,
)
clocks = st.builds(ClockFacts, st.text(max_size=20), times, st.integers(0, 255), st.booleans())
snapshots = st.builds(
    SnapshotFacts,
    host=labels,
    series=labels,
    number=counts,
    previous=st.lists(ids.map(SnapshotId), max_size=3).map(tuple),
    time_ns=times,
    zone_offset_s=st.integers(-86399, 86399),
    zone_name=st.text(max_size=10),
    clock=st.none() | clocks,
    root=ids.map(TreeId),
    sources=st.lists(st.binary(max_size=20), max_size=3).map(tuple),
    excludes=st.lists(st.text(max_size=20), max_size=3).map(tuple),
    tags=st.lists(st.text(max_size=20), max_size=3).map(tuple),
    description=st.text(max_size=50),
    counts=st.builds(Counts, *[counts] * 10),
    problems=st.lists(
        st.builds(Problem, st.binary(max_size=20), st.text(max_size=20)), max_size=3
    ).map(tuple),
    problem_count=counts,
    state=st.sampled_from(State),
    origin=st.none() | origins,
    version=st.text(max_size=10),
    writer_id=st.binary(min_size=16, max_size=16).map(WriterId),
    end_ns=times,
)
