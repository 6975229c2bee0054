"""Are the bytes of a node those that were written?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from genostore import index
from genostore.arrays import Array, checksum, combine, read_column
from genostore.errors import GenostoreError
from genostore.storage import METADATA, Storage


def survey(storage: Storage) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Find the nodes of a store, as :func:`genostore.index.scan` does, whatever state they are in.

    Returns
    -------
    nodes : dict
        Attributes by path, without the list of shards.
    broken : dict
        What is wrong with the metadata of those that cannot be read, by path.
    """
    broken: dict[str, str] = {}
    return dict(index.scan(storage, broken)), broken


def arrays_of(storage: Storage, node: str) -> Iterator[str]:
    """Yield the paths of a node's arrays."""
    for key in sorted(storage.keys(node)):
        if key.endswith(f"/{METADATA}") and json.loads(storage.read(key) or b"{}").get("node_type") == "array":
            yield key.removesuffix(f"/{METADATA}")


def damage(array: Array) -> Iterator[str]:
    """Check that every listed shard is there, no other is, and all bytes match their checksums.

    Yields
    ------
    str
        What is wrong.
    """
    listed = array.attributes.get("shards")
    if listed is None:
        yield "does not list its shards"
        return
    keys = set(array.storage.keys(array.path))
    there = {b for b in range(array.schema.n_blocks) if f"{array.path}/{array.schema.key(b)}" in keys}
    for block in sorted(there - set(listed["index"])):
        yield f"shard {block} ({array.schema.key(block)}) is there and not listed"
    if combine(listed["crc32c"]) != array.attributes.get("crc32c"):
        yield "the checksums of its shards do not add up to that of the array"
    for block, expected in zip(listed["index"], listed["crc32c"], strict=True):
        try:
            if array.schema.dtype == "string":
                read_column(array.storage, array.path)
                continue
            got = checksum(array.read(*array.schema.slices(block)))
        except GenostoreError as error:
            yield f"shard {block} ({array.schema.key(block)}): {error}"
            continue
        if got != expected:
            yield f"shard {block} ({array.schema.key(block)}) has crc32c {got}, where its attributes say {expected}"


def intact(storage: Storage, node: str) -> bool:
    """Say whether all of a node's bytes match their checksums."""
    try:
        return not any(any(damage(Array(storage, path))) for path in arrays_of(storage, node))
    except GenostoreError:
        return False
