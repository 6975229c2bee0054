"""Does a store hold what it says, and what its sources say?"""

from __future__ import annotations

from dataclasses import dataclass, field
from os import PathLike
from typing import Any

import numpy as np

from genostore import index
from genostore.arrays import Array
from genostore.errors import CatalogueError, GenostoreError
from genostore.genome import Genome
from genostore.storage import Storage
from genostore.store import Store, open
from ingest.catalogue import Catalogue
from ingest.compare import compare
from ingest.integrity import arrays_of, damage, survey
from ingest.plan import Plan, plan
from ingest.progress import Watch
from ingest.wording import counted

# What a node of each kind says of itself, and the dimension of its arrays.
_ATTRIBUTES = {
    "sequence": (),
    "track": ("cell_type", "assay"),
    "contacts": ("cell_type", "assay", "bin_size", "weights"),
    "genes": ("n", "columns", "splits"),
    "feature": ("cell_type",),
    "expression": ("assay", "cell_type", "transform"),
    "regions": ("n", "columns"),
    "packed": (),
    "coordinate": (),
}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes
    ----------
    node
        Where in the store.
    message
        What was got and what was expected, with contig and position where there is one.
    """

    node: str
    message: str

    def __str__(self) -> str:
        return f"{self.node}: {self.message}"


@dataclass
class Verification:
    """What :func:`verify` found.

    Attributes
    ----------
    findings
        What is wrong; empty when all is well.
    nodes
        How many nodes were looked at.
    values
        How many stored values passed their checksum.
    compared
        How many values were compared with a source.
    """

    findings: list[Finding] = field(default_factory=list)
    nodes: int = 0
    values: int = 0
    compared: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    def __str__(self) -> str:
        """Say it in lines: the findings, then what was looked at."""
        against = f", {self.compared:,} values compared with their sources" if self.compared else ""
        looked = f"{counted(self.nodes, 'node')}, {self.values:,} values with their checksums{against}"
        verdict = "all is well" if self.ok else counted(len(self.findings), "finding")
        return "\n".join([*map(str, self.findings), f"{looked}: {verdict}"])


def verify(
    store: str | PathLike[str],
    *,
    deep: bool = False,
    against: Catalogue | str | PathLike[str] | None = None,
    sample: int = 200,
    seed: int = 0,
    progress: Watch | None = None,
) -> Verification:
    """Check a store: its schema, its index, every shard and checksum, and its values against their sources.

    Parameters
    ----------
    store
        Path of the store.
    deep
        Compare every value with the sources, rather than a sample; needs ``against``.
    against
        The catalogue that the store was made from, or its path.
    sample
        Windows of each array that are compared, when not ``deep``.
    seed
        Of the sample.
    progress
        What shows how it goes; nothing by default.

    Returns
    -------
    Verification
        What differs and where; nothing is raised for it.

    Raises
    ------
    FormatError
        If there is no store at the path, or one of another version.
    CatalogueError
        If the catalogue has problems, its sources among them; or if ``deep`` is asked for without one.
    """
    if deep and against is None:
        raise CatalogueError("deep compares every value with its source, so name the catalogue: against=")
    opened = open(store)
    report = Verification()
    found, broken = survey(opened.storage)
    report.findings += [Finding(node, message) for node, message in broken.items()]
    _check_index(opened.storage, found, broken, report)
    _check_groups(opened.storage, found, report)
    with progress or Watch() as show:
        for node, entry in found.items():
            show.look(node)
            report.nodes += 1
            try:
                _check_node(opened.storage, opened.genome, node, entry, report)
            except (GenostoreError, KeyError, TypeError, ValueError) as error:
                report.findings.append(Finding(node, _plainly(error)))
    if against is not None:
        with progress or Watch() as show:
            _compare(opened, plan(against, store), None if deep else sample, seed, report, show)
    return report


def _compare(opened: Store, planned: Plan, sample: int | None, seed: int, report: Verification, show: Watch) -> None:
    """Compare the nodes that a catalogue makes with those of the store, but for the damaged ones."""
    damaged = {finding.node for finding in report.findings}
    for node in planned.nodes:
        show.look(node.path)
        if any(f"{path}/".startswith(f"{node.path}/") for path in damaged):
            continue
        if index.node_attributes(opened.storage, node.path) is None:
            report.findings.append(Finding(node.path, "is in the catalogue and not in the store"))
        else:
            for message in compare(opened, node, sample, seed, report):
                report.findings.append(Finding(node.path, message))
    planned.clean()


def _check_index(
    storage: Storage, found: dict[str, dict[str, Any]], broken: dict[str, str], report: Verification
) -> None:
    """Compare the index with the nodes' own attributes."""
    try:
        listed = index.read(storage)
    except GenostoreError as error:
        report.findings.append(Finding("index.json", str(error)))
        return
    remedy = f"run `genostore reindex {storage.root}`"
    for node in sorted((listed.keys() | found.keys()) - broken.keys()):
        if node not in found:
            report.findings.append(Finding(node, f"is in the index and not in the store; {remedy}"))
        elif node not in listed:
            report.findings.append(Finding(node, f"is in the store and not in the index; {remedy}"))
        elif listed[node] != found[node]:
            report.findings.append(Finding(node, f"the index gives other attributes than the node; {remedy}"))


