"""Audit: does the keeper of the store still have the data?  Random blocks, read and opened.

Owns the arithmetic and the drawing.  Blocks are drawn uniformly over stored bytes, with
replacement, so that *n* good samples say: were a share *loss* of the bytes gone, at least
one sample would have hit it with the probability *confidence*, 1 - (1 - loss)^n.  Nothing
comes from a cache, and nobody but this process knows what is drawn.  Where the partner's
server can prove that it has a pack (:mod:`coopfs.ops.proofs`), the pack is not read.
Where the store cannot promise that a put survives, the newest packs are read whole.
"""

from __future__ import annotations

import math
import random
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Final

from coopfs.archive.archive import Archive
from coopfs.archive.blocks import decode_block
from coopfs.archive.index_rows import BlockInfo, PackInfo
from coopfs.errors import DataError, ObjectNotFound, UsageError
from coopfs.format.sealing import Opener
from coopfs.ids import ObjectId, PackId, short_hex
from coopfs.ops.kept import Kept, keep_result, kept_results
from coopfs.ops.progress import Progress
from coopfs.ops.proofs import Prover
from coopfs.ops.readback import newest_packs, read_back
from coopfs.store.base import AUDIT_PASSED, Kind

SAMPLES_MAX: Final = 1_000_000  # a typing error should not read for a month
EXTRA_META: Final = 32  # metadata packs of which a block is read besides: without them all is lost
EXTRA_NEWEST: Final = 8  # packs that came last: what a careless keeper loses first
THREADS: Final = 4


@dataclass(frozen=True, slots=True)
class AuditRequest:
    """What is to be shown."""

    confidence: float = 0.95
    loss: float = 0.01  # share of the stored bytes

    @property
    def samples(self) -> int:
        """How many blocks must be drawn (UsageError)."""
        if not (0 < self.confidence < 1 and 0 < self.loss < 1):
            raise UsageError(
                f"a confidence of {self.confidence:.6%} and a loss of {self.loss:.6%}: both must "
                "lie between 0 and 100 %"
            )
        number = math.ceil(math.log1p(-self.confidence) / math.log1p(-self.loss))
        if number > SAMPLES_MAX:
            raise UsageError(
                f'that would be {number:,} samples; "coopfs check --read-data" reads everything'
            )
        return number


@dataclass(frozen=True, slots=True)
class AuditResult:
    """What an audit has shown; kept."""

    time_ns: int
    confidence: float
    loss: float
    samples: int  # drawn uniformly over stored bytes
    extra: int  # blocks of metadata packs and of the newest packs, besides
    bad_samples: int  # of *samples*
    bad_packs: int  # missing, of a wrong size, or with a block that is not what it should be
    packs: int  # in the index, not marked by a prune
    stored_len: int  # bytes of their blocks
    read_len: int  # bytes
    proved: int = 0  # packs of which the partner's server was asked to prove that it has them

    @property
    def is_passed(self) -> bool:
        """Whether nothing was missing or wrong."""
        return self.bad_packs == 0


@dataclass(frozen=True, slots=True)
class _Sample:
    pack: PackInfo
    block: BlockInfo
    is_extra: bool


def audit_archive(
    archive: Archive, request: AuditRequest, progress: Progress
) -> tuple[AuditResult, dict[PackId, str]]:
    """Audit a refreshed archive; also return the packs that failed, and how.

    What failed is not relied on any more, so the next snapshot stores it again.

    Raises:
        UsageError: nonsense was asked for, or there is nothing to audit.
        StoreUnavailable: the store cannot be reached, which shows nothing.
    """
    wanted = request.samples
    draw = _Draw(archive)
    # Names and sizes first: what is not even listed need not be drawn.
    sizes = {info.name: info.size for info in archive.store.list(Kind.DATA)}
    bad: dict[PackId, str] = {}
    for pack in draw.packs:
        size = sizes.get(ObjectId(pack.pack_id))
        if size is None:
            bad[pack.pack_id] = "is not in the store"
        elif size != pack.size:
            bad[pack.pack_id] = f"has {size} bytes where {pack.size} were stored"
    samples = [*draw.samples(wanted), *draw.extras()]
    prover = Prover(archive)
    checks = _checks(samples, prover)
    read_len = bad_samples = 0
    progress.start(len(checks), None)
    if not archive.store.is_durable:
        newest = newest_packs(archive)
        bad |= read_back(archive, newest)
        read_len += sum(pack.size for pack in newest)
    with ThreadPoolExecutor(THREADS, "coopfs-audit") as pool:
        try:
            problems = pool.map(lambda check: check.problem(archive, prover), checks)
            for number, (check, problem) in enumerate(zip(checks, problems, strict=True), 1):
                read_len += check.block.sealed_len if check.block else 0
                if problem:
                    bad.setdefault(check.pack.pack_id, problem)
                    bad_samples += check.samples
                progress.update(files=number, bytes_=read_len)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    archive.index.mark_all_lost(
        {pack_id: f"found by an audit: {problem}" for pack_id, problem in bad.items()}
    )
    result = AuditResult(
        time_ns=time.time_ns(),
        confidence=request.confidence,
        loss=request.loss,
        samples=wanted,
        extra=len(samples) - wanted,
        bad_samples=bad_samples,
        bad_packs=len(bad),
        packs=len(draw.packs),
        stored_len=draw.total_len,
        read_len=read_len,
        proved=sum(check.block is None for check in checks),
    )
    keep_result(archive.state_folder, Kept.AUDITS, result)
    archive.store.note_audit(
        result.time_ns, AUDIT_PASSED if result.is_passed else f"{result.bad_packs} packs bad"
    )
    return result, bad


