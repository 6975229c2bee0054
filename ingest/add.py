"""One file into a store that is there, in one line."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from genostore.errors import CatalogueError, FormatError
from genostore.storage import Storage
from ingest.builders import Builder
from ingest.catalogue import Contacts, Track
from ingest.catalogue.problems import Problem, explain, failure, place
from ingest.fetch import fetch
from ingest.nodes.base import Node, SourceFile
from ingest.plan import Plan, root_of
from ingest.progress import Display
from ingest.run import Outcome, run
from ingest.sources.reading import HDF5, HIC, head


def add(
    store: str | PathLike[str],
    file: str | PathLike[str],
    *,
    cell_type: str,
    assay: str,
    role: Literal["foreground", "background"] | None = None,
    unit: str | None = None,
    strand: Literal["+", "-"] | None = None,
    replicate: int | None = None,
    dtype: Literal["float32", "float16"] | None = None,
    bitround: int | None = None,
    bin_size: int | None = None,
    weights: Sequence[str] | Literal["all"] | None = None,
    max_distance: int | None = None,
    divisive: Mapping[str, bool] | None = None,
    accession: str | None = None,
    description: str | None = None,
    sha256: str | None = None,
    md5: str | None = None,
    aliases: Mapping[str, str] | None = None,
    allow_length_mismatch: bool = False,
    overwrite: bool = False,
    workers: int = 1,
    progress: Display | None = None,
) -> Outcome:
    """Add one track, or one matrix of contacts, to a store; nothing that is there is touched.

    Parameters
    ----------
    store
        Path of the store.
    file
        bigWig or bedGraph for a track; .cool, .mcool or .hic for contacts, told by content. A path, a URL (with
        ``sha256`` or ``md5``) or an accession.
    cell_type, assay
        Whose signal or contacts, and of what.
    role, unit, accession, description, sha256, md5, aliases, allow_length_mismatch
        As an entry of the catalogue has them.
    strand, replicate, dtype, bitround
        Of a track.
    bin_size, weights, max_distance, divisive
        Of contacts; the bin size may be left out where the file has one.
    overwrite
        Replace the node that is there.
    workers, progress
        As for :func:`ingest.run`.

    Returns
    -------
    Outcome
        What was written, or was there already.

    Raises
    ------
    FormatError
        If there is no store at the path.
    CatalogueError
        If an argument is not what an entry may have, or does not belong to this kind of file.
    SourceError, ConflictError, WriteError
        As for :func:`ingest.run`.
    """
    storage = Storage.of(store)
    root = root_of(storage)
    if root is None:
        raise FormatError(f"{storage.root} is not a genostore store; `genostore ingest` makes one")
    path = fetch(file, sha256=sha256, md5=md5)
    of_tracks = {"strand": strand, "replicate": replicate, "dtype": dtype, "bitround": bitround}
    of_contacts = {"bin_size": bin_size, "weights": weights, "max_distance": max_distance, "divisive": divisive}
    common = {
        "source": fspath(file),
        "cell_type": cell_type,
        "assay": assay,
        "role": role,
        "unit": unit,
        "accession": accession,
        "description": description,
        "sha256": sha256,
        "md5": md5,
        "aliases": dict(aliases or {}),
        "allow_length_mismatch": allow_length_mismatch,
    }
    entry: Track | Contacts
    contacts = head(path).startswith((HDF5, HIC))
    if contacts:
        _refuse(path, of_tracks, "contacts")
        if bin_size is None:
            of_contacts["bin_size"] = _only_bin_size(path)
        entry = _entry(Contacts, common | of_contacts)
    else:
        _refuse(path, of_contacts, "a track")
        entry = _entry(Track, common | of_tracks)
    source = SourceFile(path, path.name, entry.accession, entry.description)
    with tempfile.TemporaryDirectory(prefix="genostore-") as scratch:
        build = Builder(root.genome, scratch=Path(scratch))
        node: Node = build.contacts(entry, source) if isinstance(entry, Contacts) else build.track(entry, source)
        plan = Plan(storage.root, root.genome, (node,), tuple(build.notes))
        return run(plan, workers=workers, overwrite=overwrite, progress=progress)


def _only_bin_size(path: Path) -> int:
    from ingest.sources.hic import open_contacts

    return open_contacts(path).bin_size


def _refuse(path: Path, arguments: Mapping[str, Any], kind: str) -> None:
    """Refuse arguments that belong to the other kind of file."""
    given = [name for name, value in arguments.items() if value is not None]
    if given:
        raise CatalogueError(f"{path} is {kind}, which takes no {', '.join(given)}")


def _entry(model: type[BaseModel], arguments: Mapping[str, Any]) -> Any:
    """Check arguments as an entry of a catalogue is checked."""
    try:
        return model.model_validate({k: v for k, v in arguments.items() if v is not None})
    except ValidationError as error:
        problems = [Problem(None, place(where), message) for where, message in explain(error, model, arguments)]
        raise failure(None, problems) from None
