"""``index.json``: what a store holds, in one object.

It is a cache: every entry repeats a node's own attributes, and :func:`rebuild` makes it anew from them.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from genostore.errors import CorruptionError, FormatError
from genostore.schema import FORMAT_VERSION, KEY, check_node, check_version, summary
from genostore.seal import SEAL, broken, stamped
from genostore.storage import INDEX, METADATA, Storage

Entries = dict[str, dict[str, Any]]


def read(storage: Storage) -> Entries:
    """Read the index: ``{node path: its attributes without the list of shards}``.

    A store without one (a copy that left it out, say) is listed instead.
    """
    raw = storage.read(INDEX)
    if raw is None:
        return dict(scan(storage))
    return {node: entry for node, entry in _nodes(storage, raw).items() if not entry.get("removed")}


def _nodes(storage: Storage, raw: bytes) -> Entries:
    """Parse and check the index; it has the removed nodes too."""
    try:
        content = json.loads(raw)
        check_version(content, f"{storage.root}/{INDEX}")
        why = broken(raw, INDEX)
        if why is not None:
            raise ValueError(why)
        nodes: Entries = content["nodes"]
        for node in nodes:
            check_node(node)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(
            f"{storage.root}/{INDEX} is damaged ({error}); run `genostore reindex {storage.root}` to make it anew"
        ) from error
    return nodes


def update(storage: Storage, changes: Mapping[str, Mapping[str, Any] | None]) -> None:
    """Enter nodes (attributes) or mark them removed (None), whatever other writers do meanwhile."""

    def change(raw: bytes | None) -> bytes:
        nodes = _nodes(storage, raw) if raw else dict(scan(storage))
        for node, attributes in changes.items():
            if attributes is not None:
                nodes[node] = summary(attributes)
            else:  # the generation is kept, so that the next array of this name is a later one
                nodes[node] = {"removed": True, "generation": nodes.get(node, {}).get("generation", 0)}
        return encode(nodes)

    storage.amend(INDEX, change)


def rebuild(storage: Storage) -> Entries:
    """Make the index anew from the nodes' own attributes; what it remembers of removed ones is kept if it can be."""
    nodes: Entries = {}

    def change(raw: bytes | None) -> bytes:
        nodes.clear()
        nodes.update(scan(storage))
        removed: Entries = {}
        with contextlib.suppress(FormatError):
            before = _nodes(storage, raw or b"")
            removed = {node: entry for node, entry in before.items() if entry.get("removed") and node not in nodes}
        return encode({**removed, **nodes})

    storage.amend(INDEX, change)
    return nodes


def write(storage: Storage, nodes: Mapping[str, Mapping[str, Any]]) -> None:
    """Put an index, whatever is there."""
    storage.put(INDEX, encode(nodes))


def encode(nodes: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Give the bytes of an index: a line a node, as the encoder that indents takes ten times longer."""
    encode = json.JSONEncoder(sort_keys=True, allow_nan=False).encode
    lines = ",\n".join(f"{encode(node)}: {encode(nodes[node])}" for node in sorted(nodes))
    text = f'{{"version": {FORMAT_VERSION}, "{SEAL}": "00000000", "nodes": {{\n{lines}\n}}}}\n'
    return stamped(text.encode(), INDEX)


def generation(storage: Storage, node: str) -> int:
    """Return the generation of the node that is there or was last there; 0 if there never was one."""
    with contextlib.suppress(CorruptionError):  # of a node that is about to be replaced, then
        attributes = node_attributes(storage, node)
        if attributes is not None:
            return int(attributes.get("generation", 0))
    raw = storage.read(INDEX)
    return int(_nodes(storage, raw).get(node, {}).get("generation", 0)) if raw else 0


def node_attributes(storage: Storage, node: str, raw: bytes | None = None) -> dict[str, Any] | None:
    """Read a node's own attributes; None where there is no node.

    Raises
    ------
    CorruptionError
        If its metadata cannot be read.
    """
    key = f"{node}/{METADATA}"
    raw = raw or storage.read(key)
    if raw is None:
        return None
    try:
        attributes = json.loads(raw).get("attributes", {}).get(KEY)
        why = broken(raw, key)
        if why is not None:
            raise ValueError(why)
    except (ValueError, AttributeError, RecursionError) as error:
        raise CorruptionError(
            f"the metadata of {node} of {storage.root} are damaged ({error}); ingest it again with --overwrite, or "
            "restore the store from a copy"
        ) from error
    if not isinstance(attributes, dict) or "kind" not in attributes:
        return None
    return {k: v for k, v in attributes.items() if k != SEAL}


def scan(storage: Storage, broken: dict[str, str] | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Find the nodes by listing the store: folders whose metadata say what kind of node they are.

    Parameters
    ----------
    storage
        Of the store.
    broken
        Takes what is wrong with nodes whose metadata cannot be read, by path; without it that is an error.
    """

    def look(path: str) -> tuple[bool, dict[str, Any] | None]:
        raw = storage.read(f"{path}/{METADATA}")
        try:
            return raw is not None, node_attributes(storage, path, raw) if raw is not None else None
        except CorruptionError as error:
            if broken is None:
                raise
            broken[path] = str(error)
            return False, None

    def walk(folder: str) -> Iterator[tuple[str, dict[str, Any]]]:
        names = [name for name in storage.children(folder) if not name.startswith(".")]
        paths = [f"{folder}/{name}".lstrip("/") for name in names]
        for path, (there, attributes) in zip(paths, storage.map(look, paths), strict=True):
            if attributes is not None:
                yield path, summary(attributes)
            elif there:
                yield from walk(path)

    yield from walk("")
