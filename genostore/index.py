"""``index.json``: what a store holds, in one object.

It is a cache: every entry repeats a node's own attributes, and :func:`rebuild` makes it anew from them.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from genostore.disk import lock, write_file, writing
from genostore.errors import CorruptionError, FormatError
from genostore.schema import FORMAT_VERSION, KEY, check_node, check_version, summary
from genostore.seal import SEAL, broken, stamped
from genostore.storage import INDEX, PRIVATE, Storage

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
        check_version(content, str(storage.path(INDEX)))
        why = broken(raw, INDEX)
        if why is not None:
            raise ValueError(why)
        nodes: Entries = content["nodes"]
        for node in nodes:
            check_node(node)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(
            f"{storage.path(INDEX)} is damaged ({error}); run `genostore reindex {storage.root}` to make it anew"
        ) from error
    return nodes


def update(storage: Storage, changes: Mapping[str, Mapping[str, Any] | None]) -> None:
    """Enter nodes (attributes) or mark them removed (None), whatever other writers do meanwhile."""
    with writing(storage.root), lock(storage.path(f"{PRIVATE}/locks/index.lock"), "the index", wait=60):
        raw = storage.read(INDEX)
        nodes = _nodes(storage, raw) if raw else dict(scan(storage))
        for node, attributes in changes.items():
            if attributes is not None:
                nodes[node] = summary(attributes)
            else:  # the generation is kept, so that the next array of this name is a later one
                nodes[node] = {"removed": True, "generation": nodes.get(node, {}).get("generation", 0)}
        write(storage, nodes)


def rebuild(storage: Storage) -> Entries:
    """Make the index anew from the nodes' own attributes; what it remembers of removed ones is kept if it can be."""
    with writing(storage.root), lock(storage.path(f"{PRIVATE}/locks/index.lock"), "the index", wait=60):
        nodes = dict(scan(storage))
        removed: Entries = {}
        with contextlib.suppress(FormatError):
            before = _nodes(storage, storage.read(INDEX) or b"")
            removed = {node: entry for node, entry in before.items() if entry.get("removed") and node not in nodes}
        write(storage, {**removed, **nodes})
    return nodes


def write(storage: Storage, nodes: Mapping[str, Mapping[str, Any]]) -> None:
    """Replace the index: a line a node, as the encoder that indents takes ten times longer."""
    encode = json.JSONEncoder(sort_keys=True, allow_nan=False).encode
    lines = ",\n".join(f"{encode(node)}: {encode(nodes[node])}" for node in sorted(nodes))
    text = f'{{"version": {FORMAT_VERSION}, "{SEAL}": "00000000", "nodes": {{\n{lines}\n}}}}\n'
    put(storage, INDEX, stamped(text.encode(), INDEX))


def put(storage: Storage, key: str, content: bytes) -> None:
    """Write an object among the nodes; what a killed process leaves of it stays out of sight."""
    write_file(storage.path(key), content, storage.path(f"{PRIVATE}/tmp"))


def generation(storage: Storage, node: str) -> int:
    """Return the generation of the node that is there or was last there; 0 if there never was one."""
    with contextlib.suppress(CorruptionError):  # of a node that is about to be replaced, then
        attributes = node_attributes(storage, node)
        if attributes is not None:
            return int(attributes.get("generation", 0))
    raw = storage.read(INDEX)
    return int(_nodes(storage, raw).get(node, {}).get("generation", 0)) if raw else 0


def node_attributes(storage: Storage, node: str) -> dict[str, Any] | None:
    """Read a node's own attributes; None where there is no node.

    Raises
    ------
    CorruptionError
        If its metadata cannot be read.
    """
    key = f"{node}/zarr.json"
    raw = storage.read(key)
    if raw is None:
        return None
    try:
        attributes = json.loads(raw).get("attributes", {}).get(KEY)
        why = broken(raw, key)
        if why is not None:
            raise ValueError(why)
    except (ValueError, AttributeError) as error:
        raise CorruptionError(
            f"the metadata of {node} of {storage.root} are damaged ({error}); ingest it again with --overwrite, or "
            "restore the store from a copy"
        ) from error
    if not isinstance(attributes, dict) or "kind" not in attributes:
        return None
    return {k: v for k, v in attributes.items() if k != SEAL}


def scan(storage: Storage) -> Iterator[tuple[str, dict[str, Any]]]:
    """Find the nodes by listing the store: folders whose metadata say what kind of node they are."""

    def walk(folder: Path, node: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for child in sorted(folder.iterdir()):
            if child.name.startswith(".") or not (child / "zarr.json").is_file():
                continue
            path = f"{node}/{child.name}" if node else child.name
            attributes = node_attributes(storage, path)
            if attributes is not None:
                yield path, summary(attributes)
            else:
                yield from walk(child, path)

    yield from walk(Path(storage.root), "")
