"""Prediction for regions, other stores and a user's own files; the model's card; and memory told beforehand."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result

import genostore
import ingest
from genostore.errors import CatalogueError, NotFoundError, QueryError
from prism_model import Predictor, cli, files, fit, make_config
from prism_model.card import write_card
from prism_model.cli import main
from prism_model.evaluate import evaluate
from prism_model.options import plain_warnings
from prism_model.room import RoomError

SETTINGS = ["data.width=256", "train.epochs=1", "train.loggers=[]"]
CNN = ["model.name=cnn", "model.d_model=8", "model.n_layer=1"]


@pytest.fixture(scope="module")
def run(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = [f"data.store={tiny_store}", *SETTINGS, *CNN]
    return fit(make_config("laptop", None, settings), tmp_path_factory.mktemp("p") / "r", device="cpu", say=len)


@pytest.fixture(scope="module")
def bed(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two bases around the TSSs of three genes, so that a region's window is the gene's."""
    genes = genostore.open(tiny_store).genes.iloc[[1, 5, 40]]
    table = pd.DataFrame({"c": genes["contig"], "s": genes["tss"], "e": genes["tss"] + 1, "n": genes["id"]})
    path = tmp_path_factory.mktemp("bed") / "r.bed"
    table.to_csv(path, sep="\t", header=False, index=False)
    return path


