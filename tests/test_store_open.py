from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from coopfs.errors import NotAStore, UsageError
from coopfs.store.local import LocalStore
from coopfs.store.open import Scheme, absolute_address, create_store, open_store


def test_a_path_and_its_file_url_reach_the_same_store(tmp_path: Path) -> None:
    root = tmp_path / "my store"
    with create_store(str(root)) as store:
        store.put_config(b"config")
    escaped = str(root).replace(" ", "%20")
    for address in (str(root), f"file://{root}", f"file://{escaped}", f"FILE://localhost{root}"):
        with open_store(address) as store:
            assert isinstance(store, LocalStore)
            assert store.is_local
            assert store.is_durable
            assert store.address == address
            assert store.get_config() == b"config"


def test_a_store_is_created_by_url_and_from_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    create_store("~/a").close()
    create_store(f"file://{tmp_path}/b").close()
    assert (tmp_path / "a" / "data").is_dir()
    assert (tmp_path / "b" / "data").is_dir()


def test_a_missing_store_is_named_as_the_user_wrote_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotAStore, match=r"^\./absent: "):
        open_store("./absent")


@pytest.mark.parametrize("address", ["gopher://user:hunter2@host/", "https://host/", "b2://x"])
def test_an_unknown_kind_of_store_is_named(address: str) -> None:
    scheme = address.partition(":")[0]
    with pytest.raises(UsageError, match=f'unknown kind of store "{scheme}"') as caught:
        open_store(address)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "advice"),
    [
        ("", "missing"),
        ("a\0b", "NUL"),
        ("file:///a%00b", "NUL"),
        ("file://otherhost/path", "this machine"),
        ("file://relative", "absolute"),
        ("sftp:user@host:/path", "sftp://"),
        ("file:/srv/store", "file://"),
        ("user@host:backup", r"\./"),
        ("host:/srv/backup", "sftp://"),
    ],
)
def test_a_mistaken_address_makes_no_folder_and_says_how_to_write_it(
    address: str, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for call in (open_store, create_store, absolute_address):
        with pytest.raises(UsageError, match=advice):
            call(address)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_a_colon_in_its_name_is_reached_by_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    create_store("./12:30").close()
    create_store(str(tmp_path / "sftp:x")).close()
    assert {path.name for path in tmp_path.iterdir()} == {"12:30", "sftp:x"}


def test_an_absolute_address_means_the_same_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ann")
    assert absolute_address("a/../store") == str(tmp_path / "store")
    assert absolute_address("~/store") == "/home/ann/store"
    assert absolute_address("/srv/store/") == "/srv/store"
    assert absolute_address("file:///srv/my%20store") == "file:///srv/my%20store"


@pytest.mark.parametrize("address", ["mem://user:hunter2@x/y", "MEM://x", "rclone:remote:path"])
def test_a_scheme_in_the_table_gets_the_whole_address(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, str]] = []
    store = LocalStore.create(tmp_path / "store")

    def noted(what: str) -> Callable[[str], LocalStore]:
        def call(given: str) -> LocalStore:
            calls.append((what, given))
            return store

        return call

    scheme = Scheme(noted("check"), noted("open"), noted("create"))
    table = {"mem": lambda: scheme, "rclone": lambda: scheme}
    monkeypatch.setattr("coopfs.store.open.SCHEMES", table)
    assert absolute_address(address) == address
    assert open_store(address) is store
    assert create_store(address) is store
    assert calls == [("check", address), ("open", address), ("create", address)]


def test_a_scheme_of_the_table_needs_its_slashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coopfs.store.open.SCHEMES", {"mem": lambda: pytest.fail("asked")})
    with pytest.raises(UsageError, match='expected "mem://"'):
        open_store("mem:x")
    with pytest.raises(UsageError, match=r'unknown kind of store "men".*mem://'):
        open_store("men://x")
