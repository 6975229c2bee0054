"""Copying a finished store, such as a pack, from a folder to an object store."""

from __future__ import annotations

from pathlib import Path

from genostore.errors import ConflictError
from genostore.objects import Bucket
from genostore.storage import METADATA, PRIVATE, Storage


def upload(folder: Path, target: Bucket) -> None:
    """Copy a store's objects, its root's ``zarr.json`` last: with it the store exists.

    A store that is there is taken out of sight first, so that readers see the old one, an error, or the new one.

    Parameters
    ----------
    folder
        Of the store; nobody writes into it.
    target
        Where to; what is there is replaced.

    Raises
    ------
    ConflictError
        If another process writes there.
    """
    source = Storage.of(folder)
    keys = {key for key in source.keys("") if not key.startswith(f"{PRIVATE}/")}
    with target.lock("root", "the root", wait=0):
        there = [key for key in target.keys("") if not key.startswith(f"{PRIVATE}/")]
        if there and METADATA not in there and not all(key in keys for key in there):
            raise ConflictError(f"{target.root} is a prefix with other things below it; name a new one")
        target.remove(METADATA)
        documents = [key for key in there if key.endswith(f"/{METADATA}")]
        target.map(target.remove, documents)
        target.map(target.remove, [key for key in there if key not in keys and key not in documents])

        def put(key: str) -> None:
            target.put(key, source.read(key) or b"")

        target.map(put, sorted(key for key in keys if not key.endswith(METADATA)))
        target.map(put, sorted(key for key in keys if key.endswith(f"/{METADATA}")))
        put(METADATA)
