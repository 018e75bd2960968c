"""`coopfs init`: an archive appears whole, or the same command goes on."""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hosts import Host, everything_below

from coopfs.archive.archive import Archive
from coopfs.archive.keyring import load_keyring
from coopfs.archive.kit import read_kit_file
from coopfs.archive.settings import load_settings
from coopfs.errors import ConfigError, CoopfsError, NotAStore, StoreError, StoreFull, UsageError
from coopfs.format.chunker import ChunkerParams
from coopfs.format.keys import SigningKey
from coopfs.ops import init
from coopfs.ops.init import InitRequest, InitResult, init_archive
from coopfs.store.base import Kind, Store
from coopfs.store.faulty import FaultyStore, SimulatedCrash
from coopfs.store.open import open_store

pytestmark = pytest.mark.usefixtures("cheap_scrypt")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "anna")


@pytest.fixture
def request_(tmp_path: Path) -> InitRequest:
    params = ChunkerParams.for_average(64 << 10)
    return InitRequest("home", str(tmp_path / "store"), "anna", params, tmp_path / "kit")


def never(*args: str) -> str:
    raise AssertionError("asked for a passphrase")


def make(host: Host, request_: InitRequest, passphrase: str | None = None) -> InitResult:
    return init_archive(host.dirs, request_, lambda: passphrase, lambda prompt: passphrase or "")


def opened(host: Host, passphrase: Callable[[str], str] = never) -> Archive:
    settings = load_settings(host.dirs, "home")
    ring = load_keyring(host.dirs, settings, passphrase)
    return Archive.open(host.dirs, settings, ring, open_store(settings.store))


def assert_usable(host: Host, writers: int = 1) -> None:
    with opened(host) as archive:
        archive.refresh()
        assert archive.warnings == []
        assert archive.snapshots() == []
        assert list(archive.objects.writers()) == [archive.ring.writer_id] * writers


def test_an_archive_can_be_opened_by_the_host_that_made_it(
    host: Host, request_: InitRequest
) -> None:
    result = make(host, replace(request_, chunker=ChunkerParams.for_average(1 << 20)))
    assert_usable(host)
    with opened(host) as archive:
        assert archive.config == result.config
        assert archive.config.chunker.avg_len == 1 << 20
        admin = archive.ring.admin()
        assert admin is not None
        assert admin.public_key == archive.config.admin_public_key
    assert not result.is_resumed


def test_the_enrolment_names_host_and_key(host: Host, request_: InitRequest) -> None:
    make(host, request_)
    with opened(host) as archive:
        archive.refresh()
        (record,) = archive.objects.writers().values()
        writer = archive.ring.writer()
        assert writer is not None
        assert (record.host, record.public_key) == ("anna", writer.public_key)


def test_keys_differ_from_archive_to_archive_and_from_each_other(tmp_path: Path) -> None:
    keys = set()
    for name in ("anna", "bob"):
        host = Host(tmp_path / name)
        store = str(tmp_path / f"store-{name}")
        kit = make(host, InitRequest("home", store, name, ChunkerParams())).kit
        with opened(host) as archive:
            writer = archive.ring.writer()
            assert writer is not None
            keys |= {kit.archive_key, kit.admin_key, writer.seed, bytes(archive.config.archive_id)}
    assert len(keys) == 8


def test_nothing_secret_is_put_into_the_store(host: Host, request_: InitRequest) -> None:
    result = make(host, request_, "correct horse")
    stored = b"".join(everything_below(Path(request_.store)).values())
    assert result.kit.admin_key is not None
    for secret in (result.kit.archive_key, result.kit.admin_key, b"correct horse", b"anna"):
        assert secret not in stored
    assert SigningKey(result.kit.admin_key).public_key in stored


def test_the_store_holds_the_config_and_two_records(host: Host, request_: InitRequest) -> None:
    make(host, request_)
    with open_store(request_.store) as store:
        assert len(list(store.list(Kind.SNAPSHOTS))) == 2
        assert not list(store.list(Kind.KEYS)) + list(store.list(Kind.DATA))


def test_the_recovery_kit_has_both_keys_and_is_private(host: Host, request_: InitRequest) -> None:
    result = make(host, request_)
    assert request_.recovery_kit is not None
    keys = read_kit_file(request_.recovery_kit)
    assert keys.archive_key == result.kit.archive_key
    assert keys.admin_key == result.kit.admin_key
    assert stat.S_IMODE(request_.recovery_kit.stat().st_mode) == 0o600


