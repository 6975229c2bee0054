"""A tiny store to train on, and the official release's numbers to agree with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genostore.genome import Genome
from genostore.schema import band_array, column_array, position_array
from genostore.staging import Staging, create
from prism_model.prism import Prism

CONTIGS = {"chr1": 30_000, "chr2": 12_000, "chr3": 12_000}
SPLITS = {"chr1": "train", "chr2": "valid", "chr3": "test"}
BIN = 500
WIDTH = 256
CELLS = ("A", "B")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny models gain nothing from more, and on a busy machine lose much by waiting for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Parity:
    """An official checkpoint and what the official code makes of it."""

    path: Path
    config: dict[str, Any]
    arrays: dict[str, np.ndarray]

    def model(self, scan: str = "auto") -> Prism:
        return Prism.from_official(
            self.path,
            center_length=self.config["center_len"],
            context_activation=self.config["weight_activation"],
            scan=scan,
        )

    @property
    def inputs(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        one_hot = torch.eye(5, 4)[torch.from_numpy(self.arrays["base_ids"]).long()]
        return one_hot, torch.from_numpy(self.arrays["signals"]), torch.from_numpy(self.arrays["rna_features"])

    @property
    def target(self) -> torch.Tensor:
        return torch.from_numpy(self.arrays["target"])[:, 0]


@pytest.fixture(scope="session", params=["prism_small", "prism_paper"])
def parity(request: pytest.FixtureRequest, shared: Path) -> Parity:
    """Both sets of official numbers, the small one and that of the paper's sizes."""
    return load_parity(shared, request.param)


@pytest.fixture(scope="session")
def small_parity(shared: Path) -> Parity:
    """The small set of official numbers."""
    return load_parity(shared, "prism_small")


def load_parity(shared: Path, name: str) -> Parity:
    folder = shared / "parity" / name
    with np.load(folder / "io.npz", allow_pickle=False) as arrays:
        return Parity(folder / "official.ckpt", json.loads((folder / "config.json").read_text()), dict(arrays))


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose expression follows from its H3K27ac; three contigs, one a split."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.zarr"
    rng = np.random.default_rng(0)
    genome = Genome.build("tiny", CONTIGS, 1_024)
    storage = create(path, genome)
    genes = [
        (contig, int(tss)) for contig, n in CONTIGS.items() for tss in np.linspace(40, n - 40, n // 1_000).astype(int)
    ]

    def along(node: str, values: dict[str, np.ndarray], fill: float, attributes: dict[str, Any]) -> None:
        axis = np.full(genome.length, fill, dtype=next(iter(values.values())).dtype)
        for contig in genome:
            axis[contig.offset : contig.offset + contig.length] = values[contig.name]
        schema = position_array(genome.length, genome.alignment, str(axis.dtype), fill)
        staging = Staging(storage, node, {"": schema}, "test")
        staging.begin()
        for block in staging.todo():
            staging.write(block, axis[schema.slices(block)[0]]).wait()
        staging.publish(attributes)

    def columns(node: str, values: dict[str, np.ndarray], attributes: dict[str, Any]) -> None:
        arrays = {
            name: column_array(len(v), "gene", "string" if v.dtype == object else str(v.dtype))
            for name, v in values.items()
        }
        staging = Staging(storage, node, arrays, "test")
        staging.begin()
        for name, v in values.items():
            staging.write_column(v, name)
        staging.publish(attributes)

    along("sequence", {c: rng.integers(0, 4, n).astype(np.uint8) for c, n in CONTIGS.items()}, 4, {"kind": "sequence"})
    expression = {}
    for cell in CELLS:
        level = rng.uniform(0, 4, len(genes)).astype(np.float32)
        mark = {c: rng.uniform(0, 0.2, n).astype(np.float32) for c, n in CONTIGS.items()}
        for (contig, tss), strength in zip(genes, level, strict=True):
            mark[contig][max(0, tss - 100) : tss + 100] += strength
        open_ = {c: rng.gamma(1.0, 1.0, n).astype(np.float32) for c, n in CONTIGS.items()}
        for values in open_.values():
            values[rng.random(len(values)) < 0.2] = np.nan
        for assay, role, values in (("DNase", "background", open_), ("H3K27ac", "foreground", mark)):
            provenance = {"source": f"{cell}.{assay}.bw", "sha256": f"{cell}{assay}".encode().hex()}
            attributes = {"kind": "track", "cell_type": cell, "assay": assay, "role": role, "provenance": provenance}
            along(f"tracks/{cell}/{assay}", values, np.nan, attributes)
        expression[cell] = (10**level - 1).astype(np.float32)

    n_bins = genome.n_bins(BIN)
    for cell in CELLS:
        arrays = {"band": band_array(n_bins, 8, "int32"), "weights/VC": column_array(n_bins, "bin", "float64")}
        staging = Staging(storage, f"contacts/{cell}/hic/{BIN}", arrays, "test")
        staging.begin()
        band = rng.poisson(20, (n_bins, 8)).astype(np.int32)
        for block in staging.todo("band"):
            staging.write(block, band[arrays["band"].slices(block)], "band").wait()
        staging.write_column(rng.uniform(0.5, 2, n_bins), "weights/VC")
        attributes = {"kind": "contacts", "cell_type": cell, "assay": "hic", "bin_size": BIN, "weights": ["VC"]}
        staging.publish(attributes, {"weights/VC": {"divisive": True}})

    tss = np.array([t for _, t in genes])
    table: dict[str, np.ndarray] = {
        "id": np.array([f"G{i:03d}" for i in range(len(genes))], dtype=object),
        "name": np.array([f"gene{i}" for i in range(len(genes))], dtype=object),
        "contig": np.array([c for c, _ in genes], dtype=object),
        "start": tss,
        "end": tss + 1,
        "tss": tss,
        "strand": np.array(["+", "-"] * len(genes), dtype=object)[: len(genes)],
        "biotype": np.array(["protein_coding"] * len(genes), dtype=object),
        "split": np.array([SPLITS[c] for c, _ in genes], dtype=object),
    }
    columns("genes", table, {"kind": "genes", "n": len(genes), "columns": list(table), "splits": ["split"]})
    for cell, values in expression.items():
        values[3] = np.nan
        attributes = {"kind": "expression", "assay": "CAGE", "cell_type": cell, "transform": "log10p1"}
        vector(storage, f"expression/CAGE/{cell}", values, attributes)
    half_life = rng.normal(size=len(genes)).astype(np.float32)
    vector(storage, "features/CDSLEN", half_life, {"kind": "feature", "cell_type": None})
    return path


def vector(storage: Any, node: str, values: np.ndarray, attributes: dict[str, Any]) -> None:
    staging = Staging(storage, node, {"": column_array(len(values), "gene", str(values.dtype))}, "test")
    staging.begin()
    staging.write_column(values)
    staging.publish(attributes)
