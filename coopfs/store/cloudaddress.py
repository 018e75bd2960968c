"""Addresses of stores in buckets: ``s3://BUCKET/PREFIX?OPTION=VALUE&…``, gs:// and az://.

Pure functions on text, apart from looking at the environment.  Credentials are never part
of an address, which is kept in plain files and shown in messages.  Options are listed in
coopfs-cloud(7).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from coopfs.errors import UsageError

S3: Final = "s3"
GS: Final = "gs"
AZ: Final = "az"

# Seconds for one request, its body included.  As long as TCP itself takes to give up on a
# line that swallows everything (tcp(7), tcp_retries2), and enough for a pack of 16 MiB at
# 160 kbit/s; obstore's own 30 s would end uploads on slow lines again and again.
TIMEOUT_S: Final = 900.0

OPTIONS: Final = ("endpoint", "region", "virtual-host", "conditional", "timeout", "ca")

# Where the endpoint comes from when the address does not say: as for each service's tools.
_ENDPOINT_VARIABLES: Final = {
    S3: ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    GS: ("GOOGLE_BASE_URL",),
    AZ: ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}

_ADDRESS = re.compile(r"([A-Za-z0-9]+)://([^/?]*)/?([^?]*)(?:\?(.*))?", re.DOTALL)
_BUCKET = re.compile(r"[A-Za-z0-9$][A-Za-z0-9._-]{1,254}")
# What every such service and every tool spells the same way in a key.
_PREFIX_PART = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._~+=@-]{1,255}")
_HOST = re.compile(r"[A-Za-z0-9.-]+|[0-9A-Fa-f:.]+")
_YES_OR_NO: Final = {"yes": True, "no": False}


@dataclass(frozen=True, slots=True)
class CloudAddress:
    """Where a bucket is and how it is spoken to."""

    text: str  # as the user wrote it
    scheme: str  # s3, gs or az
    bucket: str  # az: the container
    prefix: str  # without slashes at its ends; "": the whole bucket
    endpoint: str | None  # URL; None: the service's own
    region: str | None  # None: as the environment says
    is_virtual_host: bool  # the bucket is part of the endpoint's host name
    is_conditional: bool  # the service heeds If-None-Match
    timeout_s: float  # for one request, its body included
    ca_file: str | None  # more certificates to trust (PEM)

    @property
    def is_plain_http(self) -> bool:
        """Tell whether the endpoint is spoken to without TLS."""
        return self.endpoint is not None and self.endpoint.lower().startswith("http://")


def parse_cloud_address(text: str) -> CloudAddress:
    """Return what *text* says, completed from the environment.

    Raises:
        UsageError: it is mistaken; the message shows neither user names nor values.
    """
    found = _ADDRESS.fullmatch(text)
    if found is None or found[1].lower() not in _ENDPOINT_VARIABLES:
        raise UsageError("not the address of a bucket: write s3://BUCKET/PREFIX")
    scheme, bucket, prefix = found[1].lower(), found[2], found[3].strip("/")
    if "@" in bucket or ":" in bucket:
        raise UsageError(
            f"{scheme}://: credentials and ports are no part of the address; expected "
            f"{scheme}://BUCKET/PREFIX, credentials in the environment (see coopfs-cloud(7)), "
            f"another server with ?endpoint=URL"
        )
    if not _BUCKET.fullmatch(bucket):
        raise UsageError(
            f"{scheme}://: {bucket!r} is not the name of a bucket; expected "
            f"{scheme}://BUCKET/PREFIX"
        )
    for part in prefix.split("/") if prefix else ():
        if not _PREFIX_PART.fullmatch(part):
            raise UsageError(
                f"{scheme}://{bucket}: the prefix has a part {part!r}; expected letters, digits "
                f"and any of . _ ~ + = @ - between single slashes"
            )
    options = _options(scheme, found[4] or "")
    return CloudAddress(
        text=text,
        scheme=scheme,
        bucket=bucket,
        prefix=prefix,
        endpoint=_endpoint(scheme, options),
        region=options.get("region"),
        is_virtual_host=_yes_or_no(options, "virtual-host", False),
        is_conditional=_yes_or_no(options, "conditional", True),
        timeout_s=_timeout_s(options),
        ca_file=_ca_file(options),
    )


def _options(scheme: str, query: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise UsageError(
            f"{scheme}://: what follows the question mark is not OPTION=VALUE&OPTION=VALUE"
        ) from None
    known = OPTIONS if scheme == S3 else tuple(o for o in OPTIONS if o != "virtual-host")
    options: dict[str, str] = {}
    for name, value in pairs:
        # The value stays out of the message: somebody may have tried a secret key there.
        if name not in known:
            raise UsageError(
                f"{scheme}://: unknown option {name!r}; known are {', '.join(known)}; "
                f"credentials belong into the environment"
            )
        if name in options or not value:
            raise UsageError(f"{scheme}://: option {name!r} needs one value")
        options[name] = value
    return options


def _endpoint(scheme: str, options: dict[str, str]) -> str | None:
    places = [("the option endpoint", options.get("endpoint"))]
    places += [(variable, os.environ.get(variable)) for variable in _ENDPOINT_VARIABLES[scheme]]
    for place, value in places:
        if not value:
            continue
        # Strictly: obstore panics on what is not a URL.
        try:
            url = urlsplit(value)
            is_usable = (
                url.scheme.lower() in ("http", "https")
                and _HOST.fullmatch(url.hostname or "") is not None
                and url.port != 0
                and url.username is None
                and not url.query
                and not url.fragment
                and re.fullmatch(r"[A-Za-z0-9._~/-]*", url.path) is not None
            )
        except ValueError:
            is_usable = False
        if not is_usable:
            raise UsageError(
                f"{scheme}://: {place} is not the address of a server: expected "
                f"https://HOST[:PORT] or http://HOST[:PORT]"
            )
        return value.rstrip("/")
    return None


def _yes_or_no(options: dict[str, str], name: str, default: bool) -> bool:
    text = options.get(name)
    if text is None:
        return default
    if text not in _YES_OR_NO:
        raise UsageError(f"the option {name!r} of the store's address is yes or no, not {text!r}")
    return _YES_OR_NO[text]


def _timeout_s(options: dict[str, str]) -> float:
    text = options.get("timeout")
    if text is None:
        return TIMEOUT_S
    if not re.fullmatch(r"[0-9]{1,6}", text) or not int(text):
        raise UsageError(
            f'the option "timeout" of the store\'s address is a number of seconds, not {text!r}'
        )
    return float(text)


def _ca_file(options: dict[str, str]) -> str | None:
    path = options.get("ca")
    if path is not None and not os.path.isabs(path):
        raise UsageError(
            f'the option "ca" of the store\'s address is the absolute path of a PEM file, '
            f"not {path!r}"
        )
    return path
