"""One FTP connection: logged in, in binary mode, its refusals understood.

Owns the only use of ftplib and the translation of its errors: none leaves this module.
One thread at a time.  After any error but a refusal the connection is of no more use.
"""

from __future__ import annotations

import ftplib
import hashlib
import re
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from coopfs.errors import (
    CoopfsError,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreIdentity,
    StoreUnavailable,
)
from coopfs.store.ftpaddress import IMPLICIT_PORT, FtpAddress
from coopfs.store.http import Trust
from coopfs.store.line import FREE_LINE, Pace

TIMEOUT_S: Final = 30  # of silence; a server that makes a pack durable needs a few
_READ_LEN: Final = 256 << 10  # bytes asked of the socket at once
_WRITE_LEN: Final = 1 << 20  # bytes handed to it at once
_LISTING_LEN_MAX: Final = 64 << 20  # bytes; 600,000 names

_FULL = re.compile(r"no space|quota|disk (?:is )?full|insufficient|exceed|storage", re.I)
_NO_TLS: Final = frozenset(
    {"WRONG_VERSION_NUMBER", "UNSUPPORTED_PROTOCOL", "NO_PROTOCOLS_AVAILABLE"}
)


class Refused(Exception):
    """The server said no; the connection goes on."""

    def __init__(self, reply: str) -> None:
        super().__init__(reply)
        self.code = int(reply[:3]) if reply[:3].isdigit() else 0
        self.said = ascii(reply[:200])[1:-1]


class _Ftp(ftplib.FTP_TLS):
    """ftplib's client, its data connections made the way servers insist on."""

    trust: Trust | None = None

    def ntransfercmd(self, cmd: str, rest: int | str | None = None) -> tuple[socket.socket, int]:
        """See ftplib; over TLS with the session of the control connection."""
        conn, size = ftplib.FTP.ntransfercmd(self, cmd, rest)  # noqa: S321 - TLS follows
        if not isinstance(self.sock, ssl.SSLSocket):
            return conn, size or 0
        try:
            # vsftpd's require_ssl_reuse, and a proof that nobody else took the port.
            wrapped = self.context.wrap_socket(
                conn,
                server_hostname=self.host,
                session=self.sock.session,
                suppress_ragged_eofs=False,  # or a listing cut by somebody would look whole
            )
            check_pin(wrapped, self.trust, self.host)
        except BaseException:
            conn.close()
            raise
        return wrapped, size or 0


def check_pin(sock: ssl.SSLSocket, trust: Trust | None, where: str) -> None:
    """Compare the certificate of the server with the pin of *trust* (StoreIdentity)."""
    if trust is None or trust.pin is None:
        return
    found = hashlib.sha256(sock.getpeercert(binary_form=True) or b"").hexdigest()
    if found != trust.pin:
        raise StoreIdentity(
            f"{where}: not the machine that was expected: its certificate has SHA-256 {found}, "
            f"expected {trust.pin}; nothing was sent; ask its owner before you change the pin"
        )


