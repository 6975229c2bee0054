"""Any track, contacts and genes: windows at every speed of the loader equal a model of plain numpy arrays."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import cooler
import numpy as np
import pandas as pd
from hypothesis import strategies as st

import genostore
import ingest
from tests.reliability.properties import EDGES, write_signal
from tests.reliability.properties import model as signal_model

UNKNOWN = 4


@dataclass(frozen=True)
class Case:
    """What is drawn.

    Attributes
    ----------
    lengths, intervals
        Of contigs, and the track's values on them.
    bin_size, distance
        Of contacts, in bases and in bins.
    pixels
        Count by the numbers of two bins, counted through all contigs.
    weights
        Of all bins, ``VC`` (divisive) or ``weight``.
    divisive
        Which of the two.
    genes
        Contig, first transcribed base and strand.
    width, jitter, orient
        Of windows.
    contacts
        Kind, flank and whether balanced.
    """

    lengths: dict[str, int]
    intervals: dict[str, list[tuple[int, int, float]]]
    bin_size: int
    distance: int
    pixels: dict[tuple[int, int], float]
    weights: list[float]
    divisive: bool
    genes: list[tuple[str, int, str]]
    width: int
    jitter: int
    orient: str
    contacts: tuple[str, int | None, bool]

    @property
    def name(self) -> str:
        """Of the weights."""
        return "VC" if self.divisive else "weight"

    def first_bins(self) -> dict[str, int]:
        """The number of each contig's first bin."""
        sizes = [-(-n // self.bin_size) for n in self.lengths.values()]
        return dict(zip(self.lengths, np.cumsum([0, *sizes]).tolist(), strict=False))

    def bases(self, contig: str) -> np.ndarray:
        """Codes of a contig, 0 to 4."""
        return np.arange(self.lengths[contig]) * 7 % 11 % 5


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Contigs from one base on, genes at their ends too, counts and weights of any kind."""
    sizes = [*draw(st.lists(st.integers(1, 600), max_size=2)), draw(st.integers(201, 600))]
    lengths = {f"c{i}": n for i, n in enumerate(sizes)}
    width = draw(st.integers(1, max(sizes)))
    values = st.one_of(st.sampled_from(EDGES), st.floats(width=32, allow_nan=False))
    intervals = {}
    for contig, n in lengths.items():
        start = draw(st.integers(0, n - 1))
        intervals[contig] = [(start, draw(st.integers(start + 1, n)), draw(values))]
    size = draw(st.sampled_from((50, 97, 200)))  # the last contig has two bins or more, which tell a .cool's size
    bins = [-(-n // size) for n in lengths.values()]
    pixels = {}
    for low, n in zip(np.cumsum([0, *bins[:-1]]).tolist(), bins, strict=True):
        place = st.tuples(st.integers(low, low + n - 1), st.integers(low, low + n - 1)).map(lambda p: tuple(sorted(p)))
        pixels |= draw(st.dictionaries(place, st.sampled_from((1.0, 2.0, 7.5, 1e6, -3.0)), max_size=12))
    weight = st.sampled_from((0.5, 1.0, 1.7, 1e-3, float("nan")))
    weights = draw(st.lists(weight, min_size=sum(bins), max_size=sum(bins)))
    at = [c for c, n in lengths.items() if n >= width]  # narrower contigs are refused
    genes = []
    for _ in range(draw(st.integers(1, 4))):
        contig = draw(st.sampled_from(at))
        last = lengths[contig] - 1
        genes.append((contig, draw(st.sampled_from((0, last, last // 2))), draw(st.sampled_from("+-"))))
    kind = draw(st.sampled_from(("profile", "matrix")))
    asked = (kind, draw(st.sampled_from((None, 3 * size))), draw(st.booleans()))
    jitter, orient = draw(st.integers(0, 30)), draw(st.sampled_from(("reference", "gene")))
    distance = draw(st.integers(1, 8))
    return Case(
        lengths, intervals, size, distance, pixels, weights, draw(st.booleans()), genes, width, jitter, orient, asked
    )


def write(folder: Path, case: Case) -> Path:
    """Write the files, and the store of them."""
    letters = np.array(list("ACGTN"))
    text = (f">{c}\n{''.join(letters[case.bases(c)])}\n" for c in case.lengths)
    (folder / "g.fa").write_text("".join(text))
    write_signal(folder / "t.bw", case.lengths, case.intervals)
    lines = (
        f'{c}\tx\tgene\t{t + 1}\t{t + 1}\t.\t{s}\t.\tgene_id "G{i}"; gene_name "g{i}"; gene_type "protein_coding";\n'
        for i, (c, t, s) in enumerate(case.genes)
    )
    (folder / "g.gtf").write_text("".join(lines))
    frames = []
    for contig, n in case.lengths.items():
        starts = np.arange(0, n, case.bin_size)
        ends = np.minimum(starts + case.bin_size, n)
        frames.append(pd.DataFrame({"chrom": contig, "start": starts, "end": ends}))
    bins = pd.concat(frames, ignore_index=True).assign(**{case.name: case.weights})
    rows = [(i, j, count) for (i, j), count in sorted(case.pixels.items())]
    pixels = pd.DataFrame(rows, columns=["bin1_id", "bin2_id", "count"]).astype({"bin1_id": int, "bin2_id": int})
    cooler.create_cooler(str(folder / "m.cool"), bins, pixels, dtypes={"count": np.float64}, ordered=True)
    (folder / "c.yaml").write_text(
        "version: 1\nassembly: {name: g, fasta: g.fa, alignment: 64}\ngenes: {source: g.gtf}\n"
        "tracks: [{cell_type: A, assay: x, source: t.bw}]\n"
        f"contacts: [{{cell_type: A, assay: hic, source: m.cool, bin_size: {case.bin_size}, weights: [{case.name}], "
        f"max_distance: {case.distance * case.bin_size}}}]\n"
    )
    with mock.patch("genostore.schema.POSITION_SHARD", 512):
        ingest.run(ingest.plan(folder / "c.yaml", folder / "s.zarr"))
    return folder / "s.zarr"


def matrices(case: Case, balanced: bool) -> dict[str, np.ndarray]:
    """The symmetric matrix of each contig; NaN beyond the band, and where a bin is filtered."""
    out = {}
    for contig, low in case.first_bins().items():
        n = -(-case.lengths[contig] // case.bin_size)
        apart = np.abs(np.arange(n)[:, None] - np.arange(n))
        full = np.where(apart <= case.distance, 0.0, np.nan)
        for (i, j), count in case.pixels.items():
            if low <= i < low + n and j - i <= case.distance:
                full[i - low, j - low] = full[j - low, i - low] = count
        if balanced:
            weights = np.array(case.weights[low : low + n])
            weights = 1 / weights if case.divisive else weights
            full = full * weights[:, None] * weights
        out[contig] = full
    return out


def cut(values: np.ndarray, start: int, n: int, outside: float) -> np.ndarray:
    """``n`` of an array's places from ``start`` on, along every axis; ``outside`` where there are none."""
    at = np.arange(start, start + n)
    there = (at >= 0) & (at < len(values))
    out = np.full((n,) * values.ndim, outside, dtype=values.dtype)
    out[np.ix_(*[there] * values.ndim)] = values[np.ix_(*[at[there]] * values.ndim)]
    return out


def expected(case: Case, gene: int, start: int, maps: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
    """Sequence, signal and contacts of a window on the reference strand."""
    contig, tss, _ = case.genes[gene]
    kind, flank, _ = case.contacts
    first, width = (start, case.width) if flank is None else (tss - flank, 2 * flank)
    n = (width - 1) // case.bin_size + 2
    seen = cut(maps[contig], first // case.bin_size, n, np.nan)
    if kind == "profile":
        seen = cut(maps[contig][tss // case.bin_size], first // case.bin_size, n, np.nan)
    signal = signal_model(case.lengths, case.intervals)[contig]
    sequence = cut(case.bases(contig), start, case.width, UNKNOWN)
    return sequence, cut(signal, start, case.width, np.nan), seen.astype(np.float32)


def check(folder: Path, case: Case) -> int:
    """Compare what each speed gives with the model, and the order of samples; how many windows were compared."""
    store = genostore.open(write(folder, case))
    for balanced in (False, True):
        for contig, values in matrices(case, balanced).items():
            got = store.contacts("A", "hic", case.bin_size).matrix(contig, weight=case.name if balanced else None)
            np.testing.assert_allclose(got.to_numpy(), values, rtol=1e-12)
    kind, flank, balanced = case.contacts
    asked = genostore.Contacts("hic", case.bin_size, kind=kind, flank=flank, weight=case.name if balanced else None)
    query = {"width": case.width, "jitter": case.jitter, "orient": case.orient, "contacts": asked}
    windows = store.windows(**query)
    packed = windows.pack(folder / "p.zarr") and genostore.open(folder / "p.zarr").windows(**query)
    options: dict[str, Any] = {"shuffle": True, "seed": 1, "sequence": "codes", "missing": "nan"}
    maps, order, compared = matrices(case, balanced), [], 0
    with mock.patch.dict(os.environ, GENOSTORE_RESIDENT=str(folder / "resident")):
        for loader in (
            windows.loader(3, **options),
            packed.loader(3, **options),
            windows.loader(3, resident="ram", **options),
        ):
            seen = []
            for batch in loader:
                for row in range(len(batch.gene)):
                    compare(case, batch, row, maps)
                    seen.append((int(batch.gene[row]), int(batch.start[row])))
            order.append(seen)
            compared += len(seen)
    assert order[0] == order[1] == order[2]
    assert sorted(gene for gene, _ in order[0]) == list(range(len(case.genes)))
    return compared


def compare(case: Case, batch: Any, row: int, maps: dict[str, np.ndarray]) -> None:
    """Compare one window with the model."""
    gene, start = int(batch.gene[row]), int(batch.start[row])
    _, tss, strand = case.genes[gene]
    assert abs(start - (tss - case.width // 2)) <= case.jitter
    sequence, signal, contacts = expected(case, gene, start, maps)
    if case.orient == "gene" and strand == "-":
        sequence = np.where(sequence < UNKNOWN, 3 - sequence, UNKNOWN)[::-1]
        signal, contacts = signal[::-1], np.flip(contacts)
    np.testing.assert_array_equal(batch.sequence[row].numpy(), sequence)
    np.testing.assert_array_equal(batch.signal[row, :, 0].numpy(), signal)
    np.testing.assert_allclose(batch.contacts[row].numpy(), contacts, rtol=1e-6)
