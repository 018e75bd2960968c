"""The folder a store is made in: what may be there before, and what is there after."""

from __future__ import annotations

import os
from contextlib import suppress

from coopfs.durable import FOLDER_MODE, TEMPORARY_PREFIX, sync_folder
from coopfs.errors import NotAStore, StoreError
from coopfs.store.base import CONFIG, KINDS, parse_object_name

_NAMES_SHOWN = 5  # in a message about a folder that is not a store


def names_in(folder: str) -> str:
    """Return what is in *folder*, for a message: a few names, and how many more."""
    names = sorted(os.listdir(folder))
    if not names:
        return "an empty folder"
    shown = ", ".join(ascii(name) for name in names[:_NAMES_SHOWN])
    return shown if len(names) <= _NAMES_SHOWN else f"{shown} and {len(names) - _NAMES_SHOWN} more"


def make_folders(root: str) -> None:
    """Make the folder *root*, those above it and those of the store, durably."""
    fresh = [root]
    while not os.path.lexists(os.path.dirname(fresh[-1])):
        fresh.append(os.path.dirname(fresh[-1]))
    os.makedirs(root, FOLDER_MODE, exist_ok=True)
    for kind in KINDS:
        with suppress(FileExistsError):
            os.mkdir(os.path.join(root, kind), FOLDER_MODE)
    sync_folder(root)
    for path in fresh:
        with suppress(PermissionError):  # a parent like /home may be passed, not read
            sync_folder(os.path.dirname(path))


def refuse_what_is_there(root: str) -> None:
    """Raise unless create() may use the folder *root* (absent, empty, or begun)."""
    try:
        names = os.listdir(root)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise NotAStore(f"{root}: not a folder, so no store can be made in it") from None
    if CONFIG in names:
        raise StoreError(
            f"{root}: holds a store already; choose another folder, or use the archive in it"
        )
    # A fresh file system has its own folder for what fsck finds.
    strangers = {n for n in names if not n.startswith(TEMPORARY_PREFIX)}
    strangers -= {*KINDS, "lost+found"}
    if strangers:
        raise NotAStore(
            f"{root}: not empty, so no store is made in it: found {names_in(root)}; "
            f"choose an empty or a new folder"
        )
    for kind in KINDS:
        for _, _, files in os.walk(os.path.join(root, kind)):
            if any(map(parse_object_name, files)):
                raise NotAStore(
                    f"{root}: has objects in {kind}/ but no config: a damaged store? "
                    f"Choose an empty or a new folder"
                )
