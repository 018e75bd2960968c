"""What partners have signed, kept for a dispute."""

from __future__ import annotations

import logging
import sqlite3
import time
from dataclasses import replace
from pathlib import Path

import pytest
from store_suite import in_threads

from coopfs.dirs import Dirs
from coopfs.errors import ConfigError, UsageError
from coopfs.format.keys import SIGNATURE_LEN, SigningKey
from coopfs.format.receipt import Receipt, open_receipt, sign_receipt
from coopfs.ids import ObjectId
from coopfs.store.receipts import ReceiptBook, ReceiptSums, SignedReceipt

SERVER, ITS_NEXT_KEY = SigningKey(b"s" * 32), SigningKey(b"n" * 32)


def signed(number: int, time_ns: int = 5, *, signer: SigningKey = SERVER) -> SignedReceipt:
    receipt = Receipt("data", ObjectId(number.to_bytes(32, "big")), 16 << 20, time_ns)
    data = sign_receipt(receipt, signer)
    return SignedReceipt(receipt, data[-SIGNATURE_LEN:], signer.public_key)


@pytest.fixture
def dirs(tmp_path: Path) -> Dirs:
    return Dirs(tmp_path / "config", tmp_path / "state", tmp_path / "cache")


@pytest.fixture
def book(dirs: Dirs) -> ReceiptBook:
    return ReceiptBook(dirs, "berta")


def test_what_was_signed_can_be_shown_to_anybody(dirs: Dirs, book: ReceiptBook) -> None:
    book.keep(signed(1, time_ns=7))
    book.keep(signed(2, time_ns=6, signer=ITS_NEXT_KEY))  # the server was set up anew
    book.close()
    kept = ReceiptBook(dirs, "berta").receipts()
    assert kept == [signed(2, time_ns=6, signer=ITS_NEXT_KEY), signed(1, time_ns=7)]
    for one in kept:
        assert open_receipt(one.data, one.public_key, "it") == one.receipt
    assert book.sums() == ReceiptSums(2, 2 * (16 << 20), 7)
    assert ReceiptBook(dirs, "anna").sums() == ReceiptSums(0, 0, None)


def test_the_last_word_about_an_object_is_kept_and_none_about_a_deleted_one(
    book: ReceiptBook,
) -> None:
    book.drop(signed(1).receipt.name)
    assert not book.path.exists()
    for time_ns in (5, 6):
        book.keep(signed(1, time_ns))
    book.keep(signed(2))
    assert book.receipts() == [signed(2), signed(1, 6)]
    book.drop(signed(1).receipt.name)
    assert book.receipts() == [signed(2)]


def test_receipts_are_found_by_name_and_date(book: ReceiptBook) -> None:
    for number in (0xAB << 248, 0xAC << 248, 0xBB << 248):
        book.keep(signed(number, time_ns=number >> 248))
    assert [r.receipt.time_ns for r in book.receipts(["data/A", "bb00"])] == [0xAB, 0xAC, 0xBB]
    assert [r.receipt.time_ns for r in book.receipts(["ab0"])] == [0xAB]
    assert [r.receipt.time_ns for r in book.receipts(since_ns=0xAC)] == [0xAC, 0xBB]
    assert book.receipts(["cd"]) == []
    for wrong in ("x", "", "ab' OR 1", "a*", "0" * 65):
        with pytest.raises(UsageError, match="is no object"):
            book.receipts([wrong])


def test_threads_and_processes_keep_them_at_once(dirs: Dirs, book: ReceiptBook) -> None:
    books = [book, ReceiptBook(dirs, "berta")]
    in_threads(lambda number: books[number % 2].keep(signed(number)), range(200))
    assert book.sums().count == 200


def test_keeping_one_costs_little_and_takes_little_room(book: ReceiptBook) -> None:
    begun = time.monotonic()
    for number in range(2000):
        book.keep(signed(number << 200))
    assert (time.monotonic() - begun) / 2000 < 0.01  # of the 100 ms and more a pack takes
    book.close()
    assert book.path.stat().st_size / 2000 < 250


def test_a_book_that_cannot_be_written_is_told_once_and_stops_nobody(
    book: ReceiptBook, caplog: pytest.LogCaptureFixture
) -> None:
    book.path.parent.mkdir(parents=True)
    book.path.write_bytes(b"no database at all, for " + bytes(2000))
    with caplog.at_level(logging.WARNING):
        book.keep(signed(1))
        book.keep(signed(2))
    assert [record.message.partition(": ")[0] for record in caplog.records] == [str(book.path)]
    with pytest.raises(ConfigError, match="cannot be read"):
        book.receipts()


def test_a_book_of_a_newer_version_is_left_alone(book: ReceiptBook) -> None:
    book.keep(signed(1))
    book.close()
    with sqlite3.connect(book.path) as connection:
        connection.execute("PRAGMA user_version = 2")
    with pytest.raises(ConfigError, match="of version 2; expected 1"):
        book.receipts()
    book.keep(replace(signed(2)))
    with sqlite3.connect(book.path) as connection:
        assert connection.execute("SELECT count(*) FROM receipts").fetchone() == (1,)
