"""What is wrong with entries that are each right alone: things given twice, and names that clash."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from ingest.catalogue.entries import ColumnSplit, ExpressionTable, GeneColumn
from ingest.catalogue.problems import Location, place

_NEED_GENES = ("features", "splits", "expression")


def clashes(
    parts: Mapping[str, Any],
    given: Mapping[str, Any],
    written: Callable[[str, int], Location],
    line: Callable[[Location], int | None],
) -> Iterator[tuple[Location, str]]:
    """Find them.

    Parameters
    ----------
    parts
        The entries that are right, by section.
    given
        The sections as written, right or wrong.
    written
        Where an entry of a section stands in the file.
    line
        The line of a place in the file.

    Yields
    ------
    tuple
        A location in the file, and a message.
    """
    if given.get("genes") is None:
        for section in _NEED_GENES:
            if given.get(section):
                yield (section,), "needs genes; add a genes: section"
    first: dict[tuple[str, ...], tuple[str, int]] = {}
    for (section, index), node in _nodes(parts):
        if node not in first:
            first[node] = section, index
            continue
        here, there = written(section, index), written(*first[node])
        at = f"{place(there)} at line {line(there)}"
        if here == there:  # one glob, two files
            files = [Path(parts[section][i].source).name for i in (first[node][1], index)]
            at = f"the same glob ({' and '.join(files)})"
        yield here, f"{' '.join(node)} is given twice, first by {at}"
    cell_types = {node[1] for node in first if node[0] in ("track", "contacts")}
    cell_types |= {node[2] for node in first if node[0] == "expression"}
    for node, (section, index) in first.items():
        if node[0] == "feature" and node[-1] in cell_types:
            message = f"the feature {node[-1]!r} has the name of a cell type; call it something else"
            yield (*written(section, index), "columns", node[-1]), message
    if isinstance(parts.get("splits"), ColumnSplit):
        for fold in sorted(parts["splits"].columns.keys() & set(get_args(GeneColumn))):
            yield ("splits", "columns", fold), f"{fold!r} is a column of the genes; call the fold something else"


def _nodes(parts: Mapping[str, Any]) -> Iterator[tuple[tuple[str, int], tuple[str, ...]]]:
    """What each entry adds to the store, by the names it adds it under."""
    for i, entry in enumerate(parts.get("tracks", ())):
        yield ("tracks", i), ("track", entry.cell_type, entry.node)
    for i, entry in enumerate(parts.get("contacts", ())):
        yield ("contacts", i), ("contacts", entry.cell_type, entry.assay, f"at {entry.bin_size} bp")
    for i, entry in enumerate(parts.get("features", ())):
        for name in entry.columns:
            yield ("features", i), ("feature", *([entry.cell_type] if entry.cell_type else []), name)
    for i, entry in enumerate(parts.get("expression", ())):
        for cell_type in entry.columns if isinstance(entry, ExpressionTable) else [entry.cell_type]:
            yield ("expression", i), ("expression", entry.assay, cell_type)
    for i, entry in enumerate(parts.get("regions", ())):
        yield ("regions", i), ("regions", entry.name)
