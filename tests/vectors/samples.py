"""Fixed keys and values that the golden vectors and the format tests are made of.

Nothing here is random, and none of it may change: what it encodes to is committed.
"""

from __future__ import annotations

from collections.abc import Callable

from blake3 import blake3

from coopfs.format.body import SealedBody, seal_body
from coopfs.format.chunker import ChunkerParams
from coopfs.format.codec import Codec
from coopfs.format.config import ArchiveConfig
from coopfs.format.index import IndexedPack, IndexObject
from coopfs.format.keys import ArchiveKeys, Role, SigningKey
from coopfs.format.nodes import SpanTreeBuilder, build_tree
from coopfs.format.pack import BlockDraft, BuiltPack, build_pack
from coopfs.format.receipt import Receipt
from coopfs.format.records import Amendment, Distrust, Enrolment, ForgetRecord
from coopfs.format.snapshot import (
    ClockFacts,
    Counts,
    Origin,
    OriginKind,
    Problem,
    SnapshotFacts,
    State,
)
from coopfs.format.tree import Entry, Kind, Span, Totals
from coopfs.ids import ArchiveId, ChunkId, ObjectId, PackId, SnapshotId, SpanNodeId, TreeId

KEYS = ArchiveKeys.derive(bytes(range(32)))
OTHER_KEYS = ArchiveKeys.derive(bytes(range(1, 33)))
WRITER = SigningKey(b"w" * 32)
OTHER_WRITER = SigningKey(b"o" * 32)
ADMIN = SigningKey(b"a" * 32)
ARCHIVE_ID = ArchiveId(bytes(range(0x40, 0x50)))
TIME_NS = 1_795_408_111_123_456_789  # 2026-11-23 04:28:31 UTC and a fraction


def stream(label: str, length: int) -> bytes:
    """Return *length* bytes anybody can make: BLAKE3's extended output over *label*."""
    return blake3(label.encode()).digest(length)


def random_of(label: str) -> bytes:
    """Return the "32 fresh bytes" of the object called *label*."""
    return stream(f"random {label}", 32)


def digest_of(label: str) -> bytes:
    """Return 32 bytes that stand for some id."""
    return stream(f"id {label}", 32)


# --- chunks and packs ---------------------------------------------------------

XS = b"x" * 4000
CHUNKS = (b"a", b"hello, partner\n", XS, stream("noise", 3000))


def zstd_of_xs(length: int, declared: int | None = None) -> bytes:
    """Return a zstd frame of *length* times "x", made by hand (RFC 8878, section 3.1.1).

    What a library's compressor makes of it may change from version to version.
    """
    size = length if declared is None else declared
    header = b"\x28\xb5\x2f\xfd" + b"\xa0" + size.to_bytes(4, "little")  # one segment
    blocks = b""
    while length:
        part = min(length, 128 << 10)  # a block's most
        length -= part
        blocks += ((part << 3) | (1 << 1) | (not length)).to_bytes(3, "little") + b"x"  # RLE
    return header + blocks


def draft(*chunks: bytes) -> BlockDraft:
    """Return one raw block of *chunks*."""
    plain = b"".join(chunks)
    listed = tuple((bytes(KEYS.chunk_id(chunk)), len(chunk)) for chunk in chunks)
    return BlockDraft(Codec.RAW, plain, len(plain), listed)


def data_pack() -> BuiltPack:
    """Return a pack of three blocks: two chunks raw, one compressed, one raw."""
    packed = BlockDraft(Codec.ZSTD, zstd_of_xs(len(XS)), len(XS), ((KEYS.chunk_id(XS), len(XS)),))
    drafts = (draft(CHUNKS[0], CHUNKS[1]), packed, draft(CHUNKS[3]))
    return build_pack(KEYS, WRITER, Role.DATA, drafts, random_of("data pack"))


def meta_pack() -> BuiltPack:
    """Return a pack of one block that holds the sample folder's node and a span node."""
    nodes = {**tree_nodes(), **span_nodes()}
    plain = b"".join(nodes.values())
    listed = tuple((node_id, len(node)) for node_id, node in nodes.items())
    block = BlockDraft(Codec.RAW, plain, len(plain), listed)
    return build_pack(KEYS, WRITER, Role.META, (block,), random_of("meta pack"))


def indexed(pack: BuiltPack, answers: tuple[bytes, ...] = ()) -> IndexedPack:
    """Return how the index lists *pack*."""
    return IndexedPack(pack.pack_id, len(pack.data), pack.header, pack.directory, answers)


