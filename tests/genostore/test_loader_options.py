"""What a loader makes of windows: transforms, strands, weights, contacts a base."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

import genostore
from genostore import Contacts
from genostore.errors import NotFoundError, QueryError

from .conftest import Toy

ASSAYS = ["H3K27ac", "DNase", "RNA+", "RNA-"]


def test_each_step_is_the_formula(toy: Toy) -> None:
    windows = toy.open().windows(width=60, assays=ASSAYS)
    raw = windows.read(range(20)).signal.astype(np.float64)
    cells = windows.selection.cell_type
    every = [[np.concatenate(list(toy.tracks[c, a].values())) for a in ASSAYS] for c in windows.cell_types]
    mean, sd = np.nanmean(every, axis=-1, dtype=float), np.nanstd(every, axis=-1, dtype=float)
    expected = {
        "log1p": np.sign(raw) * np.log1p(np.abs(raw)),
        "arcsinh": np.arcsinh(raw),
        "zscore": (raw - mean[cells][:, None]) / sd[cells][:, None],
    }
    for step, values in expected.items():
        (batch,) = windows.loader(20, transform=step, missing="nan")
        np.testing.assert_allclose(batch.signal.numpy(), values, rtol=2e-5, atol=1e-6)
    (batch,) = windows.loader(20, transform=["zscore", {"clip": [-1, 0.5]}, "arcsinh"], missing="zero")
    chain = np.nan_to_num(np.arcsinh(np.clip(expected["zscore"], -1, 0.5)))
    np.testing.assert_allclose(batch.signal.numpy(), chain, rtol=2e-5, atol=1e-6)  # gaps are 0, not -mean / sd
    (batch,) = windows.loader(20, transform={"DNase": "log1p", "RNA": [{"clip": [None, 0]}]}, missing="nan")
    np.testing.assert_array_equal(batch.signal[..., 0].numpy(), raw[..., 0].astype(np.float32))
    np.testing.assert_allclose(batch.signal[..., 1].numpy(), expected["log1p"][..., 1], rtol=2e-5, atol=1e-6)
    np.testing.assert_array_equal(batch.signal[..., 2:].numpy(), np.minimum(raw[..., 2:], 0).astype(np.float32))


@pytest.mark.parametrize(
    ("transform", "error", "message"),
    [
        ("log2", QueryError, "'log2' is no step of a transform"),
        ("clip", QueryError, "'clip' is no step"),
        ([{"clip": [3, 1]}], QueryError, "the first is to be less"),
        ([{"clip": 3}], QueryError, r"it takes \[low, high\]"),
        (["log1p", "zscore"], QueryError, "zscore after 'log1p'"),
        ({"DNAse": "log1p"}, NotFoundError, "did you mean 'DNase'"),
    ],
)
def test_a_transform_that_cannot_be(toy: Toy, transform: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        toy.open().windows(width=60).loader(20, transform=transform)


def test_a_z_score_wants_statistics(toy: Toy) -> None:
    store = toy.open()
    store.entries = {n: {k: v for k, v in e.items() if k != "statistics"} for n, e in store.entries.items()}
    with pytest.raises(QueryError, match="tracks/A/H3K27ac has no statistics"):
        store.windows(width=60, assays=ASSAYS).loader(20, transform="zscore")


def test_the_filled_share_is_told_once(toy: Toy, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "genostore"):
        loader = toy.open().windows(width=60, assays=["DNase"]).loader(4, missing="mask")
        batches = [*loader, *loader]
    assert len([r for r in caplog.records if "fills" in r.message]) == 1
    share = 100 * float((~batches[0].mask).float().mean())
    assert f"fills {share:.1f}% of the first batch" in caplog.text


@pytest.mark.parametrize("speed", ["lazy", "packed", "resident"])
def test_gaps_filled_on_the_way_are_those_filled_afterwards(toy: Toy, tmp_path: Path, speed: str) -> None:
    query = {"width": 60, "jitter": 9, "assays": ASSAYS, "features": "all", "contacts": Contacts("hic", kind="profile")}
    windows = toy.open().windows(**query)
    if speed == "packed":
        windows = genostore.open(windows.pack(tmp_path / "p")).windows(**query)
    options = {"shuffle": "blocks", "block": 2, "buffer": 2, "reverse_complement": "random", "expand_contacts": True}
    if speed == "resident":
        options["resident"] = "ram"
    filled, gaps = windows.loader(3, **options), windows.loader(3, missing="nan", **options)
    gappy = set()
    for a, b in zip([*filled, *filled], [*gaps, *gaps], strict=True):
        for part in ("signal", "contacts", "features"):
            values = getattr(b, part)
            torch.testing.assert_close(getattr(a, part), values.nan_to_num(nan=0.0), rtol=0, atol=0)
            gappy |= {part} if values.isnan().any() else set()
    assert gappy >= {"signal", "contacts"}


def test_strands_are_drawn_from_seed_and_epoch(toy: Toy) -> None:
    windows = toy.open().windows(width=61, jitter=11, contacts="hic", orient="gene")
    options = {"shuffle": True, "seed": 5, "missing": "nan", "sequence": "codes"}
    loader = windows.loader(6, reverse_complement="random", **options)
    epochs = [torch.cat([b.reverse[b.index.argsort()] for b in loader]) for _ in range(2)]
    assert not torch.equal(*epochs)
    again = windows.loader(4, reverse_complement="random", threads=0, **options)
    plain = windows.loader(4, **options)
    turned = 0
    for a, b in zip(again, plain, strict=True):
        flip = (a.reverse ^ b.reverse).numpy()
        turned += int(flip.sum())
        shift = (b.start - torch.from_numpy(windows.selection.anchor[b.gene] - 30)).numpy()
        expected = windows.read(b.index.numpy(), shift, flip)
        for name in ("sequence", "signal", "contacts", "anchor", "contact_origin", "left_pad", "reverse"):
            np.testing.assert_array_equal(getattr(a, name).numpy(), getattr(expected, name))
    assert 3 <= turned <= 17
    (every,) = windows.loader(20, reverse_complement="always")
    (none,) = windows.loader(20)
    assert torch.equal(every.reverse, ~none.reverse)


def test_weights_go_with_their_samples(toy: Toy) -> None:
    windows = toy.open().windows(width=20)
    given = np.linspace(0, 1, 20)
    for batch in windows.loader(6, shuffle=True, weights=given):
        np.testing.assert_array_equal(batch.weight.numpy(), given[batch.index.numpy()].astype(np.float32))
    (batch,) = windows.loader(20, weights="tss")
    np.testing.assert_array_equal(batch.weight.numpy(), windows.genes["tss"].to_numpy()[batch.gene.numpy()])
    with pytest.raises(QueryError, match="a number for each of 20 samples"):
        windows.loader(6, weights=[1.0, 2.0])
    with pytest.raises(NotFoundError, match="did you mean 'tss'"):
        windows.loader(6, weights="ts")


@pytest.mark.parametrize("flank", [None, 900, 30])
def test_contacts_a_base_are_those_of_its_bin(toy: Toy, flank: int | None) -> None:
    asked = Contacts("hic", kind="profile", flank=flank)
    windows = toy.open().windows(width=350, contacts=asked, jitter=40)
    loader = windows.loader(20, expand_contacts=True, missing="nan", reverse_complement="random")
    (batch,) = loader
    (bins,) = windows.loader(20, missing="nan", reverse_complement="random")
    assert batch.contacts.shape == (20, 350)
    for i in range(20):
        for j in range(0, 350, 7):
            k = (int(bins.contact_origin[i]) + j) // bins.bin_size
            value = bins.contacts[i, k] if 0 <= k < bins.contacts.shape[1] else torch.tensor(float("nan"))
            np.testing.assert_array_equal(batch.contacts[i, j].numpy(), value.numpy())
    with pytest.raises(QueryError, match="expand_contacts wants profiles"):
        toy.open().windows(width=350, contacts=Contacts("hic", kind="matrix")).loader(4, expand_contacts=True)


def test_a_batch_moves_as_a_tensor_does(toy: Toy) -> None:
    (batch,) = toy.open().windows(width=20, contacts="hic", features="all").loader(20)
    half = batch.to(torch.float64)
    assert half.signal.dtype == half.features.dtype == torch.float64
    assert half.bin_size == batch.bin_size
    assert batch[3:5].index.tolist() == [3, 4]
    assert batch[3:5].signal.shape[0] == 2
