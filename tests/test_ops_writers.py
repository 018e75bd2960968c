"""A second host joins: by a code that may be read, but not altered, on its way."""

from __future__ import annotations

from pathlib import Path

import pytest
from hosts import Host, everything_below
from hypothesis import given
from hypothesis import strategies as st

from coopfs.errors import CoopfsError, UsageError
from coopfs.format.keys import SigningKey
from coopfs.ids import ArchiveId
from coopfs.ops.writers import WriterRequest, decode_request, encode_request

REQUEST = WriterRequest(ArchiveId(bytes(range(16))), bytes(range(32)), "bob.example-1")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def anna(tmp_path: Path, store: Path) -> Host:
    host = Host(tmp_path / "anna", "anna")
    host.init(store, "--recovery-kit", tmp_path / "kit")
    sheets = (tmp_path / "kit").read_text().split("\f")
    (tmp_path / "archive-sheet").write_text(sheets[0])
    (tmp_path / "admin-sheet").write_text(sheets[1])
    return host


@pytest.fixture
def bob(tmp_path: Path) -> Host:
    return Host(tmp_path / "bob", "bob")


def request_code(bob: Host, store: Path, name: str = "bob") -> str:
    sheet = bob.base.parent / "archive-sheet"
    ran = bob.ok(
        *("--json", "writer", "request", store, "--host", name),
        *("--no-passphrase", "--recovery-kit", sheet),
    )
    code: str = ran.lines()[0]["code"]
    return code


# --- the code -----------------------------------------------------------------


@given(
    archive_id=st.binary(min_size=16, max_size=16),
    key=st.binary(min_size=32, max_size=32),
    host=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9.-]{0,127}", fullmatch=True),
)
def test_a_code_carries_archive_key_and_host(archive_id: bytes, key: bytes, host: str) -> None:
    request = WriterRequest(ArchiveId(archive_id), key, host)
    assert decode_request(encode_request(request)) == request


def test_a_code_is_one_word_for_the_shell_and_survives_mail() -> None:
    code = encode_request(REQUEST)
    assert code.isalnum()
    assert code == code.lower()
    wrapped = "\r\n".join(code.upper()[i : i + 20] for i in range(0, len(code), 20))
    assert decode_request(f"  {wrapped}\n") == REQUEST
    assert decode_request("-".join(code)) == REQUEST


@given(data=st.data())
def test_a_mistyped_or_torn_code_is_noticed(data: st.DataObject) -> None:
    code = list(encode_request(REQUEST))
    place = data.draw(st.integers(0, len(code) - 2))  # the last letter has bits of no meaning
    letter = data.draw(st.sampled_from("abcdefghijklmnopqrstuvwxyz234567"))
    if letter == code[place]:
        del code[place:]
    else:
        code[place] = letter
    with pytest.raises(UsageError, match="not a whole request code"):
        decode_request("".join(code))


@pytest.mark.parametrize("text", ["", "x", "ä" * 80, "a" * 5000, "1" * 80])
def test_what_is_no_code_is_said_so(text: str) -> None:
    with pytest.raises(UsageError, match="not a whole request code"):
        decode_request(text)


def test_a_code_for_an_impossible_host_is_refused() -> None:
    code = encode_request(WriterRequest(REQUEST.archive_id, REQUEST.public_key, "../bob"))
    with pytest.raises(UsageError, match="only letters"):
        decode_request(code)


# --- joining ------------------------------------------------------------------