class FtpConnection:
    """See above; of use once :meth:`open` has returned."""

    def __init__(self, address: FtpAddress, trust: Trust | None) -> None:
        """Prepare; *trust* says by what the server is recognised, None without TLS."""
        self._address = address
        self.home = "/"  # the login's folder
        self._features: set[str] = set()
        self.where = address.where
        self.used_at_s = time.monotonic()
        self._trust = trust
        context = None if trust is None else trust.context
        self._ftp = _Ftp(timeout=TIMEOUT_S, context=context, encoding="latin-1")
        self._ftp.trust = trust

    def open(self) -> None:
        """Connect, and log in.

        Raises:
            StoreIdentity, StoreDenied, StoreUnavailable, StoreError.
        """
        try:
            with self._translated("no connection"):
                self._log_in(self._address)
        except Refused as exc:
            self.close()
            raise self.refusal(exc, "the connection") from exc
        except BaseException:
            self.close()
            raise

    def _log_in(self, address: FtpAddress) -> None:
        ftp = self._ftp
        if address.has_tls and address.port == IMPLICIT_PORT:
            self._connect_implicit(address)
        else:
            ftp.connect(address.host, address.port)
            if address.has_tls:
                try:
                    ftp.auth()
                except ftplib.error_perm as exc:
                    raise StoreIdentity(
                        f"{self.where}: offers no TLS ({ascii(str(exc))[1:-1]}), so nobody knows "
                        f"who it is; nothing was sent; without TLS the address is ftp://…"
                    ) from exc
        if isinstance(ftp.sock, ssl.SSLSocket):
            check_pin(ftp.sock, self._trust, self.where)
        user, password = address.login()
        try:
            ftplib.FTP.login(ftp, _line(user), _line(password))  # noqa: S321 - TLS if asked for
        except ftplib.error_perm as exc:
            raise StoreDenied(
                f"{self.where}: does not let {user!r} in ({ascii(str(exc))[1:-1]}); are user and "
                f"password right, and does it want TLS (ftps://)?"
            ) from exc
        if isinstance(ftp.sock, ssl.SSLSocket):
            ftp.prot_p()
        ftp.voidcmd("TYPE I")
        self._features = self._ask_features()
        self.home = ftp.pwd().encode("latin-1").decode("utf-8", "surrogateescape")

    def _connect_implicit(self, address: FtpAddress) -> None:
        ftp = self._ftp
        ftp.host, ftp.port = address.host, address.port
        plain = socket.create_connection((address.host, address.port), TIMEOUT_S)
        ftp.af = plain.family
        ftp.sock = ftp.context.wrap_socket(plain, server_hostname=address.host)
        ftp.file = ftp.sock.makefile("r", encoding=ftp.encoding)
        ftp.welcome = ftp.getresp()

    def _ask_features(self) -> set[str]:
        try:
            reply = self._ftp.sendcmd("FEAT")
        except ftplib.Error:
            return set()
        return {line.split()[0].upper() for line in reply.splitlines()[1:-1] if line.split()}

    @property
    def has_mlst(self) -> bool:
        """Whether listings with facts are offered (RFC 3659)."""
        return "MLST" in self._features

    def close(self) -> None:
        """Hang up."""
        with suppress(OSError):
            self._ftp.close()

    def cut(self) -> None:
        """Let the thread that waits for the server wake up, with StoreUnavailable."""
        sock = self._ftp.sock
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    # --- commands ---------------------------------------------------------------------

    def command(self, verb: str, path: str = "") -> str:
        """Send a command and return the reply.

        Raises:
            Refused: the answer is no.
            StoreError: as always.
        """
        with self._translated(verb):
            return self._ftp.sendcmd(f"{verb} {_line(path)}" if path else verb)

    def size(self, path: str) -> int | None:
        """Return the size of the file *path*; None: there is none."""
        try:
            reply = self.command("SIZE", path)
        except Refused as exc:
            if exc.code // 100 == 5 and exc.code != 530:
                return None
            raise self.refusal(exc, path) from exc
        text = reply[3:].strip()
        if not reply.startswith("213") or not text.isascii() or not text.isdigit():
            raise self._nonsense(reply)
        return int(text)

    # --- transfers --------------------------------------------------------------------

    def receive(self, verb: str, path: str, offset: int = 0) -> socket.socket:
        """Begin a transfer to us (Refused) and return its connection, for the caller to close."""
        with self._translated(verb):
            return self._ftp.transfercmd(f"{verb} {_line(path)}", offset or None)

    def receive_into(
        self, conn: socket.socket, view: memoryview, pace: Pace = FREE_LINE.down
    ) -> int:
        """Fill *view*; return how many bytes came before the transfer ended."""
        done = 0
        with self._translated("receiving"):
            while done < len(view):
                wanted = pace.piece_len(min(_READ_LEN, len(view) - done))
                got = conn.recv_into(view[done : done + wanted])
                if not got:
                    break
                done += got
                pace.passed(got)
        return done

    def receive_all(self, conn: socket.socket) -> bytes:
        """Return what comes until the transfer ends, a listing."""
        parts, total = [], 0
        buffer = memoryview(bytearray(_READ_LEN))
        while got := self.receive_into(conn, buffer):
            parts.append(bytes(buffer[:got]))
            total += got
            if total > _LISTING_LEN_MAX:
                raise StoreError(f"{self.where}: a listing of more than {_LISTING_LEN_MAX} bytes")
        return b"".join(parts)

    def end_transfer(self) -> None:
        """Take the reply that ends a transfer (Refused: it did not succeed)."""
        with self._translated("the end of a transfer"):
            self._ftp.voidresp()

    def send(self, path: str, pieces: Sequence[memoryview], pace: Pace = FREE_LINE.up) -> None:
        """Store the pieces as *path* (Refused)."""
        with self._translated("STOR"):
            conn = self._ftp.transfercmd(f"STOR {_line(path)}")
            try:
                for piece in pieces:
                    start = 0
                    while start < len(piece):
                        end = start + pace.piece_len(min(_WRITE_LEN, len(piece) - start))
                        conn.sendall(piece[start:end])
                        pace.passed(end - start)
                        start = end
                if isinstance(conn, ssl.SSLSocket):
                    _say_goodbye(conn)
            except OSError as exc:
                # The server closed it; why is in its reply, if it gives one.
                conn.close()
                self._ftp.voidresp()
                raise StoreUnavailable(f"{self.where}: the transfer broke ({exc})") from exc
            finally:
                conn.close()
            self._ftp.voidresp()

    # --- what went wrong ----------------------------------------------------------------

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        self.used_at_s = time.monotonic()
        try:
            yield
        except ftplib.error_temp as exc:
            if str(exc).startswith("421"):
                raise StoreUnavailable(f"{self.where}: {ascii(str(exc))[1:-1]}") from exc
            raise Refused(str(exc)) from exc
        except (ftplib.error_perm, ftplib.error_reply) as exc:
            raise Refused(str(exc)) from exc
        except ftplib.error_proto as exc:
            raise self._nonsense(str(exc)) from exc
        except ssl.SSLCertVerificationError as exc:
            raise StoreIdentity(
                f"{self.where}: not the machine that was expected: its certificate does not "
                f"convince ({exc.verify_message}); nothing was sent; for a certificate of its own "
                f"add ?pin=SHA256 or ?ca=FILE to the address"
            ) from exc
        except ssl.SSLError as exc:
            if exc.reason in _NO_TLS:
                raise StoreError(f"{self.where}: speaks no TLS that we do ({exc.reason})") from exc
            raise StoreUnavailable(f"{self.where}: {what}: TLS broke ({exc.reason})") from exc
        except EOFError as exc:
            raise StoreUnavailable(f"{self.where}: {what}: it hung up") from exc
        except OSError as exc:
            raise StoreUnavailable(f"{self.where}: {what}: {exc.strerror or exc}") from exc
        except ValueError as exc:  # ftplib parses replies with int() and the like
            raise self._nonsense(str(exc)) from exc

    def _nonsense(self, said: str) -> StoreError:
        return StoreError(
            f"{self.where}: what answers is no FTP server, or is confused: it said {said[:100]!a}"
        )

    def refusal(self, exc: Refused, label: str) -> CoopfsError:
        """Return what a refusal means for whoever uses the store."""
        text = f"{label} at {self.where}: the server said {exc.said!r}"
        if exc.code in (452, 552) or _FULL.search(exc.said):
            return StoreFull(
                f"{text}: no room left; make room or raise the quota, then run it again: what was "
                f"stored is kept"
            )
        if exc.code == 530 or "denied" in exc.said.lower() or "permission" in exc.said.lower():
            return StoreDenied(f"{text}; check user, password and the rights of the folder")
        if exc.code // 100 == 4 and exc.code != 451:
            return StoreUnavailable(text)
        return StoreError(text)


def _say_goodbye(conn: ssl.SSLSocket) -> None:
    # So that the server can tell a whole file from one cut by somebody.  Not all answer.
    with suppress(OSError):
        conn.unwrap()


def _line(text: str) -> str:
    """Return *text* so that ftplib, told latin-1, sends its UTF-8."""
    return text.encode("utf-8", "surrogateescape").decode("latin-1")