def writer_index() -> IndexObject:
    """Return an index object as a writer puts it, audit answers kept for one pack."""
    answers = (digest_of("answer 0"), digest_of("answer 1"))
    packs = (indexed(data_pack(), answers), indexed(meta_pack()))
    return IndexObject(packs, (), (), WRITER.writer_id, TIME_NS)


def admin_index() -> IndexObject:
    """Return an index object as prune puts it: marks and replaces."""
    return IndexObject(
        packs=(),
        marked=(PackId(digest_of("marked pack")),),
        replaces=(ObjectId(digest_of("old index 1")), ObjectId(digest_of("old index 2"))),
        writer_id=ADMIN.writer_id,
        time_ns=TIME_NS + 1,
    )


# --- trees --------------------------------------------------------------------


def _entry(name: bytes, kind: Kind, **more: object) -> Entry:
    entry = Entry(name, kind, 0o644, 1000, 100, TIME_NS, b"ann", b"users")
    return entry._replace(**more)  # type: ignore[arg-type]  # samples name real fields


ENTRIES = (
    _entry(b"block device", Kind.BLOCK_DEVICE, mode=0o660, uid=0, gid=6, rdev=0x801),
    _entry(b"char device", Kind.CHAR_DEVICE, mode=0o666, rdev=0x103),
    _entry(b"empty", Kind.FILE, inline=b"", user=b"", group=b""),
    _entry(b"fifo", Kind.FIFO, mtime_ns=-1),
    _entry(
        b"folder",
        Kind.FOLDER,
        mode=0o2755,
        tree=TreeId(digest_of("folder")),
        totals=Totals(3, 1, 4096),
        xattrs=((b"system.posix_acl_access", bytes(28)), (b"user.x", b"")),
    ),
    _entry(b"inline", Kind.FILE, size=5, inline=b"hello", birth_ns=TIME_NS - 7),
    _entry(
        b"linked",
        Kind.FILE,
        size=1,
        spans=(Span(1, KEYS.chunk_id(b"a")),),
        hard_link_id=digest_of("link")[:16],
        link_count=2,
    ),
    _entry(b"long", Kind.FILE, size=1 << 40, span_root=SpanNodeId(digest_of("long"))),
    _entry(b"one chunk", Kind.FILE, size=3000, spans=(Span(3000, KEYS.chunk_id(CHUNKS[3])),)),
    _entry(b"socket", Kind.SOCKET, mode=0o777),
    _entry(
        b"sparse",
        Kind.FILE,
        size=1 << 20,
        data_len=4096,
        spans=(
            Span(65536, None),
            Span(4096, ChunkId(digest_of("data"))),
            Span((1 << 20) - 69632, None),
        ),
    ),
    _entry(b"symlink", Kind.SYMLINK, mode=0o777, target=b"../elsewhere\xff"),
    _entry(b"with capability", Kind.FILE, mode=0o4755, inline=b"", xattrs=((b"a", b"\1\0"),)),
    _entry("Ünïcode\U0001f600".encode(), Kind.FILE, inline=b""),
    _entry(b"\xff not UTF-8 \n", Kind.FILE, inline=b""),
)
SPANS = (Span(100, ChunkId(digest_of("first"))), Span(1 << 33, None), Span(1, ChunkId(bytes(32))))


def tree_nodes() -> dict[bytes, bytes]:
    """Return the sample folder's nodes by id (one)."""
    return collect(lambda save: build_tree(ENTRIES, KEYS.tree_id_key, save), KEYS.tree_id)


def span_nodes() -> dict[bytes, bytes]:
    """Return the sample spans' nodes by id (one)."""
    return span_tree(SPANS)[1]


def large_folder(count: int) -> tuple[TreeId, dict[bytes, bytes]]:
    """Return root and nodes of a folder of *count* files."""
    entries = (_entry(b"%08d" % number, Kind.FILE, inline=b"") for number in range(count))
    roots: list[TreeId] = []
    nodes = collect(
        lambda save: roots.append(build_tree(entries, KEYS.tree_id_key, save)), KEYS.tree_id
    )
    return roots[0], nodes


def many_spans(count: int) -> tuple[Span, ...]:
    """Return *count* spans with ids from a stream."""
    ids = stream("spans", 32 * count)
    return tuple(
        Span(number + 1, ChunkId(ids[32 * number : 32 * number + 32])) for number in range(count)
    )


