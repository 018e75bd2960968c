"""What an SFTP server's replies mean, without a server."""

from __future__ import annotations

from typing import Any, cast

import pytest

from coopfs.errors import StoreError
from coopfs.store import sftpcalls
from coopfs.store.remotefiles import FileInfo
from coopfs.store.sftpcalls import SftpCalls


class Chatterbox:
    """A channel whose server has always more to say."""

    where = "sftp://there"
    extensions: frozenset[bytes] = frozenset()
    is_usable = True

    def send(self, requests: list[Any]) -> list[Any]:
        return requests if self.is_usable else []

    def finish(self, pending: Any) -> Any:
        return pending

    def close(self) -> None:
        self.is_usable = False


def test_a_folder_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    channel = Chatterbox()
    calls = SftpCalls(cast(Any, channel))
    some = [FileInfo("a" * 64, 1, True, False, 0.0)] * 1000
    monkeypatch.setattr(sftpcalls, "LISTED_MAX", 20_000)
    monkeypatch.setattr(calls, "handle", lambda reply: b"handle")
    monkeypatch.setattr(calls, "_names", lambda reply, path: some)
    with pytest.raises(StoreError, match="more than 20,000 names"):
        calls.list_folders(["data/00", "data/01"])
    assert not channel.is_usable
