"""pycryptodome's ciphers, called through ctypes: whatever seals or signs starts sooner.

pycryptodome calls its C code through cffi where that can be imported, and cryptography
brings it along.  cffi parses every declaration with a parser written in Python: 40 ms of
a process's start for AES, 100 ms with Ed25519, against 10 and 20 ms through ctypes.  The
calls themselves take as long either way (100 bytes to 1 MiB, sealing and opening), and
both let go of Python's global lock meanwhile.

Through ctypes it asks ``platform.architecture()`` what a library is called, which starts
file(1), found through PATH: 10 ms, and a program nobody asked for.  It is told instead.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


def _call_through_ctypes() -> None:
    """Have pycryptodome decide how it calls C code, as if there were no cffi."""
    modules: dict[str, Any] = sys.modules
    if "cffi" in modules:
        return  # its price is paid
    modules["cffi"] = None  # this is how the import system notes that there is none
    try:
        raw_api = import_module("Crypto.Util._raw_api")
    finally:
        del modules["cffi"]
    known: list[str] | None = getattr(raw_api, "cached_architecture", None)
    if known == []:  # not asked yet
        known[:] = ("64bit" if sys.maxsize > 1 << 32 else "32bit", "ELF")


_call_through_ctypes()

from Crypto.Cipher import AES  # noqa: E402  # only now
from Crypto.Cipher._mode_gcm import GcmMode  # noqa: E402

__all__ = ["AES", "GcmMode", "load_ed25519"]


def load_ed25519() -> tuple[ModuleType, ModuleType]:
    """Return pycryptodome's ECC and eddsa, imported by the first who signs or verifies."""
    from Crypto.PublicKey import ECC
    from Crypto.Signature import eddsa

    return ECC, eddsa