@dataclass(frozen=True, slots=True)
class _Check:
    """One thing to ask of the store: a block, or the proof of a whole pack."""

    pack: PackInfo
    block: BlockInfo | None
    question: int  # which of the pack's, where there is no block
    samples: int  # of those drawn uniformly that it stands for

    def problem(self, archive: Archive, prover: Prover) -> str:
        """Return what is wrong; "" when all is right."""
        if self.block is None:
            return prover.problem(self.pack, self.question)
        return _problem(archive, self.pack, self.block)


def _checks(samples: Sequence[_Sample], prover: Prover) -> list[_Check]:
    """Return what to ask: one proof for all samples in a pack where that can be had.

    A block that was drawn several times is read once.
    """
    packs = {one.pack.pack_no: one.pack for one in samples if prover.can_ask(one.pack)}
    questions = prover.take(list(packs.values()))
    in_pack = Counter(one.pack.pack_no for one in samples if not one.is_extra)
    in_block = Counter(one.block.block_no for one in samples if not one.is_extra)
    blocks = {one.block.block_no: one for one in samples if one.pack.pack_no not in questions}
    return [
        *(_Check(packs[no], None, question, in_pack[no]) for no, question in questions.items()),
        *(_Check(one.pack, one.block, 0, in_block[no]) for no, one in blocks.items()),
    ]


class _Draw:
    """Blocks at random, by stored bytes."""

    def __init__(self, archive: Archive) -> None:
        self._index = archive.index
        marked = archive.index.marked()  # about to be deleted: no loss
        lens = dict(
            archive.state.connection.execute(
                "SELECT pack_no, SUM(sealed_len) FROM blocks GROUP BY pack_no"
            ).fetchall()
        )
        self.packs = [
            pack
            for pack in archive.index.packs()
            if pack.pack_id not in marked and lens.get(pack.pack_no)
        ]
        if not self.packs:
            raise UsageError("there is nothing to audit: the archive holds no data")
        self._ends = list(accumulate(lens[pack.pack_no] for pack in self.packs))
        self.total_len: int = self._ends[-1]
        self._random = random.SystemRandom()  # not to be foreseen by the keeper

    def samples(self, number: int) -> Iterator[_Sample]:
        """Draw *number* blocks; one may come twice."""
        for _ in range(number):
            place = self._random.randrange(self.total_len)
            at = bisect_right(self._ends, place)
            before = self._ends[at - 1] if at else 0
            yield self._sample(self.packs[at], place - before, is_extra=False)

    def extras(self) -> Iterator[_Sample]:
        """Draw a block each of some metadata packs, and of the newest packs."""
        meta = [pack for pack in self.packs if pack.is_meta]
        chosen = self._random.sample(meta, min(EXTRA_META, len(meta)))
        newest = sorted(self.packs, key=lambda pack: pack.pack_no)[-EXTRA_NEWEST:]
        for pack in {pack.pack_no: pack for pack in (*chosen, *newest)}.values():
            length = sum(block.sealed_len for block in self._index.blocks_of(pack.pack_no))
            yield self._sample(pack, self._random.randrange(length), is_extra=True)

    def _sample(self, pack: PackInfo, place: int, *, is_extra: bool) -> _Sample:
        blocks = self._index.blocks_of(pack.pack_no)
        ends = list(accumulate(block.sealed_len for block in blocks))
        return _Sample(pack, blocks[bisect_right(ends, place)], is_extra)


def _problem(archive: Archive, pack: PackInfo, block: BlockInfo) -> str:
    """Fetch a block from the store and verify every chunk of it; "" when all is right."""
    what = f"pack {short_hex(pack.pack_id)}"
    try:
        sealed = archive.store.get(Kind.DATA, pack.pack_id, block.offset, block.sealed_len)
        opener = Opener(archive.keys, pack.header, what)
        plain = bytes(decode_block(opener, block, sealed))
    except (DataError, ObjectNotFound) as exc:
        return str(exc)
    keys = archive.keys
    for place, chunk_id in enumerate(block.chunk_ids):
        chunk = plain[block.chunk_offsets[place] : block.chunk_offsets[place + 1]]
        ids: Sequence[bytes] = (
            (keys.tree_id(chunk), keys.span_node_id(chunk))
            if pack.is_meta
            else (keys.chunk_id(chunk),)
        )
        if chunk_id not in ids:
            return (
                f"{what}: block {block.ordinal} holds other content than its ids say, though its "
                f"tag is right: writer {short_hex(pack.writer_id)} stored it so"
            )
    return ""


def audits_text(audits: Sequence[AuditResult]) -> str:
    """Say how the last of *audits* (oldest first) went, and those before it; "" if none."""
    if not audits:
        return ""
    *before, last = audits
    day = time.strftime("%Y-%m-%d", time.localtime(last.time_ns / 1e9))
    text = f"{day}: " + (
        f"passed ({last.samples:,} samples)"
        if last.is_passed
        else f"FAILED ({last.bad_packs:,} packs missing or damaged)"
    )
    if before:
        failed = sum(not audit.is_passed for audit in before)
        text += f"; {len(before):,} before it, " + (
            f"{failed:,} failed" if failed else "all passed"
        )
    return text


def past_audits(folder: Path) -> list[AuditResult]:
    """Return the kept results of earlier audits, oldest first (CoopfsError)."""
    return kept_results(folder, Kept.AUDITS, AuditResult)