def _check_node(storage: Storage, genome: Genome, node: str, entry: dict[str, Any], report: Verification) -> None:
    kind = entry["kind"]
    if kind not in _ATTRIBUTES:
        report.findings.append(Finding(node, f"is of kind {kind!r}; known are {', '.join(_ATTRIBUTES)}"))
        return
    lacking = [name for name in (*_ATTRIBUTES[kind], "generation") if name not in entry]
    if lacking:
        report.findings.append(Finding(node, f"lacks the attributes {', '.join(lacking)}"))
    paths = set(arrays_of(storage, node))
    parts = {f"{node}/{part}" for part in _parts(kind, entry)}
    report.findings += [Finding(path, f"is a part of {node} and not there") for path in sorted(parts - paths)]
    for path in sorted(paths):
        array = Array(storage, path)
        expected = _extent(genome, kind, path, entry, storage)
        if expected is not None and array.schema.shape[0] != expected:
            message = f"has {array.schema.shape[0]:,} along {array.schema.dims[0]}, where {expected:,} are expected"
            report.findings.append(Finding(path, message))
        report.findings += [Finding(path, message) for message in damage(array)]
        report.values += int(np.prod(array.schema.shape))


def _parts(kind: str, entry: dict[str, Any]) -> list[str]:
    """Name the arrays that a group must have."""
    if kind == "contacts":
        return ["band", *(f"weights/{name}" for name in entry["weights"])]
    return list(entry["columns"]) if kind in ("genes", "regions") else []


def _check_groups(storage: Storage, found: dict[str, dict[str, Any]], report: Verification) -> None:
    """Check the groups that lead to nodes and to the parts of nodes: without one, other programs find nothing below."""
    paths = [*found, *(f"{node}/{part}" for node, e in found.items() for part in _parts(e["kind"], e))]
    groups = {path.rsplit("/", depth)[0] for path in paths for depth in range(1, path.count("/") + 1)} - found.keys()
    for group in sorted(groups):
        try:
            index.node_attributes(storage, group)
            missing = storage.read(f"{group}/zarr.json") is None
        except GenostoreError as error:
            report.findings.append(Finding(group, str(error)))
            continue
        if missing:
            message = "has no zarr.json, so that other programs do not find what lies in it"
            report.findings.append(Finding(group, message))


def _extent(genome: Genome, kind: str, path: str, entry: dict[str, Any], storage: Storage) -> int | None:
    """Length that the first dimension of an array must have."""
    if kind in ("sequence", "track"):
        return genome.length
    if kind == "contacts":
        return genome.n_bins(entry["bin_size"])
    if kind in ("feature", "expression"):
        genes = index.node_attributes(storage, "genes")
        return int(genes["n"]) if genes else 0
    return int(entry["n"]) if "n" in entry else None


def _plainly(error: Exception) -> str:
    return str(error) if isinstance(error, GenostoreError) else f"its metadata are not of this format ({error!r})"
