"""Studies on a tiny store: grids, resuming, what is measured, the tables and the page."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor, nn

import prism_model
from genostore import Batch
from genostore.errors import ConflictError, NotFoundError, QueryError
from prism_model.cli import main
from prism_model.models import registry
from prism_model.models.base import ModelConfig
from prism_model.predict import Predictor
from prism_model.settings import from_plain
from prism_model.studies import draw
from prism_model.studies.adjustment import AdjustmentDesign, AdjustmentStudy
from prism_model.studies.background import BackgroundStudy, spelled, squared_errors, trained_on, worth_and_dependence
from prism_model.studies.base import Cell, StudyError, base_config, resolved
from prism_model.studies.intervals import over_genes, over_seeds
from prism_model.studies.length import LengthDesign, LengthStudy, lengths_crossed
from prism_model.studies.run import markdown
from prism_model.studies.scoring import (
    centred,
    drawn,
    exchanged,
    mean_profile,
    pooled_over,
    predictions,
    shuffled,
    without,
)
from prism_model.studies.shift import (
    CAUSES,
    Environment,
    ShiftDesign,
    ShiftStudy,
    check_truths,
    compared,
    leaning,
    slope,
    tidy,
)
from prism_model.train import fit
from tests.prism_model.limits import at_most

TINY = [
    "--set",
    "model.d_model=4",
    "--set",
    "train.batch_size=32",
    "--set",
    "train.loggers=[]",
    "--device",
    "cpu",
    "--quick",
]


def command(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def run(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = base_config(str(tiny_store), "quick", ("model.n_context=0", "train.batch_size=16"))
    return fit(config, tmp_path_factory.mktemp("runs") / "r", device="cpu", say=lambda line: None)


def test_intervals() -> None:
    found = over_seeds([1.0, 2.0, 3.0])
    assert (found.estimate, found.low, found.high) == pytest.approx((2.0, 2 - 2.4841, 2 + 2.4841), abs=1e-3)
    assert np.isnan(over_seeds([1.0]).low)
    rng = np.random.default_rng(0)
    gene = np.repeat(np.arange(100), 4)
    values = rng.normal(1.0, 1.0, 100)[gene]  # four samples a gene tell no more than one
    found = over_genes(values, gene)
    assert found.estimate == pytest.approx(values.mean())
    half = 1.96 * values[::4].std() / 10
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.15)
    assert over_genes(values, gene) == found  # drawn alike each time


def test_the_slope_is_that_of_least_squares() -> None:
    rng = np.random.default_rng(0)
    state, cause = rng.integers(0, 2, 200), rng.normal(size=200)
    error = 0.7 * state - 0.3 * cause + 2.0
    values = np.column_stack([error, state, cause])
    assert slope(np.ones(200), values) == pytest.approx(0.7)
    noisy = values + [[1.0, 0, 0]] * rng.normal(size=(200, 1))
    weights = rng.integers(0, 3, 200).astype(float)
    repeated = noisy.repeat(weights.astype(int), 0)
    assert slope(weights, noisy) == pytest.approx(slope(np.ones(len(repeated)), repeated))


def test_signals_are_taken_away(run: Path) -> None:
    predictor = Predictor(run, device="cpu")
    data = predictor.data
    test, train = data.windows("test"), data.windows("train")
    batch = next(iter(data.loader(test, 8)))
    inputs = data.inputs(batch)
    gone = without((1,))(inputs)
    assert not gone[1][..., 1].any()
    assert torch.equal(gone[1][..., [0, 2]], inputs[1][..., [0, 2]])
    assert inputs[1][..., 1].any()  # the batch itself is left as it was
    profile = mean_profile(data, train)
    every = torch.cat([data.inputs(b)[1] for b in data.loader(train, 7)])
    torch.testing.assert_close(profile, every.mean(0))
    assert torch.equal(without((0, 2), profile)(inputs)[1][3][:, [0, 2]], profile[:, [0, 2]])

    mixed = shuffled(test, 0)
    assert (mixed.selection.cell_type == test.selection.cell_type).all()
    assert (mixed.selection.gene != test.selection.gene).all()  # nobody keeps its own
    assert sorted(mixed.selection.gene) == sorted(test.selection.gene)
    other = data.inputs(next(iter(data.loader(mixed, 8))))
    swapped = exchanged((1,))(inputs, other)
    assert torch.equal(swapped[1][..., 1], other[1][..., 1])
    assert torch.equal(swapped[1][..., 0], inputs[1][..., 0])
    assert (drawn(train, test, 0).selection.cell_type == test.selection.cell_type).all()
    assert len(drawn(train, test, 0)) == len(test)

    plain = predictions(predictor, test)
    pd.testing.assert_frame_equal(plain, predictor(test).drop(columns="name")[list(plain)])
    changed = predictions(predictor, test, partners=mixed, exchange=exchanged((0,)))
    assert not np.allclose(changed["original"], plain["original"])
    same = predictions(predictor, test, partners=test, exchange=exchanged((0, 1, 2)))
    np.testing.assert_array_equal(same["original"], plain["original"])


def test_windows_are_cut_around_their_middle(run: Path) -> None:
    predictor = Predictor(run, device="cpu")
    test = predictor.data.windows("test")
    inputs = predictor.data.inputs(next(iter(predictor.data.loader(test, 4))))
    short = centred(100)(inputs)
    assert torch.equal(short[0], inputs[0][:, 78:178])
    assert torch.equal(short[1], inputs[1][:, 78:178])
    with pooled_over(predictor.model, 100):
        cut = predictions(predictor, test, centred(100))
        assert predictor.model.config.center_length == 100
    assert predictor.model.config.center_length == 256
    assert not np.allclose(cut["original"], predictions(predictor, test)["original"])


def test_worth_and_dependence_by_hand() -> None:
    """The model of both errs by 1; without b by 2 when trained so, by 3 with zeros, by 4 with another gene's."""
    rows = []
    for seed in (1, 2):
        for gene in "GHIJ":
            for signals, everything, removed, way, error in (
                ("a+b", True, "no signal", "none", 1.0),
                ("a+b", True, "b", "zero", 3.0),
                ("a+b", True, "b", "shuffle", 3.5),
                ("a+b", True, "b", "shuffle", 4.5),
                ("a", False, "no signal", "none", 2.0),
            ):
                rows.append(("without", signals, everything, removed, way, seed, gene, "A", 0.0, error**0.5))
    columns = ["ninth", "signals", "all", "removed", "way", "seed", "gene", "cell_type", "observed", "original"]
    errors = squared_errors(pd.DataFrame(rows, columns=columns))
    trained = trained_on(errors).set_index("signals")
    assert trained["mse"].to_dict() == pytest.approx({"a+b": 1.0, "a": 2.0})
    summary = worth_and_dependence(errors).set_index("way")
    assert summary["worth"].to_dict() == pytest.approx({"zero": 1.0, "shuffle": 1.0})
    assert summary["dependence"].to_dict() == pytest.approx({"zero": 2.0, "shuffle": 1.5})  # half of 3
    assert summary["excess"].to_dict() == pytest.approx({"zero": 1.0, "shuffle": 0.5})
    assert summary.loc["zero", "excess_genes_low"] == pytest.approx(1.0)