def test_a_passphrase_wraps_both_key_files(host: Host, request_: InitRequest) -> None:
    result = make(host, request_, "correct horse")
    assert result.is_wrapped
    kept = b"".join(everything_below(host.dirs.config).values())
    assert result.kit.archive_key not in kept
    assert result.kit.admin_key is not None
    assert result.kit.admin_key not in kept
    with opened(host, lambda prompt: "correct horse") as archive:
        assert archive.ring.admin() is not None


@pytest.mark.parametrize(
    "changed",
    [
        {"host": "an na"},
        {"host": ""},
        {"name": "../x"},
        {"name": ""},
        {"store": ""},
        {"store": "gopher://host/path"},
    ],
)
def test_a_bad_request_changes_nothing(
    tmp_path: Path, host: Host, request_: InitRequest, changed: dict[str, str]
) -> None:
    with pytest.raises(UsageError):
        make(host, replace(request_, **changed))  # type: ignore[arg-type]  # texts only
    assert everything_below(tmp_path) == {}


def test_a_kit_file_that_exists_is_not_overwritten(host: Host, request_: InitRequest) -> None:
    assert request_.recovery_kit is not None
    request_.recovery_kit.write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        make(host, request_)
    assert request_.recovery_kit.read_text() == "mine"
    assert not Path(request_.store).exists()
    assert not host.dirs.config.exists()


def test_a_folder_with_other_things_is_left_alone(host: Host, request_: InitRequest) -> None:
    folder = Path(request_.store)
    folder.mkdir()
    (folder / "photo.jpg").write_text("mine")
    with pytest.raises(NotAStore, match=r"photo\.jpg"):
        make(host, request_)
    assert everything_below(folder) == {"photo.jpg": b"mine"}
    assert not host.dirs.config.exists()


def test_a_store_with_an_archive_is_left_alone(
    tmp_path: Path, host: Host, request_: InitRequest
) -> None:
    make(host, request_)
    before = everything_below(Path(request_.store))
    other = Host(tmp_path / "bob", "bob")
    with pytest.raises(StoreError, match=r"holds an archive already.*coopfs writer request"):
        make(other, replace(request_, recovery_kit=None))
    assert everything_below(Path(request_.store)) == before
    assert not other.dirs.config.exists()


def test_a_restic_repository_is_left_alone(host: Host, request_: InitRequest) -> None:
    folder = Path(request_.store)
    folder.mkdir()
    (folder / "config").write_bytes(b"\x00restic")
    with pytest.raises(CoopfsError, match=r"already|not empty"):
        make(host, request_)
    assert everything_below(folder) == {"config": b"\x00restic"}
    assert not host.dirs.config.exists()


def test_a_second_init_of_the_same_archive_changes_nothing(
    tmp_path: Path, host: Host, request_: InitRequest
) -> None:
    make(host, request_)
    before = everything_below(tmp_path)
    with pytest.raises(UsageError, match="is complete; nothing was changed"):
        make(host, replace(request_, recovery_kit=None))
    assert everything_below(tmp_path) == before


def test_a_name_that_is_taken_is_not_given_to_another_store(
    tmp_path: Path, host: Host, request_: InitRequest
) -> None:
    make(host, request_)
    before = everything_below(tmp_path)
    with pytest.raises(UsageError, match="another name with --archive"):
        make(host, replace(request_, store=str(tmp_path / "second"), recovery_kit=None))
    assert everything_below(tmp_path) == before
    assert not (tmp_path / "second").exists()


# --- stopped anywhere ---------------------------------------------------------


