"""Read and check a catalogue: every problem that its text and the disk can show, in one report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from genostore.errors import nearest
from ingest.catalogue.document import Document
from ingest.catalogue.entries import (
    Assembly,
    ColumnSplit,
    Contacts,
    ContigSplit,
    ExpressionSignal,
    ExpressionTable,
    Features,
    GeneNames,
    Genes,
    Regions,
    Track,
)
from ingest.catalogue.model import Catalogue
from ingest.catalogue.problems import Location, described, explain, report
from ingest.catalogue.sources import expand, is_glob, located, missing, substitute
from ingest.catalogue.together import clashes
from ingest.fetch import redact, scheme, states_checksum

VERSION = 1

_Raw = dict[str, Any]
_ModelOf = Callable[[_Raw], type[BaseModel]]

_SINGLE: dict[str, _ModelOf] = {
    "assembly": lambda raw: Assembly,
    "genes": lambda raw: Genes,
    "splits": lambda raw: ColumnSplit if raw.keys() & {"source", "columns", "gene_id"} else ContigSplit,
}
_LISTED: dict[str, _ModelOf] = {
    "features": lambda raw: Features,
    "tracks": lambda raw: Track,
    "contacts": lambda raw: Contacts,
    "expression": lambda raw: ExpressionTable if raw.keys() & {"columns", "gene_id"} else ExpressionSignal,
    "regions": lambda raw: Regions,
}
_WITH_GLOBS = ("tracks", "contacts")


def load(path: str | PathLike[str], *, check_files: bool = True) -> Catalogue:
    """Read a catalogue, check it and make its paths absolute.

    Nothing in it executes and nothing is fetched: what is remote is not looked at. Whether contigs agree with the
    assembly is the planner's to say, because that takes the files.

    Parameters
    ----------
    path
        A YAML file, such as ``catalog.yaml``.
    check_files
        Whether local files must be there. Globs need theirs in any case.

    Returns
    -------
    Catalogue
        With globs expanded, ``${NAME}`` replaced and local paths absolute.

    Raises
    ------
    CatalogueError
        With every problem found: its line, its place, what was got, what was expected and the nearest right name.
    """
    document = Document.read(path)
    return _Reader(document, Path(fspath(path)).absolute().parent, check_files).catalogue()


class _Reader:
    """Turns a document into a catalogue and collects what is wrong with it."""

    def __init__(self, document: Document, folder: Path, check_files: bool) -> None:
        self.document = document
        self.folder = folder
        self.check_files = check_files
        self.problems = list(document.problems)
        self.written: dict[tuple[str, int], int] = {}

    def problem(self, location: Location, message: str) -> None:
        self.problems.append(self.document.problem(location, message))

    def catalogue(self) -> Catalogue:
        data = self.document.data
        if not isinstance(data, dict):
            self.problem((), f"expected a catalogue, which starts with 'version: {VERSION}', got {described(data)}")
            data = {}
        else:
            self._check_top(data)
        parts: _Raw = {"version": VERSION}
        for section, model_of in _SINGLE.items():
            if data.get(section) is not None:
                parts[section] = self._entry((section,), data[section], model_of)
        for section, model_of in _LISTED.items():
            if data.get(section) is not None:
                parts[section] = tuple(self._entries(section, data[section], model_of))
        for location, message in clashes(parts, data, self._where, self.document.line):
            self.problem(location, message)
        report(self.document.path, self.problems)
        catalogue = Catalogue(**parts)
        catalogue._document = self.document
        catalogue._written = self.written
        return catalogue

    def _where(self, section: str, index: int) -> Location:
        return (section, self.written[section, index])

    def _check_top(self, data: _Raw) -> None:
        for key in data.keys() - Catalogue.model_fields.keys():
            self.problem((key,), f"unknown key; {nearest(key, Catalogue.model_fields, limit=20)}")
        if "version" not in data:
            self.problem((), f"the key 'version' is missing; start with 'version: {VERSION}'")
        elif data["version"] != str(VERSION):
            got = described(data["version"])
            self.problem(("version",), f"this program reads version {VERSION} of the catalogue, got {got}")
        if data.get("assembly") is None:
            self.problem(("assembly",), "the key 'assembly' is missing; give the genome's name and its fasta")

    def _entries(self, section: str, raws: object, model_of: _ModelOf) -> Iterator[BaseModel]:
        if not isinstance(raws, tuple):
            self.problem((section,), f"expected a list of entries, each after a '- ', got {described(raws)}")
            return
        count = 0
        for index, raw in enumerate(raws):
            expanded = self._expanded((section, index), raw) if section in _WITH_GLOBS else [raw]
            for one in expanded:
                entry = self._entry((section, index), one, model_of)
                if entry is not None:
                    self.written[section, count] = index
                    count += 1
                    yield entry

    def _expanded(self, location: Location, raw: object) -> list[object]:
        """An entry, or one for each file that its glob matches."""
        source = raw.get("source") if isinstance(raw, dict) else None
        if not isinstance(raw, dict) or not isinstance(source, str):
            return [raw]
        try:
            pattern = located(substitute(source), self.folder)
        except ValueError:  # reported where the entry is read
            return [raw]
        if not is_glob(pattern):
            return [raw]
        try:
            matches = list(expand(pattern))
        except ValueError as error:
            self.problem((*location, "source"), str(error))
            return []
        for key in raw.keys() & {"sha256", "md5", "accession"}:
            if len(matches) > 1:
                self.problem((*location, key), f"is of one file, but the source matches {len(matches)}")
                return []
        for key in matches[0][1].keys() & raw.keys():
            self.problem((*location, key), f"is given twice: here and by {{{key}}} in the source; keep one")
            return []
        return [{**raw, **fields, "source": path} for path, fields in matches]

    def _entry(self, location: Location, raw: object, model_of: _ModelOf) -> BaseModel | None:
        if not isinstance(raw, dict):
            self.problem(location, f"expected a mapping of key: value, got {described(raw)}")
            return None
        model = model_of(raw)
        located_raw = self._with_source(location, raw, getattr(model, "source_key", None))
        if model is Genes and isinstance(raw.get("names"), dict):
            names = self._with_source((*location, "names"), raw["names"], GeneNames.source_key)
            located_raw = {**located_raw, "names": names}
        try:
            return model.model_validate(located_raw)
        except ValidationError as error:
            for within, message in explain(error, model, raw):
                self.problem((*location, *within), message)
            return None

    def _with_source(self, location: Location, raw: _Raw, key: str | None) -> _Raw:
        """The entry with its source made absolute, after checking it."""
        source = raw.get(key) if key is not None else None
        if key is None or not isinstance(source, str) or not source:
            return raw
        try:
            found = located(substitute(source), self.folder)
        except ValueError as error:
            self.problem((*location, key), str(error))
            return raw
        if is_glob(found):
            # In tracks and contacts a glob has been expanded by now, so that what is left is a file's own name.
            if location[0] not in _WITH_GLOBS:
                self.problem((*location, key), "is a glob; only tracks and contacts may have one")
        elif scheme(found):
            if not (raw.get("sha256") or raw.get("md5") or states_checksum(found)):
                self.problem(
                    (*location, key),
                    f"{redact(found)} has no checksum; add sha256: or md5:, as its publisher states it or as "
                    "sha256sum prints it for a copy that you trust",
                )
        elif self.check_files and (why := missing(found)):
            self.problem((*location, key), why)
        return {**raw, key: found}
