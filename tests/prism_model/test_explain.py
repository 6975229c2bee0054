"""Attribution and mutagenesis: complete, on the right bases of the right strand, in files that a browser opens."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyBigWig
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

import genostore
from genostore.errors import QueryError
from prism_model.attribution import Reference, channel_shares, integrated_gradients
from prism_model.cli import main
from prism_model.config import make_config
from prism_model.explain import Explanation, explain, mutations
from prism_model.explain_files import write_explanation
from prism_model.predict import Predictor
from prism_model.prism import PrismOutput
from prism_model.train import fit

SETTINGS = ["data.width=256", "model.d_model=8", "model.n_layer=1", "model.d_state=4", "train.epochs=1"]


def quiet(line: str) -> None:
    """Takes the lines that a run says."""


@pytest.fixture(scope="module")
def run(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that reads genes in their own direction."""
    overrides = [f"data.store={tiny_store}", "data.orient=gene", "data.transform=log1p", *SETTINGS]
    return fit(make_config("laptop", None, overrides), tmp_path_factory.mktemp("runs") / "r", device="cpu", say=quiet)


class Linear(nn.Module):
    """Weights known a base, a position and a signal, so that every contribution is known as well."""

    def __init__(self, length: int, signals: int, features: int) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.bases, self.signals = torch.randn(length, 4, generator=g), torch.randn(length, signals, generator=g)
        self.features = torch.randn(features, generator=g)

    def forward(self, sequence: Tensor, signals: Tensor, features: Tensor) -> PrismOutput:
        total = (sequence * self.bases).sum((1, 2)) + (signals * self.signals).sum((1, 2)) + features @ self.features
        return PrismOutput(total, None, None)


def linear(run: Path, orient: str = "gene") -> tuple[Predictor, Linear]:
    predictor = Predictor(run, device="cpu")
    predictor.data.config = replace(predictor.data.config, orient=orient)
    model = Linear(256, 3, 1)
    predictor.model = model
    return predictor, model


@pytest.mark.parametrize("gene", ["G004", "G005"])  # + and -
def test_contributions_lie_on_the_bases_of_the_reference(run: Path, tiny_store: Path, gene: str) -> None:
    predictor, model = linear(run)
    found = explain(predictor, gene, mutate=20)
    store = genostore.open(str(tiny_store))
    row = store.genes.set_index("id").loc[gene]
    minus = row["strand"] == "-"
    assert (found.contig, found.start, found.end) == (row["contig"], row["tss"] - 128, row["tss"] + 128)
    codes = store.sequence(f"{found.contig}:{found.start}-{found.end}")
    np.testing.assert_array_equal(found.codes, codes)
    # By hand: the model reads the window in the gene's direction.
    read = 3 - codes[::-1] if minus else codes
    expected = (model.bases[torch.arange(256), torch.as_tensor(read.astype(np.int64))] - model.bases.mean(1)).numpy()
    np.testing.assert_allclose(found.sequence, expected[::-1] if minus else expected, atol=1e-5)
    signal = store.signal(f"{found.contig}:{found.start}-{found.end}", cell_types=["A"], assays=["DNase"]).to_numpy()
    np.testing.assert_allclose(found.values["DNase"], np.log1p(np.nan_to_num(signal.ravel())), rtol=1e-5)
    mean = Reference.of(predictor.data, predictor.data.windows("train")).signals[:, 1].numpy()
    weight = model.signals[:, 1].numpy()
    turn = slice(None, None, -1) if minus else slice(None)
    np.testing.assert_allclose(
        found.signals["DNase"], (found.values["DNase"] - mean[turn]) * weight[turn], rtol=1e-3, atol=1e-4
    )
    assert found.gap == pytest.approx(0, abs=1e-3)
    # Mutations: alternative bases of the reference strand.
    for mutation in mutations(found).iloc[[0, 7, 30]].itertuples():
        at = mutation.position - found.start
        assert "ACGT"[codes[at]] == mutation.reference
        index = 255 - at if minus else at
        letters = "TGCA" if minus else "ACGT"
        change = model.bases[index, letters.index(mutation.alternative)]
        change = change - model.bases[index, letters.index(mutation.reference)]
        assert mutation.effect == pytest.approx(float(change), abs=1e-3)


