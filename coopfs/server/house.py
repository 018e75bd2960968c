"""What holds for the whole server: rates of the line, and limits on who knocks.

Owns ``ROOT/serve.toml``; it need not exist.  coopfs-config(5), "The server".
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from coopfs.bandwidth import Schedule
from coopfs.errors import ConfigError, UsageError

HOUSE_FILE: Final = "serve.toml"


@dataclass(frozen=True, slots=True)
class HouseSettings:
    """Settings of the server; every one of them may change while it runs."""

    receive_rate: str = ""  # schedules (coopfs/bandwidth.py), for all partners together
    send_rate: str = ""
    connections: int = 1000  # open at once; an idle one costs about 0.1 MB
    connections_partner: int = 100  # ... of one partner
    connections_stranger: int = 20  # ... of one address that has not shown its key yet
    handshake_s: int = 10  # from connecting to having shown a key
    head_s: int = 20  # from the first byte of a request to the end of its head
    idle_s: int = 600  # between two requests
    stall_s: int = 60  # without a byte where some should flow
    slow_bytes_per_s: int = 256  # less, over stall_s, counts as nothing


def load_house(root: Path) -> HouseSettings:
    """Read the settings; without a file all have their defaults.

    Raises:
        ConfigError: it cannot be read or does not say what it must.
    """
    import tomllib

    path = root / HOUSE_FILE
    try:
        table = tomllib.loads(path.read_bytes().decode())
    except FileNotFoundError:
        return HouseSettings()
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from exc
    except ValueError as exc:  # not TOML, or not UTF-8
        raise ConfigError(f"{path}: not valid TOML: {exc}") from exc
    values: dict[str, Any] = {}
    for name, default in dataclasses.asdict(HouseSettings()).items():
        value = table.pop(name, default)
        if type(value) is not type(default) or (type(value) is int and value < 1):
            words = "text" if isinstance(default, str) else "a whole number, 1 or more"
            raise ConfigError(f"{path}: {name} is {value!r}; expected {words}")
        values[name] = value
    if table:
        raise ConfigError(f"{path}: unknown setting {min(table)!r}; see coopfs-config(5)")
    try:
        for name in ("receive_rate", "send_rate"):
            Schedule.parse(values[name])
    except UsageError as exc:
        raise ConfigError(f"{path}: {exc}") from exc
    return HouseSettings(**values)
