"""The Hi-C signal: its rules one by one, and a batch's profiles against the profile of the pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import genostore
from genostore import Batch, Contacts
from genostore.errors import QueryError
from prism_model import hic_profile, signals
from prism_model.hic import batch_profiles, power_law

ZERO = [0], [0], [0.0]


def test_power_law() -> None:
    assert power_law(0) == power_law(5_000)
    assert power_law(10_000) == pytest.approx(np.exp(-4.80 + 11.63 * 0.87 - 0.87 * np.log(10_001)))


def test_rules_of_the_profile() -> None:
    # Bins of 100 bases on a contig of 1,050: the TSS 250 lies in bin 2; either order of a pair counts.
    profile = hic_profile([2, 0, 2, 5], [2, 2, 3, 6], [7.0, 2.0, np.nan, 9.0], 100, 1_050, 250, 900)
    pseudocount = power_law(1_000_000)
    positions = (-1, 0, 99, 100, 199, 200, 299, 300, 550, 1_049, 1_050)
    at = {position: profile[position - 250 + 900] for position in positions}
    assert at[-1] == at[1_050] == 0
    assert at[0] == at[99] == pytest.approx(2 + pseudocount)
    assert at[100] == at[199] == at[300] == at[550] == at[1_049] == pytest.approx(pseudocount)
    assert at[200] == at[299] == pytest.approx(7 + pseudocount)


def test_a_tss_without_contacts_has_no_profile() -> None:
    far = hic_profile([0], [20], [100.0], 100, 5_000, 50, 3_000)
    assert np.isnan(far[3_000 - 50 : 3_000 + 3_000]).all()  # on the contig
    assert (far[: 3_000 - 50] == 0).all()
    # 499 bases on either side count: bin 5 (500-599) is reached at distance 450 to 499 alone.
    near = hic_profile([0], [5], [1e-3], 100, 5_000, 50, 3_000)
    assert not np.isnan(near).any()
    assert np.isnan(hic_profile([0], [5], [1e-4], 100, 5_000, 50, 3_000)).any()


def test_bad_arguments() -> None:
    with pytest.raises(QueryError, match="not on a chromosome"):
        hic_profile(*ZERO, bin_size=100, chrom_length=1_000, tss=1_000, flank=10)
    with pytest.raises(QueryError, match="must be positive"):
        hic_profile(*ZERO, bin_size=100, chrom_length=1_000, tss=1, flank=0)


@pytest.mark.parametrize("orient", ["reference", "gene"])
@pytest.mark.parametrize("flank", [None, 2_000])
@pytest.mark.parametrize("width", [256, 2_001])
def test_a_batch_has_the_profiles_of_its_pixels(tiny_store: Path, orient: str, flank: int | None, width: int) -> None:
    store = genostore.open(tiny_store)
    query = Contacts("hic", weight="VC", flank=flank)
    windows = store.windows(split="train", cell_types=["A"], assays=[], contacts=query, width=width, orient=orient)
    batch = windows.read(range(len(windows)))
    ours = batch_profiles(batch).numpy()
    contacts = store.contacts("A", "hic")
    for row, gene in enumerate(windows.genes.itertuples()):
        contig = store.genome.resolve(gene.contig)
        matrix = contacts.matrix(f"{gene.contig}:0-{contig.length}", weight="VC").values
        bins = np.triu_indices(len(matrix))
        start = width // 2
        expected = hic_profile(*bins, matrix[bins], contacts.bin_size, contig.length, gene.tss, width)
        expected = expected[width - start : width - start + width]
        if orient == "gene" and gene.strand == "-":
            expected = expected[::-1]
        np.testing.assert_allclose(ours[row], expected, rtol=1e-5, atol=1e-6)


def test_signals_are_the_tracks_then_the_logarithm_of_the_profile(tiny_store: Path) -> None:
    store = genostore.open(tiny_store)
    windows = store.windows(
        split="valid", cell_types=["A"], assays=["H3K27ac", "DNase"], contacts=Contacts("hic", weight="VC"), width=256
    )
    batch = next(iter(windows.loader(batch_size=4)))
    got = signals(batch)
    assert got.dtype == torch.float32
    assert got.shape == (4, 256, 3)
    assert torch.equal(got[..., :2], batch.signal)
    torch.testing.assert_close(got[..., 2], torch.log10(1 + batch_profiles(batch)).float())
    assert not got.isnan().any()


def test_signals_refuse_what_they_cannot_use(tiny_store: Path) -> None:
    store = genostore.open(tiny_store)
    matrix = store.windows(split="valid", cell_types=["A"], contacts=Contacts("hic", kind="matrix"), width=256)
    with pytest.raises(QueryError, match="contact profiles"):
        signals(matrix.read([0]))
    binned = store.windows(split="valid", cell_types=["A"], width=256, resolution=2)
    with pytest.raises(QueryError, match="resolution=1"):
        signals(binned.read([0]))
    narrow = store.windows(split="valid", cell_types=["A"], contacts=Contacts("hic", flank=10), width=2_000)
    with pytest.raises(QueryError, match="a flank of at least 1000"):
        signals(narrow.read([0]))
    nothing = store.windows(split="valid", cell_types=["A"], assays=[], width=256).read([0])
    assert signals(nothing) is None
    assert isinstance(nothing, Batch)
