"""A store in a folder of a machine that is reached by ssh.

    sftp://[USER@]HOST[:PORT]/PATH        PATH from the root; /~/PATH from the login's folder

The system's ssh carries it, so the user's configuration, agent, jump hosts and known
hosts apply; see :mod:`coopfs.store.sshchild`.  Owns the connections: one, and another
while the first is busy with more than ssh lets be under way.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from coopfs.errors import CoopfsError, StoreUnavailable
from coopfs.store.base import created
from coopfs.store.remotefiles import FileInfo, RemoteFiles
from coopfs.store.remotefolder import RemoteFolderStore
from coopfs.store.sftpchannel import SftpChannel
from coopfs.store.sftpsession import SftpSession
from coopfs.store.sshchild import SshTarget, has_terminal, parse_sftp_address

CONNECTIONS_MAX: Final = 2
# Bytes being moved over a connection beyond which the next request wants another one:
# twice what ssh lets be under way (its window of 2 MiB), so that on a long line both fill.
_BUSY_LEN: Final = 4 << 20


class SftpFiles(RemoteFiles):
    """See :class:`RemoteFiles`."""

    def __init__(self, target: SshTarget) -> None:
        """Connect to *target* when first used."""
        self._target = target
        self._lock = threading.Lock()  # guards the next four, and the sessions' load
        self._sessions: list[SftpSession] = []
        self._connections_max = CONNECTIONS_MAX
        self._may_link = True
        self._is_closed = False
        self._connecting = threading.Lock()  # guards the next two
        self._attempts = 0
        self._failure: CoopfsError | None = None  # of the last attempt

    @property
    def is_durable(self) -> bool:  # type: ignore[override]  # known once connected
        """Whether the server offers fsync@openssh.com."""
        with self._session() as session:
            return session.has_fsync

    def read(self, path: str, label: str, offset: int, length: int | None) -> bytes:
        """See :meth:`RemoteFiles.read`."""
        with self._session(0 if length is None else length) as session:
            return session.read(path, label, offset, length, self.line.down)

    def look(self, path: str) -> FileInfo | None:
        """See :meth:`RemoteFiles.look`."""
        with self._session() as session:
            return session.look(path, path)

    def is_folder(self, path: str) -> bool:
        """See :meth:`RemoteFiles.is_folder`."""
        with self._session() as session:
            return session.is_folder(path)

    def write_new(
        self, temporary: str, path: str, pieces: Sequence[memoryview], *, new_folder: str | None
    ) -> FileInfo | None:
        """See :meth:`RemoteFiles.write_new`."""
        with self._session(sum(map(len, pieces))) as session:
            found = session.write_new(
                temporary, path, pieces, new_folder=new_folder, pace=self.line.up
            )
            self._may_link = session.has_links
            return found

    def sync(self, path: str) -> None:
        """See :meth:`RemoteFiles.sync`."""
        with self._session() as session:
            session.sync(path, path)

    def list_folders(self, paths: Sequence[str]) -> Sequence[list[FileInfo] | None]:
        """See :meth:`RemoteFiles.list_folders`."""
        with self._session() as session:
            return session.list_folders(paths)

    def delete(self, path: str) -> None:
        """See :meth:`RemoteFiles.delete`."""
        with self._session() as session:
            session.delete(path, path)
        with self._lock:
            sessions = [*self._sessions]
        for session in sessions:
            session.forget(path)

    def make_folder(self, path: str) -> None:
        """See :meth:`RemoteFiles.make_folder`."""
        with self._session() as session:
            session.make_folder(path)

    def free_bytes(self, path: str) -> int | None:
        """See :meth:`RemoteFiles.free_bytes`."""
        with self._session() as session:
            return session.free_bytes(path)

    def close(self) -> None:
        """See :meth:`RemoteFiles.close`."""
        with self._lock:
            self._is_closed = True
            sessions, self._sessions = self._sessions, []
        for session in sessions:
            session.channel.close()

    # --- connections ------------------------------------------------------------------

    @contextmanager
    def _session(self, moved: int = 0) -> Iterator[SftpSession]:
        """Lend the connection with the least to do, for a request that moves *moved* bytes."""
        session = self._choose() or self._connect()
        with self._lock:
            session.load += moved
        try:
            yield session
        finally:
            with self._lock:
                session.load -= moved

    def _choose(self) -> SftpSession | None:
        """Return the connection to use; None: a new one is wanted."""
        with self._lock:
            if self._is_closed:
                raise StoreUnavailable(f"{self._target.where}: the store has been closed")
            usable = [s for s in self._sessions if s.channel.is_usable]
            broken = [s for s in self._sessions if s not in usable]
            self._sessions = usable
            best = min(self._sessions, key=lambda session: session.load, default=None)
            is_enough = len(self._sessions) >= self._connections_max
        for session in broken:
            session.channel.close()
        if best is not None and (best.load <= _BUSY_LEN or is_enough):
            return best
        return None

    def _connect(self) -> SftpSession:
        with self._lock:
            is_first = not self._sessions
        attempts = self._attempts
        if not self._connecting.acquire(blocking=is_first):
            return self._choose_any()
        try:
            if (session := self._choose()) is not None:
                return session
            # One at a time: what those who waited would meet in turn, they have met.
            if self._failure is not None and self._attempts != attempts:
                raise type(self._failure)(*self._failure.args)
            self._failure = None
            return self._connect_alone()
        except CoopfsError as exc:
            self._failure = exc
            raise
        finally:
            self._attempts += 1
            self._connecting.release()

    def _choose_any(self) -> SftpSession:
        with self._lock:
            best = min(self._sessions, key=lambda session: session.load, default=None)
        if best is None:
            raise StoreUnavailable(f"{self._target.where}: the connection broke")
        return best

    def _connect_alone(self) -> SftpSession:
        with self._lock:
            is_first = not self._sessions
        try:
            # Nobody is asked twice: a second one comes without a passphrase or not at all.
            session = _start(self._target, is_first and has_terminal(), self._may_link)
        except CoopfsError:
            if is_first:
                raise
            with self._lock:
                self._connections_max = 1  # the server may allow no more
            return self._choose_any()
        with self._lock:
            if not self._is_closed:
                self._sessions.append(session)
                return session
        session.channel.close()
        raise StoreUnavailable(f"{self._target.where}: the store has been closed")


def _start(target: SshTarget, may_ask: bool, may_link: bool) -> SftpSession:
    channel = SftpChannel(target, may_ask=may_ask)
    try:
        return SftpSession(channel, may_link=may_link)
    except BaseException:
        channel.close()
        raise


def sftp_store(address: str) -> RemoteFolderStore:
    """Return the store at *address*, which is connected to when it is first used.

    Raises:
        UsageError: it is no sftp address.
    """
    target = parse_sftp_address(address)
    return RemoteFolderStore(address, SftpFiles(target), target.path)


def create_sftp_store(address: str) -> RemoteFolderStore:
    """Make a new store at *address*; see ``RemoteFolderStore.create``."""
    return created(sftp_store(address))