def test_stranded_tracks_change_places_where_the_window_was_turned(run: Path) -> None:
    from prism_model.explain import _Place

    place = _Place("chr1", -2, 6, 100, flipped=True, swapped=[1, 0, 2])
    values = torch.arange(24.0).reshape(6, 4)
    found = place.signals(values, ["RNA+", "RNA-", "DNase", "hic"])
    assert (place.start, place.end, place.index(0), place.index(3)) == (0, 4, 3, 0)
    np.testing.assert_array_equal(found["RNA+"], values[[3, 2, 1, 0], 1])
    np.testing.assert_array_equal(found["RNA-"], values[[3, 2, 1, 0], 0])
    np.testing.assert_array_equal(found["hic"], values[[3, 2, 1, 0], 3])
    np.testing.assert_array_equal(place.bases(np.array([0, 1, 2, 3, 4, 4], np.uint8)), [0, 1, 2, 3])


def test_attributions_are_complete(run: Path) -> None:
    predictor = Predictor(run, device="cpu")
    batch = next(iter(predictor.data.loader(predictor.data.windows("test"), 4)))
    inputs = predictor.data.inputs(batch)
    reference = Reference.of(predictor.data, predictor.data.windows("train")).like(inputs)
    predictor.model.eval()
    for branch, share in (("original", 0.05), ("adjusted", 0.2)):  # its encoder pools by maxima: a gradient with jumps
        few, many = (
            integrated_gradients(predictor.model, inputs, reference, branch=branch, steps=steps) for steps in (4, 64)
        )
        change = (many.prediction - many.reference).abs().max()
        assert many.gap.abs().max() < few.gap.abs().max()
        assert many.gap.abs().max() < share * change
    with torch.no_grad():
        torch.testing.assert_close(many.prediction, predictor.model(*inputs).adjusted)


def test_channel_shares(run: Path) -> None:
    predictor = Predictor(run, device="cpu")
    table = channel_shares(predictor, predictor.data.windows("test"), 5, 16)
    assert list(dict.fromkeys(table["input"])) == ["sequence", "H3K27ac", "DNase", "hic", "CDSLEN"]
    assert len(table) == 25
    assert table.groupby("gene")["gap"].nunique().max() <= 2  # two cell types


def test_a_gene_at_the_end_of_its_contig_is_cut_there(run: Path) -> None:
    predictor, model = linear(run, "reference")
    found = explain(predictor, "G000", mutate=0)  # its TSS is at 40
    assert (found.start, found.end) == (0, 168)
    assert len(found.sequence) == len(found.values["hic"]) == 168
    assert found.mutagenesis is None
    expected = model.bases[88 + torch.arange(168), torch.as_tensor(found.codes.astype(np.int64))]
    np.testing.assert_allclose(found.sequence, (expected - model.bases[88:].mean(1)).numpy(), atol=1e-5)


def test_regions(run: Path) -> None:
    found = explain(Predictor(run, device="cpu"), "chr2:1,000-1,100", cell_type="B", steps=8, mutate="chr2:1040-1044")
    assert (found.gene, found.contig, found.start, found.end, found.cell_type) == (None, "chr2", 922, 1178, "B")
    assert found.features == {"CDSLEN": 0.0}  # at its mean
    assert np.isnan(found.observed)
    assert mutations(found)["position"].tolist() == [1040] * 3 + [1041] * 3 + [1042] * 3 + [1043] * 3
    with pytest.raises(QueryError, match=r"chr2:900-950 is not in the window, chr2:922-1178"):
        explain(Predictor(run, device="cpu"), "chr2:1,000-1,100", steps=8, mutate="chr2:900-950")
    with pytest.raises(QueryError, match="no cell type 'C', only A, B"):
        explain(Predictor(run, device="cpu"), "G004", cell_type="C")


