"""What an object is called and how its file is opened, for the store and the server alike.

Layout and rules: coopfs-format(5), "The archive in the store".
"""

from __future__ import annotations

import os
import re
from typing import Final

from coopfs.ids import ObjectId

KINDS: Final = ("data", "index", "snapshots", "keys", "locks")
LOCKS: Final = "locks"  # restic's own; the one kind a server really deletes
FANNED_OUT: Final = "data"  # the one kind whose folder has a folder for each first byte
CONFIG: Final = "config"

CONFIG_LEN_MAX: Final = 64 << 10  # bytes; a real one is a few hundred

# No symlink and no FIFO may stand for an object: whoever can write to the folder must
# neither lead a reader elsewhere nor make open() wait.  What else was opened, fstat() tells.
READ_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY

_OBJECT_NAME = re.compile(r"[0-9a-f]{64}")


def parse_object_name(text: str) -> ObjectId | None:
    """Return the name spelled by *text*, or None for anything that is not an object's."""
    return ObjectId(bytes.fromhex(text)) if _OBJECT_NAME.fullmatch(text) else None
