"""What an ingest will do, settled before anything is written: every source opened, every problem found."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import pandas as pd

from genostore import index
from genostore.errors import ConflictError, CorruptionError, FormatError, GenostoreError, WriteError, nearest
from genostore.genome import Genome
from genostore.schema import ALIGNMENT, RootSchema
from genostore.seal import read_root
from genostore.storage import Storage
from ingest.builders import Builder
from ingest.catalogue import Catalogue, ColumnSplit, ContigSplit, ExpressionTable, Problem, load, report
from ingest.fetch import cache_folder, cached, fetch, redact
from ingest.genes import GeneAxis, column_split, contig_split, gene_axis, genes_node
from ingest.nodes.base import Node, SourceFile
from ingest.nodes.sequence import SequenceNode
from ingest.progress import Watch
from ingest.sources.fasta import Fasta
from ingest.wording import counted, listed

Location = tuple[str | int, ...]


@dataclass(frozen=True)
class Plan:
    """The nodes to write into one store.

    Attributes
    ----------
    store
        Where the store is, or will be: an absolute path, or a URL.
    genome
        Its assembly; None where the FASTA is still to be fetched.
    nodes
        In the order in which they are written.
    notes
        What is left out of the sources, a line each.
    to_fetch
        Sources that are not here yet; what needs them is not in ``nodes``.
    scratch
        Folder of what was derived from the sources (decompressed, parsed); :meth:`clean` removes it.
    """

    store: str
    genome: Genome | None
    nodes: tuple[Node, ...]
    notes: tuple[str, ...] = ()
    to_fetch: tuple[str, ...] = ()
    scratch: Path | None = field(default=None, repr=False)

    @property
    def size(self) -> int:
        """Bytes of all values, uncompressed."""
        return sum(node.size for node in self.nodes)

    def clean(self) -> None:
        """Remove what was derived from the sources; a plan that is not run again needs it no more."""
        if self.scratch is not None:
            shutil.rmtree(self.scratch, ignore_errors=True)


def plan(
    catalogue: Catalogue | str | PathLike[str],
    store: str | PathLike[str],
    *,
    download: bool = True,
    progress: Watch | None = None,
) -> Plan:
    """Settle what a catalogue puts into a store, and find all that is wrong before anything is written.

    Sources are fetched, opened and checked, their contigs matched with the assembly, and the tables of genes read.

    Parameters
    ----------
    catalogue
        The catalogue or its path.
    store
        Path of the store, which may be there already.
    download
        Fetch sources that are not here. Without it they are named in ``Plan.to_fetch``.
    progress
        What shows how it goes; nothing by default.

    Returns
    -------
    Plan

    Raises
    ------
    CatalogueError
        With every problem, its line in the catalogue, and the source's own message.
    ConflictError
        If the store is there and of another assembly.
    """
    if not isinstance(catalogue, Catalogue):
        catalogue = load(catalogue)
    with progress or Watch() as show:
        return _Planner(catalogue, Storage.of(store), download, show).plan()


def root_of(storage: Storage) -> RootSchema | None:
    """Read the root of a store, None where there is none."""
    raw = storage.read("zarr.json")
    if raw is None:
        return None
    return read_root(raw, storage.root)[0]


class _Planner:
    def __init__(self, catalogue: Catalogue, storage: Storage, download: bool, show: Watch) -> None:
        self.catalogue, self.storage, self.download, self.show = catalogue, storage, download, show
        self.problems: list[Problem] = []
        self.files: dict[Location, SourceFile] = {}
        self.to_fetch: list[str] = []
        name = f"{storage.root}|{catalogue.path}"
        self.scratch = cache_folder() / "scratch" / hashlib.sha256(name.encode()).hexdigest()[:16]

    def plan(self) -> Plan:
        root = root_of(self.storage)
        self._resolve()
        nodes: list[Node] = []
        genome: Genome | None = None
        notes: list[str] = []
        fasta = self.files.get(("assembly",))
        if fasta is not None:
            source = Fasta(fasta.path, self.scratch)
            there = self._there(root)
            self.show.look(fasta.name)
            with self._problem_at(("assembly",)):
                genome = self._genome(fasta, source, root, there.get("sequence"))
            if genome is not None:
                known = frozenset(e["provenance"]["sha256"] for e in there.values() if "provenance" in e)
                builder = Builder(genome, self.catalogue.assembly.aliases, self.scratch, known)
                nodes.append(SequenceNode("sequence", genome, (fasta,), source))
                nodes += self._nodes(builder)
                notes = builder.notes
        report(self.catalogue.path, self.problems)
        if root is not None and genome is not None and root.genome != genome:
            raise ConflictError(different_assembly(self.storage.root, root.genome, genome))
        return Plan(self.storage.root, genome, tuple(nodes), tuple(notes), tuple(self.to_fetch), self.scratch)

    def _resolve(self) -> None:
        """Find, or fetch, the file of every entry."""
        for location, entry in self.catalogue.sources():
            source, stated = entry.source, {"sha256": entry.sha256, "md5": entry.md5}
            with self._problem_at(location):
                if self.download:
                    path: Path | None = fetch(source, **stated, progress=partial(self.show.fetch, redact(source)))
                else:
                    path = cached(source, **stated)
                if path is None:
                    self.to_fetch.append(redact(source))
                else:
                    self.files[location] = SourceFile(path, path.name, entry.accession, entry.description)

    def _there(self, root: RootSchema | None) -> index.Entries:
        """Give the nodes that the store has; none where its index is damaged, which is for later to say."""
        if root is None:
            return {}
        try:
            return index.read(self.storage)
        except (CorruptionError, FormatError):
            return {}

    def _genome(
        self, file: SourceFile, fasta: Fasta, root: RootSchema | None, there: dict[str, Any] | None
    ) -> Genome | None:
        """Lay out the contigs that the entry keeps."""
        entry = self.catalogue.assembly
        lengths: dict[str, int] = {}
        if root is not None and there is not None and there["provenance"]["sha256"] == file.fingerprint.sha256:
            # Of a FASTA that is in the store its contigs are known, so that it needs not be decompressed again.
            all_of_it = not there["provenance"]["options"]
            named = {*(entry.contigs or ()), *entry.aliases.values()}
            if all_of_it or (entry.contigs and named <= set(root.genome.names)):
                lengths = {c.name: c.length for c in root.contigs}
        lengths = lengths or fasta.contigs
        for name in entry.contigs or ():
            if name not in lengths:
                message = f"{file.name} has no contig {name!r}; {nearest(name, lengths)}"
                self.problems.append(self.catalogue.problem(message, "assembly", "contigs"))
        for name, target in entry.aliases.items():
            if target not in lengths:
                message = f"{name!r}: {file.name} has no contig {target!r}; {nearest(target, lengths)}"
                self.problems.append(self.catalogue.problem(message, "assembly", "aliases", name))
        kept = {name: lengths[name] for name in entry.contigs or lengths if name in lengths}
        if not kept:
            return None
        alignment = entry.alignment or (root.alignment if root is not None else ALIGNMENT)
        return Genome.build(entry.name, kept, alignment)

    def _nodes(self, build: Builder) -> Iterator[Node]:
        axis = self._axis(build)
        if axis is not None:
            yield from self._genes(build, axis)
            for location, entry, file in self._entries("features"):
                yield from self._all(location, partial(build.features, entry, file, axis))
            for location, entry, file in self._entries("expression"):
                make = build.expression_table if isinstance(entry, ExpressionTable) else build.expression_signal
                yield from self._all(location, partial(make, entry, file, axis))
        for section, one in (("regions", build.regions), ("tracks", build.track), ("contacts", build.contacts)):
            for location, entry, file in self._entries(section):
                self.show.look(file.name)
                yield from self._all(location, partial(one, entry, file))

    def _entries(self, section: str) -> Iterator[tuple[Location, Any, SourceFile]]:
        """Yield the entries of a section whose files are here."""
        for number, entry in enumerate(getattr(self.catalogue, section)):
            file = self.files.get((section, number))
            if file is not None:
                yield (section, number), entry, file

    def _all(self, location: Location, make: Callable[[], Node | Iterator[Node]]) -> list[Node]:
        """Make the nodes of one entry; what goes wrong becomes a problem of it."""
        with self._problem_at(location):
            made = make()
            return [made] if isinstance(made, Node) else list(made)
        return []

    def _axis(self, build: Builder) -> GeneAxis | None:
        entry, file = self.catalogue.genes, self.files.get(("genes",))
        names = self.files.get(("genes", "names"))
        if entry is None or file is None or (entry.names is not None and names is None):
            return None
        with self._problem_at(("genes",)):
            axis = gene_axis(entry, file, names, build.genome, build.aliases)
            if len(axis.dropped):
                reasons = ", ".join(f"{n} {why}" for why, n in axis.dropped["reason"].value_counts().items())
                build.notes.append(
                    f"genes: left out {counted(len(axis.dropped), 'gene')} of {file.name} ({reasons}): "
                    f"{listed(list(axis.dropped['id']))}"
                )
            return axis
        return None

    def _genes(self, build: Builder, axis: GeneAxis) -> Iterator[Node]:
        sources = [self.files[k] for k in (("genes",), ("genes", "names"), ("splits",)) if k in self.files]
        entry, file = self.catalogue.splits, self.files.get(("splits",))
        splits = pd.DataFrame(index=axis.frame.index)
        with self._problem_at(("splits",)):
            if isinstance(entry, ContigSplit):
                splits = contig_split(entry, axis, build.genome, build.aliases)
            elif isinstance(entry, ColumnSplit) and file is not None:
                splits = column_split(entry, file, axis)
        if isinstance(entry, ColumnSplit) and file is None:
            return  # the genes need their splits
        if len(splits.columns):
            left_out = int((splits == "").all(axis=1).sum())
            if left_out:
                build.notes.append(f"genes: {left_out:,} of {len(axis.frame):,} are in no split")
        assert self.catalogue.genes is not None  # or there were no axis
        wanted = {"biotypes", "tss", "tss_convention"}
        stated = self.catalogue.genes.model_dump(mode="json", include=wanted, exclude_none=True)
        yield genes_node(build.genome, sources, axis, splits, stated)

    def _problem_at(self, location: Location) -> _Collecting:
        """Make a problem of what is raised."""
        return _Collecting(lambda message: self.problems.append(self.catalogue.problem(message, *location)))


class _Collecting:
    """A context that notes our errors instead of raising them; a store or cache that cannot be written ends all."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, GenostoreError) or isinstance(error, WriteError):
            return False
        self._note(str(error))
        return True


def different_assembly(store: str, there: Genome, here: Genome) -> str:
    """Say how the assembly of a store differs from that of a catalogue."""
    lengths = {c.name: c.length for c in there}
    for contig in here:
        if contig.name not in lengths:
            how = f"the store lacks contig {contig.name!r}"
            break
        if lengths[contig.name] != contig.length:
            how = f"{contig.name} is of {lengths[contig.name]:,} bases there and of {contig.length:,} here"
            break
    else:
        how = "other contigs, another order, another name or another alignment"
    return (
        f"{store} holds assembly {there.name} ({len(there)} contigs), and the catalogue is of {here.name} "
        f"({len(here)} contigs): {how}. An assembly is fixed when a store is made, so ingest into a new store"
    )
