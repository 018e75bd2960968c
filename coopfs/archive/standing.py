"""Which packs may be relied on: not those marked by a prune, lost, or a distrusted writer's.

Owns these facts in the local state, which all processes of this host share, what was
verified here, and which packs are listed in several ways.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from coopfs.archive.index_rows import drop_pack, listing_digest
from coopfs.archive.state import State
from coopfs.format.index import IndexedPack
from coopfs.ids import PackId, WriterId

MARKED: Final = "marked by a prune"  # a reason in lost_packs; for ever


class PackStanding:
    """See the module; the index is one."""

    def __init__(self, state: State) -> None:
        """Use the tables of *state*."""
        self._state = state

    def reload(self) -> None:
        """Forget what is remembered of the tables; they have changed."""

    @property
    def generation(self) -> int:
        """Grows whenever a pack leaves the index, is marked or is lost."""
        return self._state.fact("generation")

    # --- whom and what not to rely on -------------------------------------------

    def unusable(self) -> frozenset[int]:
        """Return the numbers of the packs that nothing may rely on."""
        connection = self._state.connection
        lost = connection.execute("SELECT pack_no FROM packs JOIN lost_packs USING (pack_id)")
        found = {row[0] for row in lost.fetchall()}
        writers = connection.execute("SELECT writer_id FROM distrusted_writers").fetchall()
        return frozenset(found | self.packs_by([row[0] for row in writers]))

    def packs_by(self, writer_ids: Collection[bytes]) -> set[int]:
        """Return the numbers of the packs that are these writers', or of which only these say so.

        A listing may bear any writer's id: what counts then is whose word it is.
        """
        if not writer_ids:
            return set()
        theirs: set[int] = set()
        others: set[int] = set()
        for pack_no, owner, lister in self._state.connection.execute(
            "SELECT pack_no, packs.writer_id, index_objects.writer_id FROM packs"
            " JOIN pack_listings USING (pack_no) JOIN index_objects USING (object_no)"
        ):
            (theirs if lister in writer_ids else others).add(pack_no)
            if owner in writer_ids:
                theirs.add(pack_no)
                others.discard(pack_no)
        return theirs - others

    def marked(self) -> set[PackId]:
        """Return every pack a prune has marked, whether it is still there or not."""
        rows = self._state.connection.execute(
            "SELECT pack_id FROM lost_packs WHERE reason = ?", (MARKED,)
        )
        return {PackId(row[0]) for row in rows.fetchall()}

    def distrust(self, writer_ids: Collection[WriterId]) -> None:
        """Rely on no pack of exactly these writers; chunks are read from them if nowhere else."""
        rows = self._state.connection.execute("SELECT writer_id FROM distrusted_writers")
        if {row[0] for row in rows.fetchall()} == set(writer_ids):
            return
        with self._state.transaction() as connection:
            connection.execute("DELETE FROM distrusted_writers")
            connection.executemany(
                "INSERT INTO distrusted_writers VALUES (?)", [(name,) for name in writer_ids]
            )
            self._bump_generation()
        self.reload()

    def mark_lost(self, pack_id: PackId, reason: str) -> None:
        """Stop relying on a pack that is gone or damaged; the next snapshot sends it again."""
        self.mark_all_lost({pack_id: reason})

    def mark_all_lost(self, reasons: Mapping[PackId, str]) -> None:
        """Do as :meth:`mark_lost` of several, at once; a prune's mark stays what it is."""
        if not reasons:
            return
        with self._state.transaction() as connection:
            connection.executemany(
                "INSERT INTO lost_packs VALUES (?, ?) ON CONFLICT (pack_id) DO UPDATE"
                " SET reason = excluded.reason WHERE reason != ?",
                [(pack_id, reason, MARKED) for pack_id, reason in reasons.items()],
            )
            self._bump_generation()
        self.reload()

    def is_sound(self, block_no: int) -> bool:
        """Tell whether the block's chunks were verified here."""
        row = self._state.connection.execute(
            "SELECT 1 FROM sound_blocks WHERE block_no = ?", (block_no,)
        ).fetchone()
        return row is not None

    def note_sound(self, block_nos: Iterable[int]) -> None:
        """Remember that all chunks of these blocks are what their ids say."""
        with self._state.transaction() as connection:
            connection.executemany(
                "INSERT OR IGNORE INTO sound_blocks VALUES (?)", [(no,) for no in block_nos]
            )

    def lost(self) -> dict[PackId, str]:
        """Return the packs found damaged or gone, and why; not those a prune has marked."""
        rows = self._state.connection.execute(
            "SELECT pack_id, reason FROM lost_packs WHERE reason != ?", (MARKED,)
        )
        return {PackId(pack_id): reason for pack_id, reason in rows.fetchall()}

    def mark_found(self, pack_ids: Iterable[PackId]) -> None:
        """Rely again on packs that were lost and are whole; a prune's mark stays."""
        with self._state.transaction() as connection:
            connection.executemany(
                "DELETE FROM lost_packs WHERE pack_id = ? AND reason != ?",
                [(pack_id, MARKED) for pack_id in pack_ids],
            )
        self.reload()

    # --- packs that are listed in several ways ----------------------------------

    def contradicted(self, admin_id: WriterId) -> list[PackId]:
        """Return the packs that several writers, or the admin, list in ways which differ.

        What one writer says of packs that nobody else lists is its own affair.
        """
        connection = self._state.connection
        rows = connection.execute(
            "SELECT pack_id FROM packs GROUP BY pack_id HAVING COUNT(*) > 1"
        ).fetchall()
        found = []
        for (pack_id,) in rows:
            listers = connection.execute(
                "SELECT DISTINCT index_objects.writer_id FROM packs JOIN pack_listings"
                " USING (pack_no) JOIN index_objects USING (object_no) WHERE pack_id = ?",
                (pack_id,),
            ).fetchall()
            if len(listers) > 1 or (admin_id,) in listers:
                found.append(PackId(pack_id))
        return found

    def has_listing(self, pack: IndexedPack) -> bool | None:
        """Tell whether the pack is listed in exactly this way; None: it is not listed at all."""
        rows = self._state.connection.execute(
            "SELECT listing FROM packs WHERE pack_id = ?", (pack.pack_id,)
        ).fetchall()
        return (listing_digest(pack),) in rows if rows else None

    def drop_other_listings(self, pack: IndexedPack) -> set[WriterId]:
        """Drop every listing of the pack but this one; return whose index objects had them."""
        with self._state.transaction() as connection:
            rows = connection.execute(
                "SELECT pack_no, index_objects.writer_id FROM packs"
                " LEFT JOIN pack_listings USING (pack_no) LEFT JOIN index_objects USING (object_no)"
                " WHERE pack_id = ? AND listing != ?",
                (pack.pack_id, listing_digest(pack)),
            ).fetchall()
            for pack_no in {row[0] for row in rows}:
                connection.execute("DELETE FROM pack_listings WHERE pack_no = ?", (pack_no,))
                drop_pack(connection, pack_no)
            if rows:
                self._bump_generation()
        if rows:
            self.reload()
        return {WriterId(row[1]) for row in rows if row[1] is not None}

    def _bump_generation(self) -> None:
        self._state.connection.execute(
            "INSERT INTO facts VALUES ('generation', 1)"
            " ON CONFLICT (name) DO UPDATE SET value = value + 1"
        )
