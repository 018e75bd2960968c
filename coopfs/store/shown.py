"""Addresses of stores as they may be shown: passwords taken out."""

from __future__ import annotations

import re
from typing import Final

HIDDEN: Final = "***"

# Up to the last "@" before the path: whoever forgot to escape one is protected too.
_PASSWORD = re.compile(r"(://[^/?#:@]*):[^/?#]*@")


def shown_address(address: str) -> str:
    """Return *address* with *** for the password that any kind of URL may hold.

    Of what rclone calls a connection string (":sftp,user=ann,pass=…:path") only the
    beginning stays.
    """
    if address[:7].lower() == "rclone:":
        kept, comma, _ = address.partition(",")
        return f"{kept}{comma and ',…'}"
    return _PASSWORD.sub(rf"\1:{HIDDEN}@", address, count=1)
