"""Several seeds: a folder each, gone on with after a break, and scored as mean and sd beside the published figures."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from genostore.errors import ConflictError, NotFoundError
from prism_model import Predictor, RunConfig, make_config
from prism_model.cli import main
from prism_model.published import PUBLISHED, comparable
from prism_model.seeds import PAPER_SEEDS, evaluate_seeds, fit_seeds

SETTINGS = ["data.width=256", "model.d_model=8", "model.n_layer=1", "model.d_state=4", "train.epochs=2"]


def config(store: Path, *overrides: str) -> RunConfig:
    return make_config("laptop", None, [f"data.store={store}", *SETTINGS, "train.loggers=[]", *overrides])


@pytest.fixture(scope="module")
def parent(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seeds; broken off in the second, then gone on with by the same call."""
    out = tmp_path_factory.mktemp("seeds") / "tiny"

    def stop(line: str) -> None:
        if line.startswith("seed 22: step 8 "):
            raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit_seeds(config(tiny_store), out, [2, 22, 5], device="cpu", say=stop)
    assert (out / "seed-2/finished.json").is_file()
    assert not (out / "seed-22/finished.json").exists()
    lines: list[str] = []
    fit_seeds(config(tiny_store), out, [2, 22, 5], device="cpu", say=lines.append)
    assert "seed 2: finished before" in lines
    assert not any(line.startswith("seed 22: step 4 ") for line in lines)  # its first epoch is not trained again
    assert sum("finished at step 8" in line for line in lines) == 2
    return out


def test_the_paper_has_five() -> None:
    assert PAPER_SEEDS == (2, 22, 222, 2222, 22222)


def test_scores_are_means_over_seeds(parent: Path) -> None:
    summary = evaluate_seeds(parent, "valid", device="cpu")
    assert summary["seeds"] == [2, 5, 22]
    assert list(summary["scores"]) == ["original", "adjusted", "adjusted_prediction", "mean", "ridge"]
    assert summary["published"] == {}  # other data than the paper's
    each = [json.loads((parent / f"seed-{s}/metrics/valid.json").read_text())["scores"] for s in (2, 5, 22)]
    for branch in ("original", "adjusted", "adjusted_prediction"):
        values = [scores[branch]["A"]["mse"] for scores in each]
        got = summary["scores"][branch]["A"]["mse"]
        assert got["each"] == values
        assert len(set(values)) == 3
        assert got["mean"] == pytest.approx(np.mean(values))
        assert got["sd"] == pytest.approx(np.std(values, ddof=1))
    assert summary["scores"]["ridge"]["all"]["mse"]["sd"] is None
    kept = json.loads((parent / "metrics/valid.json").read_text())
    assert kept["scores"]["original"] == summary["scores"]["original"]


def test_the_second_averaging_is_that_of_the_model(parent: Path) -> None:
    predictor = Predictor(parent / "seed-2", device="cpu")
    windows = predictor.data.windows("valid")
    table = predictor(windows, averaging="prediction")
    predictor.model.config = replace(predictor.model.config, averaging="prediction")
    np.testing.assert_allclose(table["adjusted_prediction"], predictor(windows)["adjusted"], rtol=1e-5)
    written = (
        pd.read_parquet(parent / "seed-2/predictions/valid.parquet")
        if (parent / "seed-2/predictions/valid.parquet").exists()
        else table
    )
    assert "adjusted_prediction" in written


def test_other_settings_and_repeated_seeds_are_refused(parent: Path, tiny_store: Path, tmp_path: Path) -> None:
    with pytest.raises(ConflictError, match=r"other settings \(train.lr\)"):
        fit_seeds(config(tiny_store, "train.lr=0.5"), parent, [2, 7], say=print)
    with pytest.raises(ConflictError, match=r"other settings \(.*model.name"):
        fit_seeds(make_config("laptop", None, [f"data.store={tiny_store}", "model.name=cnn"]), parent, [2], say=print)
    with pytest.raises(ConflictError, match="seeds repeat"):
        fit_seeds(config(tiny_store), tmp_path, [2, 2])
    with pytest.raises(NotFoundError, match="neither a run nor a folder of runs"):
        evaluate_seeds(tmp_path)


def test_commands(parent: Path, tiny_store: Path, tmp_path: Path) -> None:
    out = tmp_path / "ridge"
    sets = [p for s in ("data.width=256", "model.name=ridge", "train.loggers=[]") for p in ("--set", s)]
    done = CliRunner().invoke(main, ["train", str(tiny_store), "--out", str(out), "--seeds", "2,3", *sets])
    assert done.exit_code == 0, done.output
    assert "seed 3: finished" in done.output
    done = CliRunner().invoke(main, ["evaluate", str(out), "--split", "valid", "--no-baselines"])
    assert done.exit_code == 0, done.output
    assert "seeds 2, 3" in done.output
    assert "original branch" in done.output
    assert re.search(r"\d\.\d{4} ± 0\.0000", done.output)  # ridge depends on no seed
    shutil.copytree(out / "seed-3", out / "seed-3.old")
    (out / "seed-3/finished.json").unlink()
    done = CliRunner().invoke(main, ["evaluate", str(out), "--split", "valid", "--no-baselines"])
    assert "left out, not finished: seed-3" in done.output
    done = CliRunner().invoke(main, ["train", str(tiny_store), "--out", str(out), "--seeds", "2,x"])
    assert done.exit_code == 2
    for seeds, code, message in (("-1", 2, "0 or more, not -1"), ("9999999999", 1, "<= 4294967295, not 9999999999")):
        done = CliRunner().invoke(main, ["train", str(tiny_store), "--out", str(tmp_path / "n"), "--seeds", seeds])
        assert done.exit_code == code
        assert message in done.output


def test_published_figures() -> None:
    """They stand beside scores of the paper's task alone."""
    assert comparable("CAGE", "fold_11", "test", ["K562", "GM12878", "H1"]) == ["K562", "GM12878"]
    assert comparable("CAGE", "split", "test", ["K562"]) == []
    assert comparable("CAGE", "fold_11", "valid", ["K562"]) == []
    assert PUBLISHED["Prism, 2 kb"]["K562"] == (0.1789, None, 0.8751)
    assert len(PUBLISHED) == 10