def test_a_model_of_independent_causes_depends_on_them_for_what_they_are_worth() -> None:
    rng = np.random.default_rng(0)
    genes = np.arange(500)
    a, b = rng.normal(size=(2, len(genes)))
    predicted = {("a+b", "no signal", "none"): a + 0.5 * b, ("a", "no signal", "none"): a}
    predicted |= {("a+b", "b", "shuffle"): a + 0.5 * np.roll(b, 1), ("a+b", "b", "mean"): a}
    observed = a + 0.5 * b
    table = pd.concat(
        pd.DataFrame(
            {"ninth": "without", "signals": signals, "all": "+" in signals, "removed": removed, "way": way}
            | {"seed": 2, "gene": genes, "cell_type": "A", "observed": observed, "original": values}
        )
        for (signals, removed, way), values in predicted.items()
    )
    summary = worth_and_dependence(squared_errors(table)).set_index("way")
    assert summary["dependence"].to_numpy() == pytest.approx([0.25, 0.25], abs=0.04)
    assert summary["worth"].to_numpy() == pytest.approx([0.25, 0.25], abs=0.04)


def test_lengths_by_hand() -> None:
    rows = [
        (train, test, seed, gene, "A", 1.0 if train == 500 else {500: 4.0, 2000: 3.0}[test])
        for train, test in ((500, 500), (2000, 500), (2000, 2000))
        for seed in (1, 2)
        for gene in "GH"
    ]
    table = pd.DataFrame(rows, columns=["train_length", "test_length", "seed", "gene", "cell_type", "error"])
    found = lengths_crossed(table, 500).set_index(["train_length", "test_length"])
    assert found.loc[(2000, 2000), "longer"] == pytest.approx(2.0)
    assert found.loc[(2000, 500), "truncated"] == pytest.approx(1.0)
    assert np.isnan(found.loc[(500, 500), "longer"])


