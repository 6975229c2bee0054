"""A toy store written through the public writer, and the plain numpy arrays that it must give back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import genostore
from genostore.genome import Genome
from genostore.schema import band_array, column_array, position_array, track_name
from genostore.staging import Staging, create
from genostore.storage import Storage

ALIGNMENT = 256  # small, so that small contigs have many chunks
CONTIGS = {"chr1": 5_000, "chr2": 3_001, "chrM": 700}
BIN = 100
OFFSETS = 12


@dataclass
class Toy:
    """A store and the truth it was written from."""

    path: Path
    genome: Genome
    sequence: dict[str, np.ndarray]
    tracks: dict[tuple[str, str], dict[str, np.ndarray]]
    matrices: dict[str, np.ndarray]
    weights: np.ndarray
    genes: pd.DataFrame
    expression: np.ndarray

    def open(self) -> genostore.Store:
        return genostore.open(self.path)


def write_positions(
    storage: Storage,
    genome: Genome,
    node: str,
    values: dict[str, np.ndarray],
    fill: float,
    attributes: dict[str, Any],
) -> None:
    """Write an array along the genome axis from one array a contig."""
    dtype = next(iter(values.values())).dtype
    schema = position_array(genome.length, genome.alignment, str(dtype), fill)
    axis = np.full(genome.length, fill, dtype=dtype)
    for contig in genome:
        axis[contig.offset : contig.offset + contig.length] = values[contig.name]
    staging = Staging(storage, node, {"": schema}, "test")
    staging.begin()
    for block in staging.todo():
        staging.write(block, axis[schema.slices(block)[0]]).wait()
    staging.publish(attributes)


def write_columns(storage: Storage, node: str, columns: dict[str, Any], attributes: dict[str, Any]) -> None:
    """Write a group of columns."""
    arrays = {}
    for name, values in columns.items():
        dtype = "string" if np.asarray(values).dtype.kind in "OTU" else str(np.asarray(values).dtype)
        arrays[name] = column_array(len(values), "gene" if node == "genes" else "interval", dtype)
    staging = Staging(storage, node, arrays, "test")
    staging.begin()
    for name, values in columns.items():
        staging.write_column(np.asarray(values, dtype=object if arrays[name].dtype == "string" else None), name)
    staging.publish(attributes)


def write_vector(storage: Storage, node: str, values: np.ndarray, attributes: dict[str, Any]) -> None:
    """Write one column along the gene axis."""
    staging = Staging(storage, node, {"": column_array(len(values), "gene", str(values.dtype))}, "test")
    staging.begin()
    staging.write_column(values)
    staging.publish(attributes)


def build_toy(path: Path, seed: int = 0) -> Toy:
    """Write a store of three contigs, two cell types, a stranded pair, contacts, genes and expression."""
    rng = np.random.default_rng(seed)
    genome = Genome.build("toy", CONTIGS, ALIGNMENT)
    storage = create(path, genome)
    sequence = {c: (rng.integers(0, 5, n) + 8 * (rng.random(n) < 0.2)).astype(np.uint8) for c, n in CONTIGS.items()}
    write_positions(storage, genome, "sequence", sequence, 4, {"kind": "sequence"})
    tracks: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    for cell in ("A", "B"):
        for assay, strand, role in (
            ("H3K27ac", None, "foreground"),
            ("DNase", None, "background"),
            ("RNA", "+", None),
            ("RNA", "-", None),
        ):
            values = {}
            for contig, n in CONTIGS.items():
                track = rng.normal(size=n).astype(np.float32)
                track[rng.random(n) < 0.3] = np.nan
                values[contig] = track
            name = track_name(assay, strand)
            tracks[cell, name] = values
            attributes = {"kind": "track", "cell_type": cell, "assay": assay, "strand": strand, "role": role}
            write_positions(storage, genome, f"tracks/{cell}/{name}", values, np.nan, attributes)
    matrices, weights = write_contacts(storage, genome, rng)
    genes = toy_genes(rng)
    attributes = {
        "kind": "genes",
        "n": len(genes),
        "columns": list(genes.columns),
        "splits": ["split", "fold_1"],
    }
    write_columns(storage, "genes", {c: genes[c].to_numpy() for c in genes}, attributes)
    expression = rng.gamma(2.0, 10.0, size=(len(genes), 2)).astype(np.float32)
    expression[3, 0] = np.nan
    expression[5] = np.nan
    for c, cell in enumerate(("A", "B")):
        attributes = {"kind": "expression", "assay": "CAGE", "cell_type": cell, "transform": "log10p1"}
        write_vector(storage, f"expression/CAGE/{cell}", expression[:, c], attributes)
        promoter = np.full(len(genes), c, dtype=np.float32)
        attributes = {"kind": "feature", "cell_type": cell}
        write_vector(storage, f"features/{cell}/promoter_activity", promoter, attributes)
    length = np.arange(len(genes), dtype=np.float32)
    write_vector(storage, "features/CDSLEN", length, {"kind": "feature", "cell_type": None})
    blacklist = {"contig": ["chr1", "chr2"], "start": [1_950, 10], "end": [1_960, 20]}
    attributes = {"kind": "regions", "n": 2, "columns": list(blacklist)}
    write_columns(storage, "regions/blacklist", blacklist, attributes)
    return Toy(path, genome, sequence, tracks, matrices, weights, genes, expression)


def write_contacts(
    storage: Storage, genome: Genome, rng: np.random.Generator
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Write a symmetric matrix a contig as a band, with divisive weights."""
    matrices = {}
    n_bins = genome.n_bins(BIN)
    band = np.zeros((n_bins, OFFSETS), dtype=np.int32)
    for contig in genome:
        n, low = contig.n_bins(BIN), genome.bin_offsets(BIN)[contig.name]
        upper = np.triu(rng.poisson(5, (n, n)))
        matrices[contig.name] = upper + np.triu(upper, 1).T
        for d in range(min(OFFSETS, n)):
            band[low : low + n - d, d] = np.diagonal(upper, d)
    weights = rng.uniform(0.5, 2.0, n_bins)
    weights[[4, 60]] = np.nan
    weights[7] = 0.0
    for cell in ("A", "B"):
        arrays = {
            "band": band_array(n_bins, OFFSETS, "int32"),
            "weights/VC": column_array(n_bins, "bin", "float64"),
        }
        staging = Staging(storage, f"contacts/{cell}/hic/{BIN}", arrays, "test")
        staging.begin()
        for block in staging.todo("band"):
            staging.write(block, band[arrays["band"].slices(block)], "band").wait()
        staging.write_column(weights, "weights/VC")
        attributes = {
            "kind": "contacts",
            "cell_type": cell,
            "assay": "hic",
            "bin_size": BIN,
            "weights": ["VC"],
        }
        staging.publish(attributes, {"weights/VC": {"divisive": True}})
    return matrices, weights


def toy_genes(rng: np.random.Generator) -> pd.DataFrame:
    """Ten genes, some at the ends of their contigs."""
    contig = ["chr1"] * 6 + ["chr2"] * 4
    tss = [5, 700, 1_500, 2_000, 4_990, 3_000, 0, 900, 1_700, 2_999]
    return pd.DataFrame(
        {
            "id": [f"G{i:02d}" for i in range(10)],
            "name": [f"gene{i}" if i != 9 else "gene8" for i in range(10)],
            "contig": contig,
            "start": tss,
            "end": [t + 1 for t in tss],
            "tss": tss,
            "strand": list("+-" * 5),
            "biotype": ["protein_coding"] * 10,
            "split": ["train"] * 6 + ["test"] * 4,
            "fold_1": ["test"] * 3 + ["train"] * 7,
        }
    )


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """The toy store, for tests that only read."""
    return build_toy(tmp_path_factory.mktemp("toy") / "toy.zarr")


@pytest.fixture
def own_toy(tmp_path: Path) -> Toy:
    """A toy store of its own, for tests that change it."""
    return build_toy(tmp_path / "toy.zarr")
