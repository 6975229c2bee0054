"""Any intervals -> bigWig -> store -> any windows equals a model of plain numpy arrays."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pyBigWig
from hypothesis import strategies as st

import genostore
import ingest
from tests.reliability.record import Row

Interval = tuple[int, int, float]
EDGES = (0.0, -0.0, float("inf"), float("-inf"), 1e-45, -1.5, 3.4e38, 65_504.0)


@st.composite
def cases(draw: st.DrawFn) -> tuple[dict[str, int], dict[str, list[Interval]], int, int]:
    """Contigs (one of one base), sorted intervals of each with gaps, the alignment, and the width of windows."""
    lengths = {"one": 1} | {
        f"c{i}": n for i, n in enumerate(draw(st.lists(st.integers(1, 700), min_size=1, max_size=4)))
    }
    values = st.one_of(st.sampled_from(EDGES), st.floats(width=32, allow_nan=False))
    tracks: dict[str, list[Interval]] = {}
    for contig, n in lengths.items():
        cuts = sorted(draw(st.sets(st.integers(0, n), max_size=12)))
        pairs = [(a, b) for a, b in pairwise(cuts) if draw(st.booleans())]
        tracks[contig] = [(a, b, draw(values)) for a, b in pairs]
    if not any(tracks.values()):
        tracks["one"] = [(0, 1, 1.0)]
    return lengths, tracks, draw(st.sampled_from((1, 16, 256))), draw(st.integers(1, 900))


def model(lengths: dict[str, int], tracks: dict[str, list[Interval]]) -> dict[str, np.ndarray]:
    """The values of each contig."""
    out = {c: np.full(n, np.nan, dtype=np.float32) for c, n in lengths.items()}
    for contig, intervals in tracks.items():
        for start, end, value in intervals:
            out[contig][start:end] = value
    return out


def window(values: np.ndarray, center: int, width: int) -> np.ndarray:
    """A window of a contig, NaN off its ends."""
    padded = np.pad(values, width, constant_values=np.nan)
    start = center - width // 2 + width
    return padded[start : start + width]


def write_signal(path: Path, lengths: dict[str, int], tracks: dict[str, list[Interval]]) -> None:
    """Write a bigWig."""
    file = pyBigWig.open(str(path), "w")
    file.addHeader(list(lengths.items()))
    for contig, intervals in tracks.items():
        if intervals:
            starts, ends, values = map(list, zip(*intervals, strict=True))
            file.addEntries([contig] * len(starts), starts, ends=ends, values=values)
    file.close()


def check(folder: Path, lengths: dict[str, int], tracks: dict[str, list[Interval]], alignment: int, width: int) -> int:
    """Write the files, ingest, and compare windows at every edge, from the store; say how many were compared."""
    (folder / "g.fa").write_text("".join(f">{c}\n{'ACGT' * (n // 4) + 'ACGT'[: n % 4]}\n" for c, n in lengths.items()))
    write_signal(folder / "t.bw", lengths, tracks)
    (folder / "c.yaml").write_text(
        f"version: 1\nassembly: {{name: g, fasta: g.fa, alignment: {alignment}}}\n"
        "tracks: [{cell_type: A, assay: x, source: t.bw}]\n"
    )
    with mock.patch("genostore.schema.POSITION_SHARD", 512):
        ingest.run(ingest.plan(folder / "c.yaml", folder / "s.zarr"))
    store, expected = genostore.open(folder / "s.zarr"), model(lengths, tracks)
    for contig, values in expected.items():
        got = store.signal(contig, ["A"], ["x"]).to_numpy()[0, 0]
        np.testing.assert_array_equal(got, values)
        np.testing.assert_array_equal(np.signbit(got), np.signbit(values))
    edges = {c: sorted({0, n - 1, *(e for i in tracks[c] for e in i[:2] if e < n)}) for c, n in lengths.items()}
    wide = [c for c, n in lengths.items() if n >= width]  # others are refused
    if not wide:
        return len(lengths)
    rows = pd.DataFrame([(c, e, e + 1) for c in wide for e in edges[c]], columns=["contig", "start", "end"])
    windows = store.windows(regions=rows, cell_types=["A"], assays=["x"], width=width)
    batch = windows.read(np.arange(len(rows)))
    assert batch.signal is not None
    for got, (contig, start, end) in zip(batch.signal[:, :, 0], rows.itertuples(index=False), strict=True):
        np.testing.assert_array_equal(got, window(expected[contig], (start + end) // 2, width))
    return len(rows) + len(lengths)


def scaffolds(folder: Path, n: int = 2_000) -> Row:
    """Two thousand scaffolds of 1 to 60 bases, one interval on every third."""
    rng = np.random.default_rng(0)
    lengths = {f"s{i}": int(rng.integers(1, 60)) for i in range(n)}
    tracks = {c: [(0, (m + 1) // 2, float(i))] if i % 3 == 0 else [] for i, (c, m) in enumerate(lengths.items())}
    row = Row("properties", f"bigWig -> store -> windows, {n:,} scaffolds")
    row.tried = check(folder, lengths, tracks, 16, 40)
    row.seen["equal to the model"] = row.tried
    return row
