from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from servers import free_port, make_certificate, rclone_server, rest_server, write_htpasswd
from store_suite import (
    THREADS,
    StoreRig,
    StoreSuite,
    in_threads,
    name_of,
    put_new,
    sizes,
    some_bytes,
)

from coopfs.errors import ObjectCorrupt, StoreDenied, StoreError
from coopfs.store.base import Kind, Store
from coopfs.store.open import create_store, open_store

_numbers = itertools.count()


def rig_below(form: str, root: Path) -> StoreRig:
    """Return a rig for a new store of the server that serves *root*; see ``Served``."""
    number = next(_numbers)
    address = form.format(f"/{number}/")
    create_store(address).close()

    def plant(kind: Kind, filename: str, data: bytes) -> None:
        folders = [root / str(number) / kind]
        if kind is Kind.DATA:
            # Not in data/ itself: a stock rest-server cannot list it any more.
            folders = [path for path in folders[0].iterdir() if path.is_dir()]
        for folder in folders:
            (folder / filename).write_bytes(data)

    return StoreRig(lambda: open_store(address), plant, address)


# The address of a server, with {} for the path, and the folder behind it.
Served = tuple[str, Path]


@pytest.fixture(scope="module")
def by_rest_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root, port = tmp_path_factory.mktemp("served"), free_port()
    with rest_server(root, port):
        yield f"rest+http://127.0.0.1:{port}{{}}", root


@pytest.fixture(scope="module")
def by_rest_server_append_only(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root, port = tmp_path_factory.mktemp("served"), free_port()
    with rest_server(root, port, "--append-only"):
        yield f"rest+http://127.0.0.1:{port}{{}}", root


@pytest.fixture(scope="module")
def by_rest_server_with_tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root, port = tmp_path_factory.mktemp("served"), free_port()
    tls = make_certificate(tmp_path_factory.mktemp("tls"))
    users = write_htpasswd(tls.folder, "ann", "p@ss:word")
    with rest_server(root, port, *tls.options, "--htpasswd-file", users):
        yield f"rest+https://ann:p%40ss%3aword@127.0.0.1:{port}{{}}?ca={tls.certificate}", root


@pytest.fixture(scope="module")
def by_rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root, port = tmp_path_factory.mktemp("served"), free_port()
    with rclone_server(root, f"127.0.0.1:{port}"):
        yield f"rest+http://127.0.0.1:{port}{{}}", root


@pytest.fixture(scope="module")
def by_rclone_on_a_socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("served")
    socket_path = tmp_path_factory.mktemp("run") / "rclone.socket"
    with rclone_server(root, str(socket_path)):
        yield f"rest+http+unix://{socket_path}:{{}}", root


class TestRestServer(StoreSuite):
    @pytest.fixture
    def rig(self, by_rest_server: Served) -> StoreRig:
        return rig_below(*by_rest_server)


class TestRestServerWithTls(StoreSuite):
    @pytest.fixture
    def rig(self, by_rest_server_with_tls: Served) -> StoreRig:
        return rig_below(*by_rest_server_with_tls)


class TestRestServerAppendOnly(StoreSuite):
    @pytest.fixture
    def rig(self, by_rest_server_append_only: Served) -> StoreRig:
        return rig_below(*by_rest_server_append_only)

    @pytest.mark.parametrize("kind", list(Kind))
    def test_a_deleted_object_is_gone_even_if_just_read(self, store: Store, kind: Kind) -> None:
        name = put_new(store, b"stays", kind)
        with pytest.raises(StoreDenied, match=f"{kind}/{name.hex()}.*does not let us"):
            store.delete(kind, name)
        assert store.get(kind, name) == b"stays"

    # Nobody deletes anything.
    test_what_another_client_deletes_is_gone_here_too = None
    test_a_deleted_object_can_be_put_again = None
    test_reading_while_deleting_gives_the_bytes_or_not_found = None


class RcloneSuite(StoreSuite):
    """On a file system rclone writes an object under its final name: not atomic.

    What depends on that is tested for what is left of it.
    """

    def test_a_listing_during_puts_shows_only_whole_objects(
        self, rig: StoreRig, store: Store
    ) -> None:
        objects = [some_bytes(200_000, seed) for seed in range(2 * THREADS)]
        expected = {name_of(data): len(data) for data in objects}
        with rig.open() as other:

            def put_and_list(number: int) -> None:
                put_new(store, objects[number])
                seen = sizes(other, Kind.DATA)
                assert seen[name_of(objects[number])] == 200_000
                assert seen.keys() <= expected.keys()

            in_threads(put_and_list, range(len(objects)))
        assert sizes(store, Kind.DATA) == expected

    def test_reading_while_deleting_gives_the_bytes_or_not_found(self, store: Store) -> None:
        objects = [some_bytes(2000, seed) for seed in range(20)]
        wrong: list[int] = []

        def work(number: int) -> None:
            data = objects[number % 20]
            # Cut off just now, or deleted between two looks: said so, never wrong bytes.
            with suppress(ObjectCorrupt, StoreError):
                put_new(store, data)
                if store.get(Kind.DATA, name_of(data), 10, 1000) != data[10:1010]:
                    wrong.append(number)
                store.delete(Kind.DATA, name_of(data))

        in_threads(work, range(20 * THREADS))
        assert not wrong


class TestRclone(RcloneSuite):
    @pytest.fixture
    def rig(self, by_rclone: Served) -> StoreRig:
        return rig_below(*by_rclone)


class TestRcloneOnASocket(RcloneSuite):
    @pytest.fixture
    def rig(self, by_rclone_on_a_socket: Served) -> StoreRig:
        return rig_below(*by_rclone_on_a_socket)