def command(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.mark.filterwarnings("ignore:regions have no gene features")
def test_regions_are_predicted_like_genes_with_typical_features(run: Path, bed: Path, tiny_store: Path) -> None:
    predictor = Predictor(run, device="cpu")
    with pytest.warns(UserWarning, match=r"no gene features \(CDSLEN\): the model is given their means"):
        table = predictor(predictor.regions(bed))
    assert list(table) == ["contig", "start", "end", "name", "cell_type", "original"]
    assert table["name"].tolist() == ["G001", "G001", "G005", "G005", "G040", "G040"]
    train = predictor.data.windows("train")
    values = np.concatenate([b.features.numpy() for b in predictor.data.loader(train, 8)])
    assert predictor._typical_features(predictor.regions(bed)).item() == pytest.approx(values.mean(), rel=1e-5)
    # With the gene's own feature it would be the gene's prediction.
    windows = predictor.genes(["G001", "G005", "G040"])
    batch = windows.read(np.arange(6))
    again = predictor.regions(bed).read(np.arange(6))
    np.testing.assert_array_equal(batch.signal, again.signal)
    np.testing.assert_array_equal(batch.contacts, again.contacts)


def test_own_files_give_what_their_store_gives(run: Path, bed: Path, tiny_store: Path, tmp_path: Path) -> None:
    store = genostore.open(tiny_store)
    with (tmp_path / "g.fa").open("w") as file:
        for contig in store.genome:
            codes = store.sequence(f"{contig.name}:0-{contig.length}")
            file.write(f">{contig.name}\n{genostore.decode(codes)}\n")
    for assay in ("H3K27ac", "DNase"):
        ingest.export(store, f"tracks/A/{assay}", tmp_path / f"{assay}.bw")
    settings = [f"data.store={tiny_store}", *SETTINGS, *CNN, "data.contacts=null", "data.features=[]"]
    small = fit(make_config("laptop", None, settings), tmp_path / "r", device="cpu", say=len)
    tracks = [part for a in ("H3K27ac", "DNase") for part in ("--track", f"A:{a}={tmp_path / a}.bw")]
    done = command(
        "predict", small, "--fasta", tmp_path / "g.fa", *tracks, "--regions", bed, "--out", tmp_path / "p.tsv"
    )
    assert done.exit_code == 0, done.output
    predictor = Predictor(small, device="cpu", cell_types=["A"])
    expected = predictor(predictor.regions(bed))
    got = pd.read_csv(tmp_path / "p.tsv", sep="\t")
    assert got["name"].tolist() == expected["name"].tolist()
    np.testing.assert_allclose(got["original"], expected["original"], rtol=1e-4)
    done = command("predict", small, "--fasta", tmp_path / "g.fa", *tracks[:2], "--regions", bed)
    assert done.exit_code == 1
    assert "the model takes the signals H3K27ac, DNase, and there is no file of A/DNase; give --track" in done.output
    assert "written" not in done.output  # it was told before anything was read
    with pytest.raises(CatalogueError, match=r"^assembly\.fasta: no such file"), files.temporary_store("no.fa", {}, {}):
        pass
    with pytest.raises(QueryError, match="is not CELL:ASSAY=FILE"):
        files.parse_files(("DNase=a.bw",), "--track")
    for wrong in (["--genes", "a", "--regions", bed], ["--track", "A:B=c"], ["--fasta", "g.fa"]):
        assert command("predict", small, *wrong).exit_code == 2


def test_a_store_without_a_signal_is_refused_with_what_it_lacks(run: Path, tiny_store: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_store, tmp_path / "s.zarr")
    shutil.rmtree(tmp_path / "s.zarr/tracks/B/DNase")
    (tmp_path / "s.zarr/index.json").unlink()
    with pytest.raises(NotFoundError, match=r"takes the signals .*hic in bins of .* lacks B/DNase; it has"):
        Predictor(run, store=tmp_path / "s.zarr", device="cpu")
    assert Predictor(run, store=tmp_path / "s.zarr", cell_types=["A"], device="cpu").data.channels[1] == "DNase"
    shutil.rmtree(tmp_path / "s.zarr/contacts/A")
    (tmp_path / "s.zarr/index.json").unlink(missing_ok=True)
    with pytest.raises(NotFoundError, match=r"lacks A/hic; .*--cell-type A --assay hic --bin-size \d+`"):
        Predictor(run, store=tmp_path / "s.zarr", cell_types=["A"], device="cpu")
    with (
        pytest.warns(UserWarning, match="never seen C"),
        pytest.raises(NotFoundError, match="lacks C/H3K27ac"),
    ):
        Predictor(run, cell_types=["C"], device="cpu")


def test_weights_that_are_no_run_or_of_another(run: Path, tiny_store: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"holds weights alone.*prism convert CHECKPOINT"):
        Predictor(run / "checkpoints/best", device="cpu")
    settings = [f"data.store={tiny_store}", *SETTINGS, *CNN, "data.contacts=null"]
    other = fit(make_config("laptop", None, settings), tmp_path / "r", device="cpu", say=len)
    for file in (run / "checkpoints/best").iterdir():
        shutil.copy(file, other / "checkpoints/best" / file.name)
    with pytest.raises(QueryError, match=r"was made for 3 signals, and the run reads 2 \(H3K27ac, DNase\)"):
        Predictor(other, device="cpu")


def test_the_command_says_what_is_wrong_in_a_line(run: Path, tmp_path: Path) -> None:
    for arguments, message in (
        (["--genes", f"@{tmp_path / 'none'}"], "none: No such file or directory"),
        (["--regions", tmp_path / "none.bed"], "there is no file"),
        (["--genes", "G001", "--cell-types", "A,A"], "named more than once"),
    ):
        done = command("predict", run, *arguments)
        assert done.exit_code == 1
        assert message in done.output
        assert done.output.startswith("Error: ")
    before = warnings.formatwarning
    with plain_warnings():
        assert warnings.formatwarning("seen never", UserWarning, cli.__file__, 1) == "Warning: seen never\n"
        assert "UserWarning" in warnings.formatwarning("of another", UserWarning, pd.__file__, 1)
    assert warnings.formatwarning is before


def test_a_store_without_labels_is_predicted_on(run: Path, tiny_store: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_store, tmp_path / "s.zarr")
    shutil.rmtree(tmp_path / "s.zarr/expression")
    (tmp_path / "s.zarr/index.json").unlink()
    predictor = Predictor(run, store=tmp_path / "s.zarr", device="cpu")
    table = predictor(predictor.genes(["G001"]))
    with_labels = Predictor(run, device="cpu")
    expected = with_labels(with_labels.genes(["G001"]))
    assert list(table) == ["gene", "name", "cell_type", "original"]
    np.testing.assert_allclose(table["original"], expected["original"], rtol=1e-6)


def test_the_card_says_what_the_run_is(run: Path) -> None:
    before = (run / "README.md").read_text()
    assert "Not evaluated on the test split." in before
    assert "had not reached its end" not in before
    assert "| `tracks/A/DNase` | A.DNase.bw |" in before
    result = evaluate(run, "test", device="cpu", baselines=False)
    card = (run / "README.md").read_text()
    assert "Not evaluated" not in card
    assert f"| test | original | all | 24 | {result['scores']['original']['all']['mse']:.4f} |" in card
    assert json.loads((run / "data.json").read_text())["sha256"][:16] in card
    assert "may confound it" in card
    assert "a model of kind `cnn`" in card.lower()
    (run / "finished.json").rename(run / "f.json")
    assert "had not reached its end" in write_card(run).read_text()
    (run / "f.json").rename(run / "finished.json")


def test_too_long_a_window_is_refused_before_the_first_step(run: Path, tiny_store: Path, tmp_path: Path) -> None:
    many = 10**8
    settings = make_config("laptop", None, [f"data.store={tiny_store}", *SETTINGS, *CNN, f"train.batch_size={many}"])
    with pytest.raises(RoomError, match=r"100000000 windows of 256 bases takes about .* a batch of \d+ would fit"):
        fit(settings, tmp_path / "r", device="cpu", say=len)
    assert not (tmp_path / "r").exists()
    predictor = Predictor(run, device="cpu")
    with pytest.raises(RoomError, match=r"predicting a batch of 10+ windows of 256 bases takes about .* GiB are free"):
        predictor(predictor.genes(["G001"]), batch_size=many * 100)