def test_leaning_by_hand() -> None:
    """A predictor that adds 0.5 where the background is open, and one that does not look at it."""
    rng = np.random.default_rng(0)
    genes = [f"G{i}" for i in range(60)]
    cause = rng.normal(size=60)
    states = {"training": (cause > 0).astype(int), "broken": rng.integers(0, 2, 60)}
    truth = pd.concat(
        pd.DataFrame(
            {"gene": genes, "cell_type": "A", "neighbourhood": np.arange(60) // 3, "background_state": state}
            | {"hidden_activity": cause, "environment": name}
            | {c: rng.normal(size=60) for c in ("element_activity", "add_motifs", "add_features")}
        )
        for name, state in states.items()
    )
    tables = [
        pd.DataFrame(
            {"model": "m", "seed": seed, "environment": name, "gene": genes, "cell_type": "A", "observed": cause}
            | {"original": 0.5 * state, "adjusted": 0.1}
        )
        for name, state in states.items()
        for seed in (1, 2)
    ]
    environments = (Environment("training", "", ""), Environment("broken", "", ""))
    found = leaning(tidy(pd.concat(tables), truth), environments).set_index(["branch", "environment"])
    assert found.loc[("original", "broken"), "lean"] == pytest.approx(0.5)
    assert found.loc[("original", "broken"), "slope"] == pytest.approx(0.5)
    assert found.loc[("original", "broken"), "growth"] > 0.1
    assert found.loc[("adjusted", "broken"), ["lean", "growth"]].tolist() == pytest.approx([0, 0])
    with pytest.raises(NotFoundError, match="the truth says nothing of G0"):
        tidy(pd.concat(tables), truth[truth["gene"] != "G0"])

    plain = tidy(pd.concat(tables).assign(model="foreground, n=0", original=0.0), truth)
    both = pd.concat([plain[plain["branch"] == "original"], tidy(pd.concat(tables), truth).assign(model="all, n=0")])
    against = compared(both, environments).set_index(["against", "model", "branch", "environment"])
    row = against.loc["foreground, n=0", "all, n=0", "original", "broken"]
    expected = ((0.5 * states["broken"] - cause) ** 2 - cause**2).mean()
    assert row[["mse", "lean"]].tolist() == pytest.approx([expected, 0.5])
    assert row["mse_genes_low"] < expected < row["mse_genes_high"]
    assert row["mse_seeds_low"] == pytest.approx(expected)  # both seeds are alike
    summary = leaning(both, environments)
    assert draw.shift(summary, against.reset_index(), ["training", "broken"]).axes
    foreground = both[both["model"] == "foreground, n=0"]
    assert compared(foreground, environments).empty  # nothing to set it against
    other = compared(both.assign(model=both["model"].replace("foreground, n=0", "Prism, n=2")), environments)
    assert set(other["against"]) == {"all, n=0"}


def test_the_grids(tiny_store: Path) -> None:
    base, data = resolved(base_config(str(tiny_store), "laptop"))
    cells = BackgroundStudy(BackgroundStudy.design_type(), base, (2, 22)).cells(data)
    assert [c.name for c in cells[::2]] == [
        *("H3K27ac+DNase+hic-seed2", "H3K27ac+DNase-seed2", "H3K27ac+hic-seed2", "DNase+hic-seed2"),
        *("H3K27ac-seed2", "DNase-seed2", "hic-seed2", "none-seed2"),
    ]
    assert [c.labels["all"] for c in cells[:3]] == [True, True, False]
    assert cells[-1].config.data.contacts is None
    assert (cells[-1].config.seed, cells[-2].config.seed) == (22, 2)
    each = BackgroundStudy(from_plain(BackgroundStudy.design_type, {"subsets": "each"}), base, (2,)).cells(data)
    assert len(each) == 8  # of three signals that is all subsets
    names = [c.name for c in AdjustmentStudy(AdjustmentDesign(), base, (2,)).cells(data)]
    assert names[0] == "n0-alpha1-beta1-seed2"
    assert names[-2:] == ["n2-alpha0-beta1-seed2", "n2-alpha1-beta0-seed2"]
    lengths = LengthStudy(LengthDesign(lengths=(500, 5_000)), base, (2,)).cells(data)
    assert [(c.config.data.width, c.config.model.center_length) for c in lengths] == [(500, 500), (5_000, 2_000)]
    with pytest.raises(QueryError, match=r"none longer than the longest contig \(30,000 bases\)"):
        LengthStudy(LengthDesign(), base, (2,)).cells(data)
    assert spelled([]) == "no signal"


@pytest.mark.parametrize(("seeds", "message"), [("2,x", "whole numbers"), ("2,2", "repeat"), ("-1", "0 or more")])
def test_seeds_that_are_none(tmp_path: Path, seeds: str, message: str) -> None:
    for arguments in (["study", "length"], ["train"]):
        done = CliRunner().invoke(main, [*arguments, "no.zarr", "--out", str(tmp_path / "o"), "--seeds", seeds])
        assert done.exit_code == 2
        assert message in done.output


def test_a_study_from_the_command_resumes(tiny_store: Path, tmp_path: Path) -> None:
    out = tmp_path / "s"
    arguments = ["study", "length", tiny_store, "--out", out, "--seeds", "2,22", *TINY]
    done = command(*arguments)
    assert done.exit_code == 0, done.output
    assert "length: 4 runs, 0 of them finished already" in done.output
    table = pd.read_parquet(out / "tables/predictions.parquet")
    assert set(zip(table["train_length"], table["test_length"], strict=True)) == {(128, 128), (256, 128), (256, 256)}
    summary = pd.read_csv(out / "summary.csv")
    whole = table[(table.train_length == 256) & (table.test_length == 256)]
    by_seed = ((whole["original"] - whole["observed"]) ** 2).groupby(whole["seed"]).mean()
    found = summary.set_index(["train_length", "test_length"]).loc[(256, 256), "mse"]
    assert found == pytest.approx(by_seed.mean(), abs=1e-4)
    page = (out / "report.md").read_text()
    assert "4 runs, seeds 2, 22" in page
    assert "**Trained for one epoch: this shows that the study runs" in page
    assert "![length](figures/length.png)" in page
    assert (out / "figures/length.png").stat().st_size > 5_000
    about = json.loads((out / "study.json").read_text())
    assert about["design"]["lengths"] == [128, 256]

    before = (out / "cells/128-seed2/cell.json").stat().st_mtime_ns
    shutil.rmtree(out / "cells/256-seed22")
    again = command(*arguments)
    assert "3 of them finished already" in again.output
    assert (out / "cells/128-seed2/cell.json").stat().st_mtime_ns == before
    pd.testing.assert_frame_equal(pd.read_csv(out / "summary.csv"), summary)  # the same numbers again
    other = command(*arguments, "--set", "train.lr=0.02")
    assert other.exit_code == 1
    assert "is of other settings than this study asks for" in other.output


WORKER = """
import multiprocessing, os, time
from concurrent.futures import ProcessPoolExecutor
from prism_model.studies.grid import _begin
pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_begin, initargs=(1, 1))
print(pool.submit(os.getpid).result(), flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_workers_end_when_their_study_is_killed() -> None:
    def alive(worker: int) -> bool:
        try:
            return Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except (FileNotFoundError, ProcessLookupError):
            return False

    with subprocess.Popen([sys.executable, "-c", WORKER], stdout=subprocess.PIPE, text=True) as study:
        assert study.stdout is not None
        worker = int(study.stdout.readline())
        assert alive(worker)
        study.kill()
    until = time.monotonic() + 20
    while alive(worker) and time.monotonic() < until:
        time.sleep(0.05)
    if alive(worker):
        os.kill(worker, signal.SIGKILL)
        pytest.fail("the worker outlives its study")


def test_what_does_not_fit_is_named_and_the_others_are_compared(run: Path, tiny_store: Path, tmp_path: Path) -> None:
    """A batch of 1,000 is counted as such; the 60 samples there are need no more than a moment."""
    out = tmp_path / "s"
    arguments = ["study", "length", tiny_store, "--out", out, "--seeds", "2", *TINY, "--set", "train.batch_size=1000"]
    arguments += ["--design", "lengths=[64,128,960]"]
    with at_most(1_200 * 2**20):
        done = command(*arguments)
    assert done.exit_code == 0, done.output
    why = r"a training step of 1000 windows of 960 bases takes about 2\.\d GiB, and 1\.\d GiB are free; a batch of \d+"
    assert re.search(rf"^960-seed2 not run: {why}", done.output, re.MULTILINE)
    assert set(pd.read_csv(out / "summary.csv")["train_length"]) == {64, 128}
    page = (out / "report.md").read_text()
    assert "2 of 3 runs, seeds 2." in page
    assert "**Not run: 1 of the 3 runs, which do not fit into memory.**" in page
    assert re.search(rf"^- 960-seed2: {why}", page, re.MULTILINE)
    assert list(json.loads((out / "study.json").read_text())["not_run"]) == ["960-seed2"]

    with at_most(3_000 * 2**20):
        done = command(*arguments)
    assert done.exit_code == 0, done.output
    assert "length: 3 runs, 2 of them finished already\n3/3  960-seed2" in done.output
    assert set(pd.read_csv(out / "summary.csv")["train_length"]) == {64, 128, 960}
    assert "Not run" not in (out / "report.md").read_text()
    assert json.loads((out / "study.json").read_text())["not_run"] == {}


def test_a_study_of_which_too_little_fits_says_so(run: Path, tiny_store: Path, tmp_path: Path) -> None:
    out = tmp_path / "s"
    arguments = ["study", "length", tiny_store, "--out", out, "--seeds", "2", *TINY, "--set", "train.batch_size=1000"]
    with at_most(600 * 2**20):
        done = command(*arguments, "--design", "lengths=[64,960,2000]")
        none = command(*arguments, "--design", "lengths=[960,2000]")
    assert done.exit_code == none.exit_code == 1
    assert "there are no two lengths to compare: 2 were not run (960-seed2: a training step of 1000" in done.output
    assert (out / "cells/64-seed2/cell.json").is_file()
    assert "no run fits into memory: 2 were not run (960-seed2: a training step" in none.output
    assert not (out / "report.md").exists()


def test_a_cell_that_fails_leaves_the_others(run: Path, tiny_store: Path, tmp_path: Path) -> None:
    """Of three lengths beside each other: one whose folder cannot be made, one too long for its part of the memory."""
    out = tmp_path / "s"
    arguments = ["study", "length", tiny_store, "--out", out, "--seeds", "2", *TINY, "--set", "train.batch_size=1000"]
    arguments += ["--design", "lengths=[64,128,960]", "--workers", "8"]  # three are started, of less than this one has
    (out / "cells").mkdir(parents=True)
    (out / "cells/128-seed2").touch()
    with at_most(3_000 * 2**20):
        done = command(*arguments)
    assert done.exit_code == 1
    assert "1 of 3 runs failed" in done.output
    assert "128-seed2 failed: FileExistsError" in done.output
    assert all((out / f"cells/{n}-seed2/cell.json").is_file() for n in (64, 960))
    assert "GiB are free to each of 8 processes" in (out / "cells/960-seed2/log.txt").read_text()  # and then ran alone
    assert not (out / "summary.csv").exists()


def test_the_adjustment(tiny_store: Path, tmp_path: Path) -> None:
    done = command("study", "adjustment", tiny_store, "--out", tmp_path, "--seeds", "2,22", *TINY)
    assert done.exit_code == 0, done.output
    summary = pd.read_csv(tmp_path / "summary.csv").set_index(["variant", "branch"])
    assert set(summary.index) == {
        ("n=0", "original"),
        *((v, b) for v in ("n=2", "n=2, alpha=0, beta=1") for b in ("original", "adjusted", "adjusted-prediction")),
    }
    assert np.isnan(summary.loc[("n=0", "original"), "difference"])
    found = summary.loc[("n=2", "adjusted")]
    difference = found["mse"] - summary.loc[("n=0", "original"), "mse"]
    assert found["difference"] == pytest.approx(difference, abs=2e-5)
    seen = pd.read_csv(tmp_path / "tables/contexts_seen.csv").set_index("variant")
    assert seen.loc["n=2", "r2_H3K27ac"] > 0.3  # a signal the encoder sees
    assert 0 <= seen.loc["n=2", "between_samples"] <= 1
    assert (tmp_path / "figures/contexts.png").is_file()

    # As if some runs had not fitted into memory.
    tables = {path.stem: pd.read_parquet(path) for path in (tmp_path / "tables").glob("*.parquet")}
    base, _ = resolved(base_config(str(tiny_store), "quick"))
    study = AdjustmentStudy(AdjustmentDesign(), base, (2, 22))
    plain = (tables["predictions"]["variant"] == "n=0").to_numpy()
    second = (tables["predictions"]["seed"] == 22).to_numpy()
    found = study.report(tables | {"predictions": tables["predictions"][~(plain & second)]}).summary
    found = found.set_index(["variant", "branch"]).loc[("n=2", "adjusted")]
    first = tables["predictions"][~second].groupby("variant")
    mse = first.apply(lambda t: (t["adjusted" if t.name != "n=0" else "original"] - t["observed"]).pow(2).mean())
    assert found["difference"] == pytest.approx(mse["n=2"] - mse["n=0"], rel=1e-4)
    with pytest.raises(StudyError, match="there is no model of n = 0 to compare with others"):
        study.report(tables | {"predictions": tables["predictions"][~plain]})


def test_the_background(tiny_store: Path, tmp_path: Path) -> None:
    done = command("study", "background", tiny_store, "--out", tmp_path, "--seeds", "2", *TINY)
    assert done.exit_code == 0, done.output
    summary = pd.read_csv(tmp_path / "summary.csv")
    assert len(summary) == 7 * 3  # sets times ways
    shares = pd.read_csv(tmp_path / "tables/attributed.csv").set_index("input")["contribution"]
    assert set(shares.index) == {"sequence", "H3K27ac", "DNase", "hic", "CDSLEN"}
    assert "H3K27ac (without the ninth feature): worth" in (tmp_path / "report.md").read_text()

    # As if some runs had not fitted into memory.
    tables = {path.stem: pd.read_parquet(path) for path in (tmp_path / "tables").glob("*.parquet")}
    base, _ = resolved(base_config(str(tiny_store), "quick"))
    study = BackgroundStudy(BackgroundStudy.design_type(), base, (2,))
    rows = tables.pop("predictions")
    report = study.report(tables | {"predictions": rows[rows["signals"] != "H3K27ac+DNase"]})
    lacking = report.summary.set_index("removed")["excess"].isna()
    assert set(lacking[lacking].index) == {"hic"}
    assert not any(line.startswith("- hic (") for line in report.text)
    assert sum(line.startswith("- ") for line in report.text) == 6
    with pytest.raises(StudyError, match="there is no model of all signals to compare"):
        study.report(tables | {"predictions": rows[~rows["all"]]})


def test_a_table_in_markdown() -> None:
    table = pd.DataFrame({"a": [1, 2], "b": [0.12345, np.nan]})
    assert markdown(table).splitlines() == ["| a | b |", "|---|---|", "| 1 | 0.1235 |", "| 2 |  |"]
    assert "The first 1 of 2 rows" in markdown(table, 1)


def test_the_shift_needs_truth(tiny_store: Path, tmp_path: Path) -> None:
    lacking = tmp_path / "truth.tsv"
    lacking.write_text("gene_id\tcell_type\nG000\tA\n")
    arguments = ["study", "shift", tiny_store, "--out", tmp_path / "s", "--seeds", "2", *TINY]
    done = command(*arguments, "--truth", lacking, "--environment", "broken", tiny_store, lacking)
    assert done.exit_code == 1
    assert "lacks neighbourhood, background_state" in done.output
    assert not (tmp_path / "s").exists()  # asked before anything is trained


def test_truths_of_other_simulations_are_refused(tmp_path: Path) -> None:
    def written(name: str, states: list[int], activity: float = 1.0) -> Environment:
        columns = {"neighbourhood": 0, "background_state": states, **dict.fromkeys(CAUSES, activity)}
        table = pd.DataFrame({"gene_id": ["G0", "G1"], "cell_type": "A", **columns})
        table.to_csv(tmp_path / name, sep="\t", index=False)
        return Environment(name, "s.zarr", str(tmp_path / name))

    home = written("home", [0, 1])
    check_truths((home, written("broken", [1, 1])))
    with pytest.raises(
        QueryError,
        match=r"so nothing is shifted: give the truth.tsv that `genostore simulate --shift` wrote with s\.zarr",
    ):
        check_truths((home, written("same", [0, 1])))
    with pytest.raises(QueryError, match=r"other \(other\) and .*home tell of other genes or causes"):
        check_truths((home, written("other", [1, 1], activity=2.0)))


def test_cells_are_known_again(tiny_store: Path, tmp_path: Path) -> None:
    from prism_model.studies.grid import _identity, finished

    base, _ = resolved(base_config(str(tiny_store), "quick"))
    cell = Cell("c", {"n": 1}, base)
    assert not finished(tmp_path, cell, "x")
    folder = tmp_path / "cells/c"
    folder.mkdir(parents=True)
    (folder / "cell.json").write_text(json.dumps(_identity(cell, "x")))
    assert finished(tmp_path, cell, "x")
    with pytest.raises(ConflictError, match="is of other data than"):
        finished(tmp_path, cell, "y")


class Mine(nn.Module):
    """A user's own: one of the inputs is named and not used."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4 + channels, 4), nn.Linear(4, 1)

    def forward(self, sequence: Tensor, signals: Tensor, features: Tensor) -> Tensor:
        out: Tensor = self.last(torch.relu(self.first(torch.cat([sequence, signals], -1))).mean(1))
        return out


class Whole(nn.Module):
    def forward(self, batch: Batch) -> Tensor:
        return batch.signals.mean((1, 2))


@dataclass(frozen=True)
class MineConfig(ModelConfig):
    name: str = "mine"


@dataclass(frozen=True)
class WholeConfig(ModelConfig):
    name: str = "whole"


@pytest.fixture
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_MODELS", dict(registry._MODELS))
    prism_model.register(MineConfig, lambda c: Mine(c.signal_size))
    prism_model.register(WholeConfig, lambda c: Whole())


@pytest.mark.usefixtures("_registered")
def test_a_module_of_ones_own(tiny_store: Path, tmp_path: Path) -> None:
    options = ["--seeds", "2", "--quick", "--device", "cpu", "--set", "model.name=mine", "--design", "attributed=2"]
    options += ["--set", "train.loggers=[]", "--set", "data.contacts=null"]
    done = command("study", "background", tiny_store, "--out", tmp_path, *options)
    assert done.exit_code == 0, done.output
    trained = pd.read_csv(tmp_path / "tables/trained_on.csv")
    assert len(trained) == 4  # one of them without signals
    shares = pd.read_csv(tmp_path / "tables/attributed.csv").set_index("input")["contribution"]
    assert shares["CDSLEN"] == 0 < shares["DNase"]
    gap = pd.read_parquet(tmp_path / "tables/attributions.parquet")["gap"]
    assert gap.abs().max() < 0.05


@pytest.mark.usefixtures("_registered")
@pytest.mark.parametrize(
    ("study", "model", "problem"),
    [
        ("adjustment", "mine", "the model mine has no contexts"),
        ("adjustment", "caduceus-signals", "the model caduceus-signals has no contexts"),
        ("background", "caduceus", "the model caduceus takes no signals"),
        ("length", "whole", "the model whole takes the whole batch"),
        ("length", "own", "which no name can build"),
    ],
)
def test_what_cannot_be_studied_is_refused_at_once(
    study: str, model: str, problem: str, tiny_store: Path, tmp_path: Path
) -> None:
    done = command("study", study, tiny_store, "--out", tmp_path / "s", "--quick", "--set", f"model.name={model}")
    assert done.exit_code == 1
    assert problem in done.output
    assert not (tmp_path / "s").exists()


def test_the_sizes_of_a_study_are_those_of_state_space_models(tiny_store: Path) -> None:
    for name, layers in (("caduceus-signals", 1), ("cnn", 6), ("attention", 2)):
        base, data = resolved(base_config(str(tiny_store), "quick", (f"model.name={name}", "train.steps=3")))
        assert (base.model.n_layer, base.train.epochs, base.train.steps) == (layers, None, 3)
        cells = BackgroundStudy(BackgroundStudy.design_type(), base, (2,)).cells(data)
        assert {c.config.model.name for c in cells} == {name}
    study = ShiftStudy(ShiftDesign(), base, (2,), ())
    assert [c.labels["model"] for c in study.cells(data)] == ["foreground, n=0", "background, n=0", "all, n=0"]
