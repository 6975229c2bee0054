"""A catalogue of the published bundle: what it says of each file, with paths relative to itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from genostore.errors import ConflictError, SourceError
from ingest.bundle.layout import FOLDS, MRNA_FEATURES, PROMOTER, Bundle, columns_of, rows_of
from ingest.bundle.profiles import BIN, FLANK, recover_contacts

SIGNALS = (
    ("H3K27ac", "H3K27ac", "foreground", "ChIP-seq signal as published"),
    ("DNase", "DNase-seq", "background", "read-depth normalised signal"),
)
HEADER = """\
# Written by `genostore bundle` from a copy of the data set xingyusu/GeneExp: a TSS on the minus strand is one past the
# first transcribed base, as the release has it. Pickles are not read, and the blacklist, which the release loads and
# never applies, is left out.
"""


def bundle(
    folder: str | os.PathLike[str], out: str | os.PathLike[str], *, tss_of: str | None = None, hic: str = "profiles"
) -> list[str]:
    """Write ``catalog.yaml``, and the contacts that the bundle's Hi-C profiles hold, for ``genostore ingest``.

    Parameters
    ----------
    folder
        The bundle; cell types of which it has both signals are taken.
    out
        A folder for the catalogue and ``contacts/<cell type>.cool``.
    tss_of
        The cell type whose gene list places the windows (a store has one list of genes); the first that lists genes by
        their ids, K562 before others, when left out.
    hic
        ``profiles``: contacts recovered from the bundle's profiles; ``4dn``: the .hic they were cut from, fetched by
        its accession; ``none``.

    Returns
    -------
    list of str
        What to know, a line each.

    Raises
    ------
    SourceError
        If files are missing or are not what their names say.
    ConflictError
        If there is a catalogue already.
    """
    source, out = Bundle(Path(folder).resolve()), Path(out).resolve()
    path = out / "catalog.yaml"
    if path.exists():
        raise ConflictError(f"{path} exists; choose another folder, or remove it")
    notes: list[str] = []
    # Everything that can be wrong is found before the profiles, which take longest.
    genes, cell = _genes(source, tss_of, notes)
    header = columns_of(source.expression)
    content: dict[str, Any] = {
        "version": 1,
        "assembly": {"name": "hg38", "fasta": source.fasta, "contigs": _contigs(source, cell)},
        "genes": genes,
        "features": _features(source),
        "splits": {
            "source": source.splits,
            "gene_id": "ENSID",
            "columns": [fold for fold in FOLDS if fold in columns_of(source.splits)],
        },
        "tracks": [
            {
                "cell_type": cell_type,
                "assay": assay,
                "source": source.signal(named, cell_type),
                "role": role,
                "unit": unit,
                "accession": source.signal(named, cell_type).stem,
            }
            for cell_type in source.cell_types
            for assay, named, role, unit in SIGNALS
        ],
        "expression": _expression(source, header, notes),
    }
    out.mkdir(parents=True, exist_ok=True)
    contacts = _contacts(source, out, hic, notes)
    if contacts:
        content["contacts"] = contacts
    path.write_text(HEADER + yaml.safe_dump(_relative(content, out), sort_keys=False, width=120))
    return notes


def _genes(source: Bundle, tss_of: str | None, notes: list[str]) -> tuple[dict[str, Any], str]:
    lists = {cell: path for cell in source.cell_types if (path := source.gene_list(cell)) is not None}
    by_id = [cell for cell, path in lists.items() if _lists_ids(path)]
    chosen = tss_of or next(iter(sorted(by_id, key=lambda cell: (cell != "K562", cell))), None)
    if chosen is None or chosen not in by_id:
        raise SourceError(
            f"{source.root}: the windows lie at the TSSs of a GeneList.txt that lists Ensembl ids, and "
            f"{f'that of {tss_of}' if tss_of else 'none'} does not; there are {', '.join(by_id) or 'none'}"
        )
    places = {cell: {row[0]: row[1] for row in rows_of(lists[cell], ("symbol", "tss"))} for cell in by_id}
    for cell in by_id:
        both = set(places[cell]) & set(places[chosen])
        moved = sum(places[cell][gene] != places[chosen][gene] for gene in both)
        if moved:
            notes.append(
                f"{moved:,} genes have another TSS in the gene list of {cell} than in that of {chosen}, which places "
                f"all windows; --tss-of {cell} makes a store for that one"
            )
    for cell in source.cell_types:
        used = source.used_genes(cell)
        if used is not None:
            extra = len(set(places[chosen]) - used)
            notes.append(f"{cell}: the release uses {len(used):,} genes; {extra:,} more are in the gene list")
    genes = {
        "source": lists[chosen],
        "columns": {"id": "symbol", "contig": "chr", "tss": "tss", "strand": "strand"},
        "tss_convention": "base",
        "names": {"source": source.splits, "gene_id": "ENSID", "column": "Gene name"},
    }
    return genes, chosen


def _lists_ids(path: Path) -> bool:
    return any(symbol.startswith("ENSG") for (symbol,) in rows_of(path, ("symbol",))[:20])


def _contigs(source: Bundle, cell_type: str) -> list[str]:
    listed = source.gene_list(cell_type)
    assert listed is not None
    on = {contig for (contig,) in rows_of(listed, ("chr",))}
    unknown = sorted(on - set(source.lengths))
    if unknown:
        raise SourceError(f"{listed} has genes on {', '.join(unknown)}, which chr_length.json does not list")
    return [contig for contig in source.lengths if contig in on]


def _features(source: Bundle) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = [
        {
            "source": source.expression,
            "gene_id": "ENSID",
            "columns": list(MRNA_FEATURES),
            "description": "structure of the mRNA, from Xpresso",
        }
    ]
    for cell in source.cell_types:
        path = source.gene_list(cell)
        if path is not None:
            match = {} if _lists_ids(path) else {"match": "name"}
            columns = {"promoter_activity": {"geometric_mean": list(PROMOTER)}}
            entries.append({"source": path, "cell_type": cell, "gene_id": "symbol", **match, "columns": columns})
    return entries


def _expression(source: Bundle, header: list[str], notes: list[str]) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    for assay, column, more in (
        ("CAGE", "{}_CAGE_128*3_sum", {"transform": "log10p1", "unit": "CAGE signal summed over 384 bp at the TSS"}),
        ("RNA", "Actual_{}", {"unit": "RNA-seq level as Xpresso scales it"}),
    ):
        columns = {cell: column.format(cell) for cell in source.cell_types if column.format(cell) in header}
        if columns:
            table = {"source": source.expression, "assay": assay, "gene_id": "ENSID", "columns": columns}
            entries.append({**table, **more})
        for cell in source.cell_types:
            if assay == "CAGE" and cell not in columns:
                path = source.cage(cell)
                if path is None:
                    notes.append(f"{cell}: no CAGE, neither in the table nor as a bigWig")
                    continue
                window = {"aggregate": "sum", "flank": 192, "uncovered": "zero"}
                entries.append({"source": path, "assay": assay, "cell_type": cell, **window, **more})
    return entries


def _contacts(source: Bundle, out: Path, hic: str, notes: list[str]) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    for cell in source.cell_types if hic != "none" else ():
        common = {"cell_type": cell, "assay": "hic", "bin_size": BIN, "role": "background", "unit": "contacts"}
        accession, files = source.hic_accession(cell), source.profiles(cell)
        if hic == "4dn" and accession:
            entries.append({**common, "source": f"4dn:{accession}", "weights": ["VC"]})
        elif hic == "4dn":
            notes.append(f"{cell}: no folder tells the accession of its .hic; contacts left out")
        elif files:
            path = out / "contacts" / f"{cell}.cool"
            n = recover_contacts(files, source.lengths, path)
            said = f"VC-balanced, recovered from {n:,} profiles of the release; holds the rows of bins with a TSS alone"
            named = {"accession": accession} if accession else {}
            entries.append({**common, "source": path, "max_distance": FLANK + BIN, **named, "description": said})
        else:
            notes.append(f"{cell}: no Hi-C profiles; contacts left out")
    return entries


def _relative(value: Any, folder: Path) -> Any:
    """Paths as texts, relative to the catalogue."""
    if isinstance(value, Path):
        return os.path.relpath(value, folder)
    if isinstance(value, dict):
        return {key: _relative(item, folder) for key, item in value.items()}
    return [_relative(item, folder) for item in value] if isinstance(value, list) else value