def test_a_second_host_writes_once_it_is_enrolled(
    anna: Host, bob: Host, store: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_bytes(b"content " * 1000)
    anna.ok("snapshot", source)
    code = request_code(bob, store)
    assert "anna" in bob.ok("snapshots").out  # it reads at once
    ran = bob.run("snapshot", source)
    assert ran.code == 12
    assert "not enrolled" in ran.err
    anna.ok("writer", "enrol", code)
    bob.ok("snapshot", source)
    seen = [(s["host"], s["series"]) for s in anna.ok("snapshots", "--json").lines()[:-1]]
    assert seen == [("anna", "source"), ("bob", "source")]
    fingerprints = {h.ok("snapshots", "--json").lines()[-1]["fingerprint"] for h in (anna, bob)}
    assert len(fingerprints) == 1


def test_the_new_host_has_the_archive_key_and_a_writer_key_of_its_own(
    anna: Host, bob: Host, store: Path
) -> None:
    request_code(bob, store)
    kept = b"".join(everything_below(bob.dirs.config).values())
    admin_words = anna.ok("key", "export", "--json").lines()[0]
    shown = bob.ok("key", "export", "--json").lines()[0]
    assert shown["archive_key_words"] == admin_words["archive_key_words"]
    assert "admin_key_words" not in shown
    writers = [
        {(w["host"], w["is_this_host"]) for w in h.ok("writer", "list", "--json").lines()}
        for h in (anna, bob)
    ]
    assert writers == [{("anna", True)}, {("anna", False)}]
    assert len(kept) < 1000


def test_a_request_writes_nothing_into_the_store(anna: Host, bob: Host, store: Path) -> None:
    before = everything_below(store)
    request_code(bob, store)
    assert everything_below(store) == before


def test_the_same_request_gives_the_same_code(anna: Host, bob: Host, store: Path) -> None:
    code = request_code(bob, store)
    before = everything_below(bob.dirs.config)
    again = bob.ok("--json", "writer", "request", store).lines()[0]
    assert again["code"] == code
    assert not again["is_new"]
    assert everything_below(bob.dirs.config) == before


def test_enrolling_twice_is_done_once(anna: Host, bob: Host, store: Path) -> None:
    code = request_code(bob, store)
    anna.ok("writer", "enrol", code)
    before = everything_below(store)
    anna.ok("writer", "enrol", code)
    assert everything_below(store) == before
    hosts = [w["host"] for w in anna.ok("writer", "list", "--json").lines()]
    assert hosts == ["anna", "bob"]


def test_a_second_machine_of_a_known_name_needs_a_decision(
    anna: Host, bob: Host, store: Path, tmp_path: Path
) -> None:
    code = request_code(bob, store, "anna")
    before = everything_below(store)
    ran = anna.run("writer", "enrol", code)
    assert ran.code == 2
    assert "--again" in ran.err
    assert everything_below(store) == before
    anna.ok("writer", "enrol", "--again", code)
    hosts = [w["host"] for w in anna.ok("writer", "list", "--json").lines()]
    assert hosts == ["anna", "anna"]


def test_a_host_without_the_admin_key_cannot_enrol(anna: Host, bob: Host, store: Path) -> None:
    code = request_code(bob, store)
    before = everything_below(store)
    ran = bob.run("writer", "enrol", code)
    assert ran.code == 12
    assert "admin key" in ran.err
    assert everything_below(store) == before


def test_the_admin_key_may_be_used_once_from_its_sheet(
    anna: Host, bob: Host, store: Path, tmp_path: Path
) -> None:
    anna.ok("key", "offline", "--recovery-kit", tmp_path / "admin-sheet")
    code = request_code(bob, store)
    assert anna.run("writer", "enrol", code).code == 12
    wrong = anna.run("writer", "enrol", code, "--recovery-kit", tmp_path / "archive-sheet")
    assert (wrong.code, "the sheet of the admin key is not in it" in wrong.err) == (2, True)
    anna.ok("writer", "enrol", code, "--recovery-kit", tmp_path / "admin-sheet")
    assert "admin.key" not in str(list(everything_below(anna.dirs.config)))
    assert [w["host"] for w in bob.ok("writer", "list", "--json").lines()] == ["anna", "bob"]


def test_a_code_of_another_archive_is_refused(
    anna: Host, bob: Host, store: Path, tmp_path: Path
) -> None:
    code = encode_request(
        WriterRequest(ArchiveId(bytes(16)), SigningKey(bytes(32)).public_key, "x")
    )
    ran = anna.run("writer", "enrol", code)
    assert ran.code == 12
    assert "--archive" in ran.err


def test_a_wrong_key_joins_nothing(anna: Host, bob: Host, store: Path, tmp_path: Path) -> None:
    other = Host(tmp_path / "carl", "carl")
    other.init(tmp_path / "other-store", "--recovery-kit", tmp_path / "other-kit")
    ran = bob.run("writer", "request", store, "--recovery-kit", tmp_path / "other-kit")
    assert ran.code == 12
    assert "not made with this key" in ran.err
    assert not bob.dirs.config.exists()


def test_the_wrong_sheet_is_recognised(anna: Host, bob: Host, store: Path, tmp_path: Path) -> None:
    ran = bob.run("writer", "request", store, "--recovery-kit", tmp_path / "admin-sheet")
    assert (ran.code, "the sheet of the archive key is not in it" in ran.err) == (2, True)
    words = anna.ok("key", "export", "--json").lines()[0]["admin_key_words"]
    ran = bob.run("writer", "request", store, stdin=words)
    assert (ran.code, "the words of the admin key" in ran.err) == (12, True)
    assert not bob.dirs.config.exists()


def test_words_on_standard_input_are_enough(anna: Host, bob: Host, store: Path) -> None:
    words = anna.ok("key", "export", "--json").lines()[0]["archive_key_words"]
    bob.ok("writer", "request", store, "--no-passphrase", "--host", "bob", stdin=words)
    assert bob.ok("writer", "list").out.startswith("HOST")


def test_a_kit_with_both_keys_is_warned_about(
    anna: Host, bob: Host, store: Path, tmp_path: Path
) -> None:
    ran = bob.ok("writer", "request", store, "--no-passphrase", "--recovery-kit", tmp_path / "kit")
    assert "delete it here" in ran.err
    assert "admin.key" not in str(list(everything_below(bob.dirs.config)))


def test_there_is_nothing_to_join_where_there_is_no_archive(bob: Host, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for place in ("nowhere", "empty"):
        ran = bob.run("writer", "request", tmp_path / place)
        assert ran.code == 10, ran.err
    assert not bob.dirs.config.exists()


def test_a_name_that_stands_for_another_archive_is_refused(
    anna: Host, store: Path, tmp_path: Path
) -> None:
    other = Host(tmp_path / "carl", "carl")
    other.init(tmp_path / "other-store")
    ran = other.run("writer", "request", store)
    assert ran.code == 2
    assert "another name with --archive" in ran.err


def test_a_stranger_with_only_the_store_enrols_nobody(
    anna: Host, bob: Host, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record signed by another key than the admin's does not count."""
    from coopfs.archive.archive import Archive
    from coopfs.archive.keyring import load_keyring
    from coopfs.archive.settings import load_settings
    from coopfs.format.keys import Role
    from coopfs.format.records import Enrolment, encode_enrolment
    from coopfs.ops.init import put_signed
    from coopfs.store.open import open_store

    request_code(bob, store)
    settings = load_settings(bob.dirs, None)
    ring = load_keyring(bob.dirs, settings, str)
    own = ring.writer()
    assert own is not None
    forged = Enrolment(own.writer_id, own.public_key, "bob", 0)
    with Archive.open(bob.dirs, settings, ring, open_store(settings.store)) as archive:
        put_signed(archive.store, ring, own, Role.ENROLMENT, encode_enrolment(forged))
    ran = anna.ok("writer", "list", "--json")
    assert [w["host"] for w in ran.lines()] == ["anna"]
    assert "warning" in ran.err
    (tmp_path / "file").write_text("x")
    assert bob.run("snapshot", tmp_path / "file").code == 12


def test_the_error_of_a_bad_request_is_not_a_traceback(bob: Host, tmp_path: Path) -> None:
    with pytest.raises(CoopfsError):
        decode_request("")
    ran = bob.run("writer", "enrol", "abc")
    assert ran.code == 2
    assert "Traceback" not in ran.err
