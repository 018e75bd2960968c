"""A key published in the store: who can use it, who cannot, and what is left of it."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest
from hosts import Host, everything_below

from coopfs.archive.kit import read_kit_file
from coopfs.errors import StoreDenied, UsageError
from coopfs.format.wrapping import (
    SCRYPT_PUBLISHED,
    SCRYPT_WORK_MAX,
    KeyPurpose,
    ScryptParams,
    Secrets,
    decode_key_file,
    encode_key_file,
    unwrap,
)
from coopfs.ids import ArchiveId
from coopfs.ops.publish import SLOTS_MAX, check_strength, make_passphrase
from coopfs.store.local import LocalStore

pytestmark = pytest.mark.usefixtures("cheap_scrypt")

STRONG = "seven words that dice have chosen"
OTHER = "plate entire heart will gravity"


class Published:
    """Anna, her archive with a snapshot, and a machine that has nothing."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.store = base / "store"
        self.anna = Host(base / "anna")
        self.empty = Host(base / "empty")
        self.anna.init(self.store, "--recovery-kit", base / "kit")
        (base / "source").mkdir()
        (base / "source" / "file").write_bytes(b"precious" * 5000)
        self.anna.ok("snapshot", base / "source")
        for name, text in (("strong", STRONG), ("other", OTHER)):
            (base / name).write_text(f"{text}\n")
        (base / "admin sheet").write_text((base / "kit").read_text().split("\f")[1])

    def publish(self, name: str = "strong") -> Path:
        """Publish under the passphrase in the file *name*; return the object."""
        (facts,) = self.anna.ok(
            "key", "publish", "--json", "--new-passphrase-file", self.base / name
        ).lines()
        path: Path = self.store / "keys" / facts["id"]
        assert path.is_file()
        return path

    def recover(self, name: str = "strong") -> tuple[object, ...]:
        return ("recover", self.store, "--published", "--passphrase-file", self.base / name)

    def put(self, data: bytes) -> None:
        """Put an object under ``keys/``, as anybody can who may write there."""
        (self.store / "keys" / hashlib.sha256(data).hexdigest()).write_bytes(data)

    @property
    def archive_id(self) -> ArchiveId:
        (facts,) = self.anna.ok("archive", "list", "--json").lines()
        return ArchiveId(bytes.fromhex(facts["archive_id"]))


@pytest.fixture
def lab(tmp_path: Path) -> Published:
    return Published(tmp_path)


def test_nothing_is_published_unless_it_is_asked_for(lab: Published) -> None:
    assert list((lab.store / "keys").iterdir()) == []
    ran = lab.empty.run(*lab.recover())
    assert (ran.code, "no key of this archive is published" in ran.err) == (1, True)
    assert not lab.empty.base.exists()


def test_passphrase_and_address_are_all_an_empty_machine_needs(lab: Published) -> None:
    lab.publish()
    shutil.rmtree(lab.anna.base)
    ran = lab.empty.run(*lab.recover("other"))
    assert (ran.code, "wrong passphrase" in ran.err) == (12, True)
    assert not lab.empty.base.exists()

    (facts,) = lab.empty.ok(*lab.recover(), "--json").lines()
    assert (facts["snapshots"], facts["is_writer"]) == (1, False)
    # The keys here are wrapped with the same passphrase.
    assert lab.empty.run("snapshots").code == 2
    secret = ("--passphrase-file", lab.base / "strong")
    source = f"latest:{lab.base}/source"
    lab.empty.ok("restore", source, "--target", lab.base / "back", *secret)
    assert (lab.base / "back" / "file").read_bytes() == b"precious" * 5000
    # It reads; it can neither write nor delete, as the admin key is not in the store.
    assert lab.empty.run("snapshot", lab.base / "source", *secret).code == 12
    assert lab.empty.run("forget", "latest", *secret).code == 12
    lab.empty.ok(*lab.recover())  # and the same again
    kit = ("--recovery-kit", lab.base / "admin sheet")
    (facts,) = lab.empty.ok(*lab.recover(), *kit, "--json").lines()
    assert facts["is_writer"]
    lab.empty.ok("snapshot", lab.base / "source", *secret)


def test_the_keys_may_be_kept_unwrapped_after_that(lab: Published) -> None:
    lab.publish()
    lab.empty.ok(*lab.recover(), "--no-passphrase")
    lab.empty.ok("snapshots")


def test_only_the_archive_key_is_published_and_dearly_wrapped(lab: Published) -> None:
    data = lab.publish().read_bytes()
    secrets = unwrap(decode_key_file(data, "test"), STRONG, "test")
    kit = read_kit_file(lab.base / "kit")
    assert secrets == Secrets(kit.archive_key or b"", None)
    assert secrets.key not in data
    assert len(data) < 200  # there is no room for another key
    # What is written outside of tests is as dear as a reader allows.
    cost = SCRYPT_PUBLISHED
    assert cost.r * cost.p << cost.log_n == SCRYPT_WORK_MAX
    assert (128 * cost.r) << cost.log_n == 256 << 20


