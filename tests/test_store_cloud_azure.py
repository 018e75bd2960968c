"""The store suite against Azurite, Microsoft's emulator of Azure Blob Storage.

``scripts/setup --azurite`` fetches it (360 MB), so not every run of the tests has it.
"""

from __future__ import annotations

import base64
import email.utils
import hashlib
import hmac
import http.client
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

import obstore
import pytest
from servers import TOOLS, Server, accepts, free_port
from store_suite import StoreRig, StoreSuite, put_new

from coopfs.errors import NotAStore, StoreDenied
from coopfs.store.base import Kind
from coopfs.store.cloud import CloudStore
from coopfs.store.open import open_store

# In PATH, or where scripts/setup --azurite puts it.
_FETCHED = TOOLS.parent.parent / "azurite" / "node_modules" / ".bin" / "azurite-blob"
AZURITE = shutil.which("azurite-blob") or shutil.which(_FETCHED)
if AZURITE is None:
    pytest.skip(
        "no azurite-blob here (scripts/setup --azurite fetches it): AZURE IS NOT TESTED",
        allow_module_level=True,
    )

# The emulator's only account; both are in its documentation.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
_numbers = itertools.count()


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Run the emulator with a container called shared; yield its port."""
    assert AZURITE is not None
    port, folder = free_port(), tmp_path_factory.mktemp("azurite")
    options = ["--silent", "--disableTelemetry", "--skipApiVersionCheck", "--location", folder]
    with Server(
        [AZURITE, "--blobHost", "127.0.0.1", "--blobPort", str(port), *options],
        lambda: accepts(port),
    ):
        make_container(port, "shared")
        yield port


@pytest.fixture
def address(port: int, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY)
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", f"http://127.0.0.1:{port}/{ACCOUNT}")
    return f"az://shared/test/{next(_numbers)}"


class TestAzureStore(StoreSuite):
    @pytest.fixture
    def rig(self, address: str, tmp_path: Path) -> StoreRig:
        def plant(kind: Kind, filename: str, data: bytes) -> None:
            prefix = address.removeprefix("az://shared/")
            container = obstore.store.AzureStore(
                "shared", prefix=prefix, client_options={"allow_http": True}
            )
            for folder in ["data", "data/ab"] if kind is Kind.DATA else [kind.value]:
                obstore.put(container, f"{folder}/{filename}", data)

        return StoreRig(lambda: CloudStore(address, is_new=True), plant, address)


def test_a_missing_container_and_a_wrong_key_are_told_apart(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NotAStore, match="there is no such bucket"):
        open_store("az://no-such-container/prefix")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY.replace("E", "F"))
    with pytest.raises(StoreDenied):
        open_store(address)
    with CloudStore(address, is_new=True) as store, pytest.raises(StoreDenied):
        put_new(store, b"x")


def make_container(port: int, name: str) -> None:
    """Make a container; obstore cannot.  Signature: "Authorize with Shared Key" (Microsoft)."""
    headers = {"x-ms-date": email.utils.formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
    lines = [f"{key}:{value}" for key, value in headers.items()]
    resource = f"/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
    text = "\n".join(["PUT", *[""] * 11, *lines, resource]).encode()
    digest = hmac.new(base64.b64decode(KEY), text, hashlib.sha256).digest()
    headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("PUT", f"/{ACCOUNT}/{name}?restype=container", headers=headers)
    assert connection.getresponse().status == 201
    connection.close()