def span_tree(spans: tuple[Span, ...]) -> tuple[SpanNodeId, dict[bytes, bytes]]:
    """Return root and nodes of *spans*."""
    roots: list[SpanNodeId] = []

    def build(save: Callable[[bytes], SpanNodeId]) -> None:
        builder = SpanTreeBuilder(save)
        for span in spans:
            builder.add(span)
        roots.append(builder.finish())

    nodes = collect(build, KEYS.span_node_id)
    return roots[0], nodes


def collect(build: Callable[..., object], id_of: Callable[[bytes], bytes]) -> dict[bytes, bytes]:
    """Return what *build* gives to the function it is called with, by id."""
    nodes: dict[bytes, bytes] = {}

    def save(node: bytes) -> bytes:
        node_id = bytes(id_of(node))
        nodes[node_id] = node
        return node_id

    build(save)
    return nodes


# --- snapshots, records, config -----------------------------------------------

SNAPSHOT = SnapshotFacts(
    host="wren.example",
    series="home",
    number=7,
    previous=(SnapshotId(digest_of("number 6")),),
    time_ns=TIME_NS,
    zone_offset_s=3600,
    zone_name="CET",
    clock=ClockFacts("chronyd", -1_500_000, 3, True),
    root=TreeId(digest_of("root")),
    sources=(b"/home/ann", b"/etc"),
    excludes=("*.o", "/home/*/.cache"),
    tags=("nightly",),
    description="before the move",
    counts=Counts(10, 2, 1, 5000, 4, 3, 3, 4000, 2000, 1500),
    problems=(Problem(b"/home/ann/\xff", "Permission denied"),),
    problem_count=1,
    state=State.COMPLETE,
    origin=None,
    version="0.1.0",
    writer_id=WRITER.writer_id,
    end_ns=TIME_NS + 10**9,
)
PARTIAL = SnapshotFacts(
    host="wren.example",
    series="home",
    number=8,
    previous=(SnapshotId(digest_of("fork a")), SnapshotId(digest_of("fork b"))),
    time_ns=-1,
    zone_offset_s=-34200,
    zone_name="",
    clock=None,
    root=TreeId(digest_of("root")),
    sources=(),
    excludes=(),
    tags=(),
    description="",
    counts=Counts(),
    problems=(),
    problem_count=0,
    state=State.PARTIAL,
    origin=Origin(OriginKind.COPIED, ArchiveId(bytes(16)), SnapshotId(digest_of("copied")), 41),
    version="0.1.0",
    writer_id=OTHER_WRITER.writer_id,
    end_ns=0,
)
ENROLMENT = Enrolment(WRITER.writer_id, WRITER.public_key, "wren.example", TIME_NS)
AMENDMENT = Amendment(
    snapshot_ids=(SnapshotId(digest_of("amended")),),
    add_tags=("keep",),
    remove_tags=("nightly", "test"),
    is_held=True,
    description="Grüße",
    replaces=SnapshotId(digest_of("rewritten")),
    writer_id=WRITER.writer_id,
    time_ns=TIME_NS,
)
RECEIPT = Receipt("data", ObjectId(digest_of("object")), 16 << 20, TIME_NS)
AMENDMENT_OF_NOTHING = Amendment((), (), (), None, None, None, WRITER.writer_id, 0)
FORGET = ForgetRecord((SnapshotId(digest_of("gone 1")), SnapshotId(digest_of("gone 2"))), TIME_NS)
FORGET_WITH_CHAINS = ForgetRecord(
    FORGET.snapshot_ids, TIME_NS, ((), (FORGET.snapshot_ids[0], SnapshotId(digest_of("fork"))))
)
DISTRUST = Distrust(WRITER.writer_id, True, FORGET.snapshot_ids, TIME_NS)
DISTRUST_TAKEN_BACK = Distrust(WRITER.writer_id, False, (), TIME_NS + 1)
CONFIG = ArchiveConfig(
    archive_id=ARCHIVE_ID,
    chunker=ChunkerParams(min_len=4 << 10, avg_len=16 << 10, max_len=64 << 10),
    admin_public_key=ADMIN.public_key,
    created_ns=TIME_NS,
    block_len=1 << 20,
)


def sealed(role: Role, body: bytes, signer: SigningKey) -> SealedBody:
    """Return *body* as the object of *role* that *signer* puts."""
    return seal_body(KEYS, signer, role, ARCHIVE_ID, body, random_of(role.name))
