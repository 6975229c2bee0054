"""Prediction from a user's own files: a FASTA and signals, made into a store of their own for the while."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import yaml

from genostore.errors import QueryError


def parse_files(pairs: tuple[str, ...], option: str) -> dict[tuple[str, str], str]:
    """(cell type, assay) to file, of texts like ``K562:DNase=open.bw``.

    Raises
    ------
    genostore.errors.QueryError
        For a text of another form.
    """
    files: dict[tuple[str, str], str] = {}
    for pair in pairs:
        key, equals, file = pair.partition("=")
        cell, colon, assay = key.partition(":")
        if not (equals and colon and cell and assay and file):
            raise QueryError(f"{option} {pair!r} is not CELL:ASSAY=FILE, such as K562:DNase=open.bw")
        files[cell, assay] = file
    return files


@contextmanager
def temporary_store(
    fasta: str | Path,
    tracks: Mapping[tuple[str, str], str],
    contacts: Mapping[tuple[str, str], str],
    bin_size: int | None = None,
) -> Iterator[Path]:
    """A store of a user's files, gone afterwards: what the command ``genostore ingest`` makes of a catalogue of them.

    Parameters
    ----------
    fasta
        The sequence.
    tracks, contacts
        (cell type, assay) to bigWig or bedGraph, and to .cool, .mcool or .hic.
    bin_size
        Of the contacts.

    Raises
    ------
    genostore.errors.QueryError
        When the command is not there.
    genostore.errors.CatalogueError
        For all that is wrong with the files, at once.
    """
    commands = list(entry_points(group="genostore.commands", name="ingest"))
    if not commands:
        raise QueryError(
            "files are read by `genostore ingest`, which is not installed: pip install 'genostore[ingest]'"
        )

    def entries(files: Mapping[tuple[str, str], str], **more: Any) -> list[dict[str, Any]]:
        return [
            {"cell_type": cell, "assay": assay, "source": _source(file), **more}
            for (cell, assay), file in files.items()
        ]

    catalogue: dict[str, Any] = {
        "version": 1,
        "assembly": {"name": "own", "fasta": _source(fasta)},
        "tracks": entries(tracks),
        "contacts": entries(contacts, bin_size=bin_size),
    }
    with tempfile.TemporaryDirectory(prefix="prism-") as folder:
        path, store = Path(folder, "catalog.yaml"), Path(folder, "own.zarr")
        path.write_text(yaml.safe_dump({key: value for key, value in catalogue.items() if value}, sort_keys=False))
        options = {"workers": 1, "scheduler": None, "dry_run": False, "overwrite": False}
        with redirect_stdout(sys.stderr):  # what is on standard output is predictions
            commands[0].load().callback(catalog=path, store=store, **options)
        yield store


def _source(file: str | Path) -> str:
    text = str(file)
    return text if "://" in text else str(Path(text).expanduser().resolve())
