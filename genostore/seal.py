"""Metadata that notice their own damage: each document carries the CRC-32C of its bytes and of its place.

A chunk has its checksum beside it, and metadata have theirs inside: ``metadata_crc32c`` among our attributes, eight
hexadecimal digits, computed with zeros in their place over the path of the object and then its bytes. So a flipped
bit, and an object that lies where another belongs, is an error wherever it is read. The same content in other spacing
(a program that wrote the JSON anew) passes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import google_crc32c

from genostore.errors import FormatError
from genostore.schema import KEY, RootSchema, dumps

SEAL = "metadata_crc32c"
_BLANK = "0" * 8
_FIELD = re.compile(rb'("metadata_crc32c": ")([0-9a-f]{8})(")')  # quotes in texts are escaped, so no text matches


def seal(document: Mapping[str, Any], key: str) -> bytes:
    """Serialise a ``zarr.json`` with its checksum.

    Parameters
    ----------
    document
        With our attributes or without; a checksum that is there is made anew.
    key
        Path of the object in the store, such as ``tracks/K562/DNase/zarr.json``.
    """
    attributes = document.get("attributes", {})
    sealed = {**attributes, KEY: {**attributes.get(KEY, {}), SEAL: _BLANK}}
    return stamped(dumps({**document, "attributes": sealed}), key)


def stamped(raw: bytes, key: str) -> bytes:
    """Put the checksum into a document that has zeros for it."""
    value = b"%08x" % _crc(raw, key)
    return _FIELD.sub(rb"\g<1>" + value + rb"\g<3>", raw, count=1)


def broken(raw: bytes, key: str) -> str | None:
    """Say in what a document differs from what was written; None if in nothing, or if it carries no checksum.

    Parameters
    ----------
    raw
        Its bytes.
    key
        Path of the object in the store.
    """
    found = _FIELD.search(raw)
    if found is None:
        return None
    stated = int(found[2], 16)
    if _crc(_FIELD.sub(rb"\g<1>00000000\g<3>", raw, count=1), key) == stated or _respelled(raw, key, stated):
        return None
    return "its bytes, or its place, are not those that were written: its checksum differs"


def sealed(raw: bytes) -> bool:
    """Tell whether a document carries a checksum."""
    return _FIELD.search(raw) is not None


def read_root(raw: bytes, where: str) -> tuple[RootSchema, dict[str, Any]]:
    """Parse and check the ``zarr.json`` of a store's root.

    Returns
    -------
    schema : RootSchema
    metadata : dict
        The document.

    Raises
    ------
    FormatError
        If it is damaged, not that of a store, or of another version.
    """
    try:
        metadata = json.loads(raw)
        root = RootSchema.from_json(metadata, where)
        why = broken(raw, "zarr.json")
        if why is not None:
            raise ValueError(why)
    except (ValueError, AttributeError, RecursionError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"the metadata of {where} are damaged: {error}") from error
    return root, metadata


def _respelled(raw: bytes, key: str, stated: int) -> bool:
    """Tell whether the content is that of the checksum, if not its spelling (or if it was consolidated)."""
    try:
        document = json.loads(raw)
        document.pop("consolidated_metadata", None)
        document["attributes"][KEY][SEAL] = _BLANK
        return _crc(dumps(document), key) == stated
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False


def _crc(raw: bytes, key: str) -> int:
    return int(google_crc32c.extend(google_crc32c.value(key.encode()), raw))