class Wrapping:
    """Opens and makes stores with a fault in them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, damage: Callable[[FaultyStore], None]):
        for name in ("open_store", "create_store"):
            monkeypatch.setattr(init, name, self.wrapped(getattr(init, name), damage))

    def wrapped(
        self, make_store: Callable[[str], Store], damage: Callable[[FaultyStore], None]
    ) -> Callable[[str], Store]:
        def wrapped(address: str) -> Store:
            store = FaultyStore(make_store(address))
            damage(store)
            return store

        return wrapped


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("nth", [1, 2])
def test_killed_while_the_records_are_put_it_goes_on_with_the_same_keys(
    host: Host, request_: InitRequest, nth: int, when: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        Wrapping(patch, lambda store: store.crash("put", Kind.SNAPSHOTS, nth=nth, when=when))  # type: ignore[arg-type]  # before, after
        with pytest.raises(SimulatedCrash):
            make(host, request_)
    assert request_.recovery_kit is not None
    kit = read_kit_file(request_.recovery_kit)
    with pytest.raises(NotAStore):
        opened(host)
    result = make(host, request_)  # the same command: its kit is there already
    assert result.is_resumed
    assert read_kit_file(request_.recovery_kit) == kit
    assert result.kit.archive_key == kit.archive_key
    assert result.kit.admin_key == kit.admin_key
    assert_usable(host)


def test_killed_before_the_config_is_put_its_sealed_copy_decides(
    host: Host, request_: InitRequest
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        Wrapping(patch, lambda store: store.crash("put", "config", when="before"))
        with pytest.raises(SimulatedCrash):
            make(host, request_)
    other = replace(request_, chunker=ChunkerParams.for_average(1 << 20), recovery_kit=None)
    assert make(host, other).config.chunker == request_.chunker
    assert_usable(host)


def test_killed_after_the_config_was_put_the_archive_is_complete(
    host: Host, request_: InitRequest
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        Wrapping(patch, lambda store: store.crash("put", "config", when="after"))
        with pytest.raises(SimulatedCrash):
            make(host, request_)
    assert_usable(host)
    with pytest.raises(UsageError, match="coopfs key export"):
        make(host, replace(request_, recovery_kit=None))


def test_a_full_store_says_how_to_go_on(host: Host, request_: InitRequest) -> None:
    with pytest.MonkeyPatch.context() as patch:
        Wrapping(patch, lambda store: store.fill_after(100))
        with pytest.raises(StoreFull, match=r"The keys are kept in .*the same command goes on"):
            make(host, request_)
    assert make(host, request_).is_resumed
    assert_usable(host)


def test_a_kit_that_cannot_be_written_stops_before_the_store_is_written(
    host: Host, request_: InitRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(kit: object, path: Path) -> None:
        raise ConfigError(f"{path}: cannot be written: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(init, "write_kit", fail)
        with pytest.raises(ConfigError, match="No space left"):
            make(host, request_)
    assert everything_below(Path(request_.store)) == {}
    assert make(host, request_).is_resumed
    assert_usable(host)


def test_a_kit_without_a_folder_to_be_in_changes_nothing(
    tmp_path: Path, host: Host, request_: InitRequest
) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        make(host, replace(request_, recovery_kit=tmp_path / "no" / "kit"))
    assert everything_below(tmp_path) == {}


def test_going_on_does_not_overwrite_another_file(host: Host, request_: InitRequest) -> None:
    with pytest.MonkeyPatch.context() as patch:
        Wrapping(patch, lambda store: store.crash("put", Kind.SNAPSHOTS))
        with pytest.raises(SimulatedCrash):
            make(host, request_)
    assert request_.recovery_kit is not None
    request_.recovery_kit.write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        make(host, request_)
    assert request_.recovery_kit.read_text() == "mine"
    assert make(host, replace(request_, recovery_kit=None)).is_resumed


def test_going_on_as_another_host_is_refused(host: Host, request_: InitRequest) -> None:
    with pytest.MonkeyPatch.context() as patch:
        Wrapping(patch, lambda store: store.crash("put", Kind.SNAPSHOTS))
        with pytest.raises(SimulatedCrash):
            make(host, request_)
    with pytest.raises(UsageError, match="--host anna"):
        make(host, replace(request_, host="bob", recovery_kit=None))


def test_killed_while_the_keys_are_saved_nothing_is_left_half(
    host: Host, request_: InitRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = []

    def crash_at_second(*args: object, **kwargs: object) -> None:
        saved.append(args)
        if len(saved) == 2:
            raise SimulatedCrash("killed")
        real(*args, **kwargs)  # type: ignore[arg-type]  # passed on as they came

    real = init.save_secrets
    with monkeypatch.context() as patch:
        patch.setattr(init, "save_secrets", crash_at_second)
        with pytest.raises(SimulatedCrash):
            make(host, request_)
    assert len(saved) == 2
    assert everything_below(host.dirs.config) == {}
    assert not make(host, request_).is_resumed
    assert_usable(host)