def test_what_is_explained_is_compared_with_the_training_samples(run: Path, tiny_store: Path, tmp_path: Path) -> None:
    other = tmp_path / "s.zarr"
    shutil.copytree(tiny_store, other)
    shutil.rmtree(other / "expression")  # none to train on any more
    (other / "index.json").unlink()
    here = explain(Predictor(run, device="cpu"), "G005", cell_type="B", steps=4, mutate=0)
    there = explain(Predictor(run, store=other, cell_types=["B"], device="cpu"), "G005", steps=4, mutate=0)
    assert there.cell_type == "B"
    assert there.reference == pytest.approx(here.reference, rel=1e-6)
    np.testing.assert_allclose(there.signals["DNase"], here.signals["DNase"], rtol=1e-4, atol=1e-7)
    with pytest.warns(UserWarning, match="has never seen C"):
        done = CliRunner().invoke(main, ["explain", str(run), "G005", "--cell-type", "C", "--out", str(tmp_path / "e")])
    assert "lacks C/H3K27ac" in done.output


def test_files_that_a_browser_opens(run: Path, tiny_store: Path, tmp_path: Path) -> None:
    out = tmp_path / "e"
    arguments = ["explain", run, "G005", "--out", out, "--steps", 8, "--mutate", 6, "--branch", "adjusted"]
    done = CliRunner().invoke(main, [str(a) for a in [*arguments, "--device", "cpu"]], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "gene5 in A: predicted" in done.output
    found = explain(Predictor(run, device="cpu"), "G005", branch="adjusted", steps=8, mutate=6)
    contigs = genostore.open(str(tiny_store)).contigs
    for name, start, values in (
        ("attribution.sequence", found.start, found.sequence),
        ("attribution.DNase", found.start, found.signals["DNase"]),
        ("mutagenesis", found.anchor - 3, found.mutagenesis.importance),
    ):
        with pyBigWig.open(str(out / f"{name}.bw")) as track:
            assert track.chroms() == contigs
            read = track.values(found.contig, start, start + len(values), numpy=True)
            np.testing.assert_allclose(read, values.astype(np.float32), rtol=1e-4, atol=1e-7)
            assert track.header()["nBasesCovered"] == len(values)
        first, *lines = (out / f"{name}.bedgraph").read_text().splitlines()
        assert first.startswith("track type=bedGraph name=")
        assert lines[0].split("\t")[:2] == [found.contig, str(start)]
        assert lines[-1].split("\t")[2] == str(start + len(values))
    assert len(pd.read_csv(out / "mutations.tsv", sep="\t")) == 18
    numbers = json.loads((out / "explanation.json").read_text())
    total = sum(numbers["contributions"].values())
    assert numbers["reference"] + total + numbers["gap"] == pytest.approx(numbers["prediction"], abs=1e-4)
    assert (out / "explanation.png").stat().st_size > 10_000


def test_n_and_silence(tmp_path: Path) -> None:
    known = np.array([0, 0, 1, 4], np.uint8)
    found = Explanation(
        *("x", None, "c", 0, 4, 2, ".", "A", "original", known, np.array([0.5, 0.5, np.nan, 0.0])),
        *({}, {}, {}, 0.0, 0.0, 0.0, float("nan"), None),
    )
    write_explanation(found, tmp_path, {"c": 4, "d": 9}, ("bedgraph",))
    assert (tmp_path / "attribution.sequence.bedgraph").read_text().splitlines()[1:] == ["c\t0\t2\t0.5", "c\t3\t4\t0"]
    with pytest.raises(QueryError, match="nothing was mutated"):
        mutations(found)
