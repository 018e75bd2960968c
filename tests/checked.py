"""What the tests of check share: an archive on a faulty store, and what a reader can read."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hosts import Host

from coopfs.archive.archive import Archive
from coopfs.archive.keyring import load_keyring
from coopfs.archive.settings import load_settings
from coopfs.archive.snapshots import Snapshot
from coopfs.errors import DataError, ObjectNotFound, UsageError
from coopfs.format.body import seal_body
from coopfs.format.codec import Codec
from coopfs.format.index import IndexedPack, IndexObject, encode_index
from coopfs.format.keys import Role
from coopfs.format.pack import BlockDraft, build_pack
from coopfs.ids import ChunkId, ObjectId, PackId, TreeId
from coopfs.ops.check import CheckRequest, check_archive
from coopfs.ops.check_findings import CheckTotals, Finding, HurtFile, Severity, Subject
from coopfs.ops.progress import NoProgress
from coopfs.store.base import Kind
from coopfs.store.faulty import FaultyStore
from coopfs.store.open import open_store


def no_passphrase(prompt: str) -> str:
    """Stand for a terminal that is not there."""
    raise UsageError(prompt)


@contextmanager
def opened(host: Host) -> Iterator[tuple[Archive, FaultyStore]]:
    """Open the archive of *host* on a store that can be damaged."""
    settings = load_settings(host.dirs, None)
    ring = load_keyring(host.dirs, settings, no_passphrase)
    store = FaultyStore(open_store(settings.store))
    with Archive.open(host.dirs, settings, ring, store) as archive:
        yield archive, store


@dataclass
class Checked:
    """What a check has said."""

    totals: CheckTotals
    findings: list[Finding] = field(default_factory=list)
    hurt: list[HurtFile] = field(default_factory=list)

    @property
    def damages(self) -> list[Finding]:
        return [f for f in self.findings if f.severity is Severity.DAMAGE]

    @property
    def subjects(self) -> list[Subject]:
        return [f.subject for f in self.damages]

    def paths(self, snapshot: Snapshot) -> set[bytes]:
        return {h.path for h in self.hurt if h.snapshot.snapshot_id == snapshot.snapshot_id}


def check(archive: Archive, share: float = 0.0) -> Checked:
    """Run a check and collect what it tells."""
    said: list[Finding | HurtFile] = []
    totals = check_archive(archive, CheckRequest(share), said.append, NoProgress())
    return Checked(
        totals,
        [item for item in said if isinstance(item, Finding)],
        [item for item in said if isinstance(item, HurtFile)],
    )


def names(store: FaultyStore, kind: Kind) -> list[ObjectId]:
    """Return the objects of *kind* that are really in the store."""
    return sorted(info.name for info in store.inner.list(kind))


def put_under_false_id(archive: Archive, chunk_id: ChunkId, content: bytes) -> PackId:
    """Store *content* as the chunk *chunk_id*, signed by this host: what no honest one does."""
    signer = archive.ring.writer()
    assert signer is not None
    draft = BlockDraft(Codec.RAW, content, len(content), ((chunk_id, len(content)),))
    built = build_pack(archive.keys, signer, Role.DATA, [draft], os.urandom(32))
    archive.store.put(Kind.DATA, built.pack_id, built.data)
    pack = IndexedPack(built.pack_id, len(built.data), built.header, built.directory)
    body = encode_index(IndexObject((pack,), (), (), signer.writer_id, 0))
    sealed = seal_body(
        archive.keys, signer, Role.INDEX, archive.config.archive_id, body, os.urandom(32)
    )
    archive.store.put(Kind.INDEX, sealed.object_id, sealed.data)
    return built.pack_id


def unreadable(archive: Archive, snapshot: Snapshot) -> set[bytes]:
    """Return what a reader fails at: files that do not read whole, folders that do not list."""
    archive.blocks.forget_memory()
    archive._nodes.clear()
    found: set[bytes] = set()

    def read_folder(path: bytes, tree: TreeId) -> None:
        try:
            entries = list(archive.iter_entries(tree))
        except (DataError, ObjectNotFound):
            found.add(path or b"/")
            return
        for entry in entries:
            below = path + b"/" + entry.name
            if entry.tree is not None:
                read_folder(below, entry.tree)
                continue
            try:
                for span in archive.iter_spans(entry):
                    if span.chunk_id is not None:
                        assert len(archive.load_chunk(span.chunk_id)) == span.length
            except (DataError, ObjectNotFound):
                found.add(below)

    read_folder(b"", snapshot.facts.root)
    return found


def copy_host(pattern: Path, target: Path) -> Host:
    """Copy the host and the store below *pattern*, which was made for tests to share."""
    shutil.copytree(pattern / "host", target / "host")
    shutil.copytree(pattern / "store", target / "store")
    (config,) = (target / "host" / "config").rglob("archive.toml")
    text = config.read_text()
    assert str(pattern / "store") in text
    config.write_text(text.replace(str(pattern / "store"), str(target / "store")))
    return Host(target / "host")


def make_source(folder: Path, seed: int = 1) -> None:
    """Write a small tree: inline files, single chunks, a long file, doubles, a sparse one."""
    rng = random.Random(seed)
    folder.mkdir()
    (folder / "empty").touch()
    (folder / "inline").write_bytes(b"short")
    for number in range(30):
        below = folder / f"folder{number % 5}"
        below.mkdir(exist_ok=True)
        (below / f"file{number}").write_bytes(rng.randbytes(rng.randrange(300, 60_000)))
    (folder / "copy").write_bytes((folder / "folder1" / "file1").read_bytes())
    (folder / "text").write_text("all work and no play\n" * 5000)
    (folder / "long").write_bytes(rng.randbytes(9_000_000))
    with (folder / "sparse").open("wb") as file:
        file.write(b"start" * 100)
        file.seek(5_000_000)
        file.write(rng.randbytes(100_000))
    (folder / "link").symlink_to("inline")