def test_a_weak_passphrase_is_refused_and_nothing_put(lab: Published) -> None:
    path = lab.base / "weak"
    before = everything_below(lab.store)
    for weak in ("", "correct horse", "x" * 19, "abababababababababababab"):
        path.write_text(f"{weak}\n")
        ran = lab.anna.run("key", "publish", "--new-passphrase-file", path)
        assert ran.code == (2 if weak else 1)
        assert ("--generate" in ran.err) == bool(weak)
    assert everything_below(lab.store) == before


def test_what_chance_has_chosen_is_strong_enough_and_shown_once(lab: Published) -> None:
    assert make_passphrase() != make_passphrase()
    for _ in range(50):
        check_strength(make_passphrase())
    with pytest.raises(UsageError):
        check_strength("e\u0301" * 19)  # 19 characters, however they are spelt
    shown = lab.anna.ok("key", "publish", "--generate", "--quiet").out
    assert len(shown.split()) == 7
    (lab.base / "made").write_text(shown)
    (facts,) = lab.anna.ok("key", "publish", "--generate", "--json").lines()
    assert len(facts["passphrase"].split()) == 7
    lab.empty.ok(*lab.recover("made"))


def test_without_a_passphrase_and_a_terminal_nothing_is_published(lab: Published) -> None:
    ran = lab.anna.run("key", "publish")
    assert (ran.code, "--generate" in ran.err) == (2, True)
    both = ("--generate", "--new-passphrase-file", lab.base / "strong")
    assert lab.anna.run("key", "publish", *both).code == 2


def test_the_same_passphrase_again_changes_nothing_another_is_added(lab: Published) -> None:
    first = lab.publish()
    assert lab.publish() == first
    second = lab.publish("other")
    assert second != first
    found = lab.anna.run("doctor", "--json").lines()
    (note,) = [line for line in found if "keys-in-store" in line.values()]
    assert "2 keys" in note["message"]
    listed = [line["id"] for line in lab.anna.ok("key", "list", "--json").lines() if "id" in line]
    assert sorted(listed) == sorted((first.name, second.name))
    assert f"keys/{first.name[:16]}" in lab.anna.ok("key", "list").out
    lab.empty.ok(*lab.recover("other"))

    ran = lab.anna.run("key", "withdraw", "0000ffff")
    assert (ran.code, "no published key of that id" in ran.err) == (1, True)
    assert "trash" in lab.anna.ok("key", "withdraw", second.name[:12]).out
    assert [path.name for path in (lab.store / "keys").iterdir()] == [first.name]
    lab.anna.ok("key", "withdraw")
    assert list((lab.store / "keys").iterdir()) == []
    ran = lab.anna.run("key", "withdraw")
    assert (ran.code, "no key is published" in ran.err) == (1, True)


def test_a_forged_or_foreign_object_is_passed_over_and_said(lab: Published) -> None:
    cheap = ScryptParams(log_n=4)
    key, random = Secrets(b"k" * 32), os.urandom(32)
    unwrapped = encode_key_file(KeyPurpose.ADMIN, lab.archive_id, key, None, random)
    foreign = encode_key_file(
        KeyPurpose.PUBLISHED, ArchiveId(bytes(16)), key, STRONG, random, cheap
    )
    host = encode_key_file(
        KeyPurpose.HOST, lab.archive_id, Secrets(key.key, key.key), STRONG, random, cheap
    )
    for data in (unwrapped, foreign, host, b"x" * 100_000, b"something"):
        lab.put(data)
    (lab.store / "keys" / ("5e" * 32)).write_bytes(foreign)  # by another's name
    ran = lab.empty.run(*lab.recover())
    assert ran.code == 1
    for said in ("of archive 00000000", "not for a store", "100000 bytes", "exchanged"):
        assert said in ran.err
    # With one that does open but holds another key the archive is not believed.
    lab.put(encode_key_file(KeyPurpose.PUBLISHED, lab.archive_id, key, STRONG, random, cheap))
    ran = lab.empty.run(*lab.recover())
    assert (ran.code, "not made with this key" in ran.err) == (12, True)
    assert not lab.empty.base.exists()
    lab.publish("other")
    lab.empty.ok(*lab.recover("other"))


def test_no_more_keys_are_published_than_are_looked_at(lab: Published) -> None:
    for number in range(SLOTS_MAX):
        lab.put(b"%d" % number)
    strong = ("--new-passphrase-file", lab.base / "strong")
    ran = lab.anna.run("key", "publish", *strong)
    assert (ran.code, "coopfs key withdraw" in ran.err) == (2, True)


def test_where_nothing_may_be_deleted_the_key_stays_and_that_is_said(
    lab: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = lab.publish()

    def refuse(*_: object) -> None:
        raise StoreDenied("append-only")

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "delete", refuse)
        ran = lab.anna.run("key", "withdraw", "--json")
    assert (ran.code, "stays" in ran.err) == (1, True)
    assert ran.lines() == [
        {"type": "withdrawn", "gone": [], "left": [path.name], "denial": "append-only"}
    ]
    assert path.exists()
