"""What the suites read: simulated sources of one contig, in real formats, and the store that they are ingested to."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.harness import Clock
from benchmarks.ingest_track import make_track

if TYPE_CHECKING:
    import genostore

CONTIG = "chr22"
CELL = "A"
BIN = 5_000  # of the contacts
FLANK = 100_000  # of a contact profile on either side of a TSS, as the incumbent keeps it
FEATURES = 9


@dataclass(frozen=True)
class Size:
    """How large a run is.

    Attributes
    ----------
    length, intervals
        Of the contig in bases, and of a run-length track.
    tracks
        Run-length tracks, t0, t1 ...
    other_extent
        Bases of the contig that the dense and the sparse track cover.
    epoch, epochs
        Genes of an epoch, and how many are timed, each over genes of its own.
    incumbent_genes, incumbent_repeats
        The same of the incumbent, whose HDF5 takes 1.6 MB a gene.
    many
        Tracks of the store that is opened beside one of ten.
    """

    name: str
    length: int
    intervals: int
    tracks: int
    other_extent: int
    epoch: int
    epochs: int
    incumbent_genes: int
    incumbent_repeats: int
    many: int

    def extent(self, kind: str) -> int:
        """Give the bases that a kind of values covers."""
        return self.other_extent if kind in ("dense", "sparse") else self.length


CHECKED = 192  # genes of the epoch that is compared and not timed
TINY = Size("tiny", 1_500_000, 60_000, 3, 400_000, 64, 2, 8, 2, 30)
QUICK = Size("quick", 50_800_000, 2_200_000, 3, 10_000_000, 4_608, 4, 256, 3, 1_000)
FULL = Size("full", 50_800_000, 2_200_000, 30, 10_000_000, 9_216, 5, 512, 5, 1_000)


class Bench:
    """The inputs of a run, made when a suite first asks for them.

    Parameters
    ----------
    folder
        Where they are made; what an earlier run of the same size left there is used.
    size
        How large.
    threads
        Of every contender that takes a number of threads.
    clock
        See :func:`benchmarks.harness.compare`.
    """

    def __init__(self, folder: Path, size: Size, threads: int = 2, clock: Clock = "wall") -> None:
        self.folder, self.size, self.threads, self.clock = folder, size, threads, clock
        folder.mkdir(parents=True, exist_ok=True)
        made, now = folder / "size.json", json.dumps(asdict(size))
        if made.exists() and made.read_text() != now:
            raise SystemExit(f"{folder} holds the inputs of a run of another size; name another --data, or delete it")
        made.write_text(now)

    def once(self, name: str, make: Callable[[Path], object]) -> Path:
        """Make a file or folder, unless it is there whole."""
        path, done = self.folder / name, self.folder / f".{name}.done"
        if not done.exists():
            make(path)
            done.touch()
        return path

    @property
    def tracks(self) -> list[str]:
        """Names of the run-length tracks."""
        return [f"t{k}" for k in range(self.size.tracks)]

    def bigwig(self, assay: str) -> Path:
        """Give the source of a track: ``t<k>``, ``dense`` or ``sparse``."""
        length, extent = self.size.length, self.size.other_extent
        make: Callable[[Path], None]
        if assay == "dense":
            make = lambda path: make_dense(path, length, extent)  # noqa: E731
        elif assay == "sparse":
            make = lambda path: make_sparse(path, length, extent)  # noqa: E731
        else:
            make = lambda path: make_track(path, int(assay[1:]), length, self.size.intervals)  # noqa: E731
        return self.once(f"{assay}.bw", make)

    @cached_property
    def fasta(self) -> Path:
        """Random bases."""
        return self.once("genome.fa", lambda path: make_fasta(path, self.size.length))

    @cached_property
    def tss(self) -> np.ndarray:
        """``(genes,)`` int64: random, all windows of 200 kb on the contig."""
        n = CHECKED + self.size.epoch * self.size.epochs
        return np.random.default_rng(2).integers(FLANK, self.size.length - FLANK, n)

    @cached_property
    def epochs(self) -> list[np.ndarray]:
        """Genes of the epoch to compare, then of those to time."""
        return np.split(np.arange(len(self.tss)), CHECKED + self.size.epoch * np.arange(self.size.epochs))

    @cached_property
    def store_path(self) -> Path:
        """The store of everything."""
        return self.once("bench.zarr", self._ingest)

    @cached_property
    def store(self) -> genostore.Store:
        """The store, open; every file of it was read once, so that the page cache is warm."""
        import genostore

        warm(self.store_path)
        return genostore.open(self.store_path)

    def _ingest(self, path: Path) -> None:
        import ingest

        assays = [*self.tracks, "dense", "sparse"]
        for assay in assays:
            self.bigwig(assay)
        columns = make_tables(self.folder, self.tss)
        make_contacts(self.folder / "contacts.cool", self.size.length)
        tracks = "".join(f"  - {{cell_type: {CELL}, assay: {a}, source: {a}.bw}}\n" for a in assays)
        catalogue = self.folder / "catalog.yaml"
        catalogue.write_text(
            f"version: 1\nassembly: {{name: bench, fasta: {self.fasta.name}}}\n"
            "genes: {source: genes.csv, columns: {id: id, contig: contig, strand: strand, tss: tss}}\n"
            f"features:\n  - {{source: genes.csv, gene_id: id, columns: [{', '.join(columns)}]}}\n"
            f"expression:\n  - {{assay: CAGE, source: genes.csv, gene_id: id, columns: {{{CELL}: expression}}}}\n"
            f"contacts:\n  - {{cell_type: {CELL}, assay: hic, source: contacts.cool, bin_size: {BIN}}}\n"
            f"tracks:\n{tracks}"
        )
        ingest.run(ingest.plan(catalogue, path), workers=1)


def warm(path: Path) -> None:
    """Read every file once, so that the page cache holds it."""
    for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
        with file.open("rb", buffering=0) as stream:
            while stream.read(2**24):
                pass


def make_fasta(path: Path, length: int) -> None:
    """Write random bases in lines of 100."""
    bases = np.frombuffer(b"ACGT", dtype=np.uint8)[np.random.default_rng(0).integers(0, 4, length)]
    lines = np.full((length // 100, 101), ord("\n"), dtype=np.uint8)
    lines[:, :100] = bases[: length // 100 * 100].reshape(-1, 100)
    rest = bases[length // 100 * 100 :].tobytes()
    path.write_bytes(f">{CONTIG}\n".encode() + lines.tobytes() + rest + b"\n")


def make_dense(path: Path, length: int, extent: int) -> None:
    """Write a value a base, as conservation scores are: no two neighbours alike."""
    import pyBigWig

    values = np.random.default_rng(100).normal(0, 1.5, extent).round(3).astype(np.float32)
    file = pyBigWig.open(str(path), "w")
    file.addHeader([(CONTIG, length)])
    for low in range(0, extent, 1_000_000):
        file.addEntries(CONTIG, low, values=values[low : low + 1_000_000], span=1, step=1)
    file.close()


def make_sparse(path: Path, length: int, extent: int) -> None:
    """Write counts of 5' ends, as CAGE gives: clusters of single bases, one in a few kilobases, nothing between."""
    import pyBigWig

    rng = np.random.default_rng(101)
    centre = rng.integers(1_000, extent - 1_000, extent // 3_000)
    spread = rng.normal(0, 25, (len(centre), 20)).astype(np.int64)
    at = np.unique((centre[:, None] + spread).ravel())
    file = pyBigWig.open(str(path), "w")
    file.addHeader([(CONTIG, length)])
    file.addEntries(
        [CONTIG] * len(at),
        at.tolist(),
        ends=(at + 1).tolist(),
        values=rng.geometric(0.2, len(at)).astype(float).tolist(),
    )
    file.close()


def make_tables(folder: Path, tss: np.ndarray) -> list[str]:
    """Write genes with features and expression; give the names of the features."""
    import pandas as pd

    rng = np.random.default_rng(3)
    n = len(tss)
    features = {f"feature{i}": rng.normal(size=n).round(4) for i in range(FEATURES)}
    table = {
        "id": [gene_id(i) for i in range(n)],
        "contig": CONTIG,
        "strand": np.where(rng.random(n) < 0.5, "+", "-"),
        "tss": tss,
        **features,
        "expression": rng.gamma(1.0, 2.0, n).round(4),
    }
    pd.DataFrame(table).to_csv(folder / "genes.csv", index=False)
    return list(features)


def make_contacts(path: Path, length: int) -> None:
    """Write counts that fall with the distance, up to 250 kb apart."""
    import cooler
    import pandas as pd

    rng = np.random.default_rng(4)
    n = -(-length // BIN)
    start = np.arange(n) * BIN
    bins = pd.DataFrame({"chrom": CONTIG, "start": start, "end": np.minimum(start + BIN, length)})
    reach = min(50, n)
    bin1 = np.repeat(np.arange(n), reach)
    bin2 = bin1 + np.tile(np.arange(reach), n)
    count = rng.poisson(40 / (1 + bin2 - bin1))
    keep = (bin2 < n) & (count > 0)
    pixels = pd.DataFrame({"bin1_id": bin1[keep], "bin2_id": bin2[keep], "count": count[keep].astype(np.int32)})
    cooler.create_cooler(str(path), bins, pixels, ordered=True)


def gene_id(number: int) -> str:
    """Name a gene."""
    return f"G{number:06d}"


def disjoint(rng: np.random.Generator, extent: int, width: int, n: int) -> np.ndarray:
    """Draw the starts of ``n`` windows in random order, no two of which overlap.

    Raises
    ------
    ValueError
        If the extent has no room for them.
    """
    slots = extent // width
    if n > slots:
        raise ValueError(f"{n} windows of {width:,} bases do not fit in {extent:,} without overlap")
    room = extent // max(n, slots // 2)
    chosen = rng.permutation(extent // room)[:n]
    return chosen * room + rng.integers(0, room - width + 1, n)
