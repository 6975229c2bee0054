"""``verify`` finds no difference between stores and their public sources, and points at one that was planted."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyBigWig
import pytest

import ingest

pytestmark = pytest.mark.real

Real = Callable[[str], Any]


@pytest.mark.parametrize("name", ["yeast", "k562_hg38", "k562_hg19"])
def test_no_difference(real: Real, name: str) -> None:
    found = real(name)
    report = ingest.verify(found.store, deep=True, against=found.catalogue)
    assert report.findings == []
    assert report.ok
    store = found.open()
    n_tracks, n_bases = len(store.tracks), sum(store.contigs.values())
    assert report.nodes == len(store.entries)
    assert report.compared > (1 + n_tracks) * n_bases


def change_fasta(source: Path, target: Path, position: int) -> tuple[int, int]:
    """Turn one base to T; gives its code before and after."""
    lines = gzip.decompress(source.read_bytes()).split(b"\n")
    width = len(lines[1])
    row, column = 1 + position // width, position % width
    before = lines[row][column : column + 1].upper()
    assert before in (b"A", b"C", b"G")
    soft = 8 if lines[row][column : column + 1].islower() else 0
    lines[row] = lines[row][:column] + (b"t" if soft else b"T") + lines[row][column + 1 :]
    target.write_bytes(gzip.compress(b"\n".join(lines), 1))
    return b"ACG".index(before) + soft, 3 + soft


def change_bigwig(source: Path, target: Path, number: int) -> tuple[int, int, float]:
    """Add 1 to one interval; gives its start, its end and its value before."""
    with pyBigWig.open(str(source)) as old, pyBigWig.open(str(target), "w") as new:
        new.addHeader(list(old.chroms().items()))
        start, end, value = (list(column) for column in zip(*old.intervals("chr22"), strict=True))
        changed = start[number], end[number], value[number]
        value[number] += 1
        new.addEntries(["chr22"] * len(start), start, ends=end, values=value)
    return changed


def change_cool(source: Path, target: Path, bin_: int) -> tuple[int, int, int]:
    """Add 1 to the first count and to the weight of one bin; gives the pixel's bins and its count before."""
    shutil.copyfile(source, target)
    with h5py.File(target, "a") as file:
        pixels, pixel = file["pixels"], int(file["indexes/bin1_offset"][bin_])
        row, column, count = (int(pixels[name][pixel]) for name in ("bin1_id", "bin2_id", "count"))
        pixels["count"][pixel] = count + 1
        file["bins/weight"][bin_] += 1
    return row, column, count


def test_planted_differences(real: Real, tmp_path: Path) -> None:
    """A base, an interval of a track, a count and a weight are changed, and each is named."""
    found = real("k562_hg19")
    position, bin_ = 17_500_000, 3_600
    fasta, track, matrix = (
        found.data / name
        for name in (
            "chr22_part.fa.gz",
            "derived/K562_H3K27ac_ENCFF384ZZM.chr22.hg19.elementcounts_per_bp.bw",
            "derived/K562_chr22_5kb.RAWobserved.lifted_to_hg19.cool",
        )
    )
    before, after = change_fasta(fasta, tmp_path / fasta.name, position)
    start, end, value = change_bigwig(track, tmp_path / track.name, 100)
    row, column, count = change_cool(matrix, tmp_path / matrix.name, bin_)
    assert row == bin_ <= column <= bin_ + 400  # within the band

    text = found.catalogue.read_text()
    for file in (fasta, track, matrix):
        source = "${GENOSTORE_SHARED}/data/k562_chr22_hg19/" + file.relative_to(found.data).as_posix()
        assert source in text
        text = text.replace(source, str(tmp_path / file.name))
    catalogue = tmp_path / "changed.yaml"
    catalogue.write_text(text)
    ingest.run(ingest.plan(catalogue, tmp_path / "changed.zarr"))
    assert ingest.verify(tmp_path / "changed.zarr", deep=True, against=catalogue).ok

    report = ingest.verify(tmp_path / "changed.zarr", deep=True, against=found.catalogue)
    assert not report.ok
    said = {}
    for finding in report.findings:
        said[finding.node] = said.get(finding.node, "") + finding.message + "\n"
    assert set(said) == {"sequence", "tracks/K562/H3K27ac", "contacts/K562/hic/5000"}
    assert "\n1 of 22,0" in said["sequence"]  # the contig, and what fills it up to the alignment
    assert f"22:{position:,}: {after} in the store, {before} in the source" in said["sequence"]
    assert f"\n{end - start:,} of" in said["tracks/K562/H3K27ac"]
    stored = np.float32(value + 1)
    assert f"22:{start:,}: {stored} in the store, {np.float32(value)} in the source" in said["tracks/K562/H3K27ac"]
    contacts = said["contacts/K562/hic/5000"]
    place = f"22:{row * 5_000:,} with {column * 5_000:,}"
    assert f"{place}: {count + 1} in the store, {count} in the source" in contacts
    assert f"weights/weight[{bin_}]" in contacts
