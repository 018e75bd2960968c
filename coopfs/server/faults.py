"""What an error of the operating system means for one partner's folder: the one edge."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from coopfs.errors import ObjectNotFound, StoreUnavailable
from coopfs.oserrors import store_error
from coopfs.server.places import Places


@contextmanager
def translated(places: Places, label: str) -> Iterator[None]:
    """Turn an OSError within into the error of coopfs that says what it means."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as exc:
        if not os.path.isdir(places.objects):
            raise StoreUnavailable(
                f"{label}: the folder of this store is gone; is the server's disk mounted?"
            ) from exc
        raise ObjectNotFound(f"{label}: there is no such object") from exc
    except OSError as exc:
        raise store_error(exc, label, places.top) from exc
