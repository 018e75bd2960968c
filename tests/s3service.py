"""What tests share about S3 services: who they are, a signed request, free ports."""

from __future__ import annotations

import datetime
import hashlib
import hmac
import http.client
import random
import socket
from contextlib import ExitStack, suppress

REGION = "us-east-1"
ACCESS_KEY, SECRET_KEY = "coopfs", "only-for-tests"


def client_environ(host: str) -> dict[str, str]:
    """Return what a client of the service at *host* (host:port) needs in its environment."""
    return {
        "AWS_ENDPOINT_URL": f"http://{host}",
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_REGION": REGION,
    }


def request(host: str, method: str, path: str, body: bytes = b"") -> int:
    """Send one S3 request, signed, below obstore and its checks; return the status, or 0.

    Signature: "Authenticating Requests (AWS Signature Version 4)" of the S3 API reference.
    *path* is sent as it is and must be escaped already.
    """
    now = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    digest = hashlib.sha256(body).hexdigest()
    headers = {"host": host, "x-amz-content-sha256": digest, "x-amz-date": now}
    names = ";".join(sorted(headers))
    lines = [f"{name}:{headers[name]}" for name in sorted(headers)]
    canonical = "\n".join([method, path, "", *lines, "", names, digest])
    scope = f"{now[:8]}/{REGION}/s3/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    key = b"AWS4" + SECRET_KEY.encode()
    for part in (*scope.split("/"), "\n".join(["AWS4-HMAC-SHA256", now, scope, digest])):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/{scope}, SignedHeaders={names}, "
        f"Signature={key.hex()}"
    )
    connection = http.client.HTTPConnection(host, timeout=10)
    try:
        connection.request(method, path, body=body, headers=headers)
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()
    return answer.status


def free_ports(count: int, *above: int) -> list[int]:
    """Return *count* ports that are free, as are those that far *above* each."""
    free: list[int] = []
    with ExitStack() as stack:
        while len(free) < count:
            with suppress(OSError):
                # All below what the kernel gives to connections: between this look and the
                # server's own there must be no taker.
                port = random.randrange(10_000, 20_000)
                for needed in (port, *(port + distance for distance in above)):
                    stack.enter_context(socket.create_server(("127.0.0.1", needed)))
                free.append(port)
    return free
