"""Prediction from a user's own files: a FASTA and signals, made into a store of their own for the while."""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import yaml

from genostore.errors import CatalogueError, NotFoundError, QueryError
from prism_model.config import DataConfig
from prism_model.needs import absent_signals, named, taken


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


def check_given(
    config: DataConfig,
    cell_types: Sequence[str] | None,
    tracks: Mapping[tuple[str, str], str],
    contacts: Mapping[tuple[str, str], str],
) -> None:
    """Check that files give all signals that a model takes, before the time that it takes to read them.

    Raises
    ------
    genostore.errors.NotFoundError
        Naming the options that are missing.
    """
    nodes = [f"tracks/{cell}/{assay}" for cell, assay in tracks]
    nodes += [f"contacts/{cell}/{assay}/{config.contact_bin_size}" for cell, assay in contacts]
    absent = absent_signals(config, cell_types or config.cell_types or (), nodes)
    if absent:
        cell, assay = absent[0]
        option = "--contacts" if assay == config.contacts else "--track"
        raise NotFoundError(
            f"the model takes the signals {taken(config)}, and there is no file of {named(absent)}; give "
            f"{option} {cell}:{assay}=FILE"
        )


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
        "assembly": {"name": Path(fasta).name, "fasta": _source(fasta)},
        "tracks": entries(tracks),
        "contacts": entries(contacts, bin_size=bin_size),
    }
    with tempfile.TemporaryDirectory(prefix="prism-") as folder:
        path, store = Path(folder, "catalog.yaml"), Path(folder, "own.zarr")
        path.write_text(yaml.safe_dump({key: value for key, value in catalogue.items() if value}, sort_keys=False))
        options = {"workers": 1, "scheduler": None, "dry_run": False, "overwrite": False}
        with redirect_stdout(sys.stderr):  # what is on standard output is predictions
            try:
                commands[0].load().callback(catalog=path, store=store, **options)
            except CatalogueError as error:  # nobody has seen the catalogue that it speaks of
                raise CatalogueError(re.sub(r"(?m)^(\s*)catalog\.yaml:\d+: ", r"\1", str(error))) from error
        yield store


def _source(file: str | Path) -> str:
    text = str(file)
    return text if "://" in text else str(Path(text).expanduser().resolve())
