"""Training on a tiny store: the run's folder, resuming, stopping, diverging, and the commands."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import zarr
from click.testing import CliRunner, Result
from torch import Tensor

from genostore import Batch
from genostore.errors import ConflictError, FormatError, NotFoundError
from prism_model import Prism, PrismConfig
from prism_model.cli import main
from prism_model.config import LossConfig, RunConfig, TrainConfig, make_config
from prism_model.data import Data
from prism_model.evaluate import evaluate
from prism_model.metrics import scores
from prism_model.predict import Predictor
from prism_model.train import DivergedError, Training, fit, make_trainer

SETTINGS = ["data.width=256", "model.d_model=8", "model.n_layer=1", "model.d_state=4", "train.lr=0.01"]


def config(store: Path, *overrides: str) -> RunConfig:
    return make_config("laptop", None, [f"data.store={store}", *SETTINGS, "train.epochs=3", *overrides])


def quiet(line: str) -> None:
    """Takes the lines that a run says."""


@pytest.fixture(scope="module")
def run(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three epochs."""
    return fit(config(tiny_store), tmp_path_factory.mktemp("runs") / "whole", device="cpu", say=quiet)


def log_of(run: Path) -> list[dict[str, str]]:
    with (run / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_data_are_resolved_from_the_store(tiny_store: Path) -> None:
    data = Data(config(tiny_store).data)
    assert data.channels == ["H3K27ac", "DNase", "hic"]
    assert data.roles == ["foreground", "background", "background"]
    assert data.features == ["CDSLEN"]
    c = data.config
    assert (c.cell_types, c.contact_bin_size, c.contact_weight, c.fold) == (("A", "B"), 500, "VC", "split")
    assert len(data.windows("train")) == 58  # 30 genes in two cell types; one gene is not measured
    assert len(data.windows("train", measured=False)) == 60
    with pytest.raises(NotFoundError, match="no expression 'CAGEE': did you mean 'CAGE'"):
        Data(replace(c, expression="CAGEE"))


def test_the_folder_of_a_run_tells_everything(run: Path, tiny_store: Path) -> None:
    digest = json.loads((run / "data.json").read_text())
    assert digest["nodes"]["tracks/A/DNase"]["provenance"]["source"] == "A.DNase.bw"
    assert {"genes", "sequence", "expression/CAGE/B", "contacts/A/hic/500", "features/CDSLEN"} <= set(digest["nodes"])
    about = json.loads((run / "run.json").read_text())
    assert about["seed"] == 2
    assert about["code"]["version"]
    card = json.loads((run / "checkpoints/best/model.json").read_text())
    assert card["config"]["signal_size"] == 3
    rows = log_of(run)
    validations = [row for row in rows if row["valid/original_mse"]]
    assert len(validations) == 3
    assert [int(row["step"]) for row in rows if row["train/total"]] == list(range(12))
    best = min(float(row["valid/original_mse"]) for row in validations)
    assert card["info"]["scores"]["valid/original_mse"] == pytest.approx(best)
    assert Prism.from_run(run).config.n_context == 2
    torch.load(run / "checkpoints/resume.ckpt", weights_only=True)  # plain values alone


def test_training_lowers_the_loss(tiny_store: Path, tmp_path: Path) -> None:
    fit(config(tiny_store, "train.epochs=8", "data.transform=log1p", "loss.beta=0"), tmp_path / "r", say=quiet)
    losses = [float(row["train/prediction"]) for row in log_of(tmp_path / "r") if row["train/prediction"]]
    assert np.mean(losses[-4:]) < 0.75 * np.mean(losses[:4])


def test_a_resumed_run_equals_an_undisturbed_one(run: Path, tiny_store: Path, tmp_path: Path) -> None:
    part = tmp_path / "part"

    def stop_in_the_third_epoch(line: str) -> None:
        if line.startswith("step 8 "):
            raise KeyboardInterrupt  # as hard as it gets

    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(config(tiny_store), part, device="cpu", say=stop_in_the_third_epoch)
    fit(RunConfig(), part, resume=True, device="cpu", say=quiet)
    whole, resumed = Prism.from_run(run).state_dict(), Prism.from_run(part).state_dict()
    for key, value in whole.items():
        assert torch.equal(value, resumed[key]), key
    assert log_of(run) == log_of(part)


def test_a_run_broken_off_within_an_epoch_goes_on_there(tiny_store: Path, tmp_path: Path) -> None:
    """15 steps an epoch, a validation after 8 of them, states after 4, 9, 13, 15, 19 ...: broken off at 23."""
    settings = ["train.batch_size=4", "train.validations=2", "train.save_steps=4", "train.epochs=2"]
    whole = fit(config(tiny_store, *settings), tmp_path / "whole", device="cpu", say=quiet)

    def stop(line: str) -> None:
        if line.startswith("step 23 "):
            raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(config(tiny_store, *settings), tmp_path / "part", device="cpu", say=stop)
    state = torch.load(tmp_path / "part/checkpoints/resume.ckpt", weights_only=True)
    assert state["global_step"] == 19
    part = fit(RunConfig(), tmp_path / "part", resume=True, device="cpu", say=quiet)
    for key, value in Prism.from_run(whole).state_dict().items():
        assert torch.equal(value, Prism.from_run(part).state_dict()[key]), key
    assert log_of(whole) == log_of(part)
    assert [int(row["step"]) for row in log_of(part) if row["train/total"]] == list(range(30))


def test_a_run_broken_off_in_its_first_epoch_starts_anew(run: Path, tiny_store: Path, tmp_path: Path) -> None:
    part = tmp_path / "part"

    def stop(line: str) -> None:
        if line.startswith("step 4 "):
            raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(config(tiny_store), part, device="cpu", say=stop)
    assert not (part / "checkpoints/resume.ckpt").exists()
    fit(RunConfig(), part, resume=True, device="cpu", say=quiet)
    assert log_of(run) == log_of(part)


def test_training_by_steps_ends_with_a_validation(tiny_store: Path, tmp_path: Path) -> None:
    """Of 4 steps an epoch: within the first epoch, within the second, and where every second epoch is validated."""
    for steps, more, expected in ((3, [], [2]), (6, [], [3, 5]), (11, ["train.validations=0.5"], [7, 10])):
        settings = config(tiny_store, f"train.steps={steps}", "train.epochs=null", *more)
        out = fit(settings, tmp_path / str(steps), device="cpu", say=quiet)
        assert [int(row["step"]) for row in log_of(out) if row["valid/original_mse"]] == expected
        assert json.loads((out / "finished.json").read_text())["steps"] == steps
        Prism.from_run(out)


def test_ctrl_c_keeps_the_best_checkpoint(tiny_store: Path, tmp_path: Path) -> None:
    lines: list[str] = []

    def interrupt(line: str) -> None:
        lines.append(line)
        if line.startswith("step 4 "):
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    fit(config(tiny_store, "train.epochs=50"), tmp_path / "r", device="cpu", say=interrupt)
    assert signal.getsignal(signal.SIGINT) is before
    assert any(line.startswith("stopping after this step") for line in lines)
    assert lines[-1].startswith("interrupted at step")
    Prism.from_run(tmp_path / "r")
    fit(RunConfig(), tmp_path / "r", resume=True, device="cpu", say=stop_soon(lines))


def test_an_interrupt_leaves_no_trace_in_a_run_that_goes_on(
    run: Path, tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its validation counts for nothing, were it the best, and were the state saved after the same step."""
    step = Training.training_step

    def interrupt(self: Training, batch: Batch, batch_idx: int) -> Tensor:
        if self.global_step == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, batch, batch_idx)

    def flatter(observed: Any, predicted: Any) -> dict[str, float]:
        nonlocal branches
        branches += 1
        return scores(observed, predicted) | ({"mse": 0.0} if branches > 2 else {})

    branches = 0  # two a validation; the second validation is the interrupt's
    with monkeypatch.context() as patched:
        patched.setattr(Training, "training_step", interrupt)
        patched.setattr("prism_model.train.scores", flatter)
        settings = config(tiny_store, "train.save_steps=2")
        fit(settings, tmp_path / "r", device="cpu", say=quiet)
    assert torch.load(tmp_path / "r/checkpoints/resume.ckpt", weights_only=True)["global_step"] == 6
    fit(RunConfig(), tmp_path / "r", resume=True, device="cpu", say=quiet)
    whole, resumed = Prism.from_run(run).state_dict(), Prism.from_run(tmp_path / "r").state_dict()
    assert all(torch.equal(value, resumed[key]) for key, value in whole.items())
    assert log_of(run) == log_of(tmp_path / "r")


def stop_soon(lines: list[str]) -> Any:
    """Interrupt a resumed run at its first validation."""

    def say(line: str) -> None:
        lines.append(line)
        if "valid original" in line:
            os.kill(os.getpid(), signal.SIGINT)

    return say


def test_runs_are_not_overwritten_and_not_resumed_on_other_data(run: Path, tiny_store: Path, tmp_path: Path) -> None:
    with pytest.raises(ConflictError, match="holds a run already"):
        fit(config(tiny_store), run, say=quiet)
    with pytest.raises(NotFoundError, match="not the folder of a run"):
        fit(RunConfig(), tmp_path, resume=True, say=quiet)
    digest = json.loads((run / "data.json").read_text())
    changed = digest | {"sha256": "0", "nodes": digest["nodes"] | {"tracks/A/DNase": {"generation": 7}}}
    (run / "data.json").write_text(json.dumps(changed))
    try:
        with pytest.raises(ConflictError, match="tracks/A/DNase changed since"):
            fit(RunConfig(), run, resume=True, say=quiet)
        with pytest.warns(UserWarning, match="has changed since whole was trained on it"):
            evaluate(run, "valid", device="cpu", baselines=False)
    finally:
        (run / "data.json").write_text(json.dumps(digest))


def test_damaged_files_of_a_run_are_named(run: Path, tmp_path: Path) -> None:
    def damaged(name: str, content: bytes) -> Path:
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        shutil.copytree(run, out)
        (out / name).write_bytes(content)
        return out

    whole = (run / "checkpoints/resume.ckpt").read_bytes()
    for content in (b"", b"text", whole[:100]):
        with pytest.raises(FormatError, match=r"resume.ckpt is damaged .*; remove it to start from the first step"):
            fit(RunConfig(), damaged("checkpoints/resume.ckpt", content), resume=True, device="cpu", say=quiet)
    for content, message in ((b"{", r"data.json cannot be read"), (b"{}", r"data.json is no record of data")):
        with pytest.raises(FormatError, match=message):
            evaluate(damaged("data.json", content), "test", device="cpu")
    with pytest.raises(FormatError, match=r"config.yaml: the settings have an unknown key 'tarin'"):
        evaluate(damaged("config.yaml", b"tarin: {lr: 1}"), "test", device="cpu")


def test_encoder_signals_by_role(tiny_store: Path, tmp_path: Path) -> None:
    overrides = ["model.encoder_signals=background", "train.epochs=1"]
    fit(config(tiny_store, *overrides), tmp_path / "r", say=quiet)
    assert Prism.from_run(tmp_path / "r").config.encoder_signals == (1, 2)
    with pytest.raises(NotFoundError, match="none of H3K27ac has that role"):
        fit(config(tiny_store, *overrides, "data.assays=[H3K27ac]", "data.contacts=null"), tmp_path / "s", say=quiet)


def test_sequence_alone(tiny_store: Path, tmp_path: Path) -> None:
    overrides = ["data.assays=[]", "data.contacts=null", "data.features=[]", "model.n_context=0", "train.epochs=1"]
    out = fit(config(tiny_store, *overrides), tmp_path / "r", say=quiet)
    result = evaluate(out, "valid", device="cpu")
    assert set(result["scores"]) == {"original", "mean", "ridge"}


class InMemory:
    """Batches in a list, as good a loader as any."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def batches(n: int, spoil: int | None = None) -> InMemory:
    g = torch.Generator().manual_seed(0)
    made = []
    for i in range(n):
        index = torch.arange(4) + 4 * i
        signal_ = torch.randn(4, 128, 2, generator=g)
        if i == spoil:
            signal_[1, 5] = torch.inf
        zeros = torch.zeros(4, dtype=torch.long)
        one_hot = torch.eye(4)[torch.randint(0, 4, (4, 128), generator=g)]
        parts: dict[str, Tensor] = {"sequence": one_hot, "signal": signal_, "target": signal_.mean((1, 2))}
        made.append(Batch(index, index, zeros, zeros, zeros, zeros, **parts))
    return InMemory(made)


def in_memory(loader: InMemory, steps: int, valid: InMemory | None = None) -> Training:
    torch.manual_seed(0)
    model = Prism(PrismConfig(signal_size=2, feature_size=0, center_length=128, d_model=8, n_layer=1, d_state=2))
    train = TrainConfig(epochs=None, steps=steps)
    module = Training(
        model,
        LossConfig(),
        train,
        steps,
        lambda batch: (batch.sequence, batch.signal, batch.features),
        lambda batch: [f"gene{i}" for i in batch.gene.tolist()],
    )
    make_trainer(train, steps, len(loader), False, []).fit(module, loader, valid or batches(2))
    return module


@pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore:.*LeafSpec")
def test_the_lightning_module_trains_on_any_batches() -> None:
    module = in_memory(batches(3), 6)
    assert module.trainer.global_step == 6
    logged = {k: float(v) for k, v in module.trainer.callback_metrics.items()}
    with torch.no_grad():
        out = [module.model(b.sequence, b.signal).original for b in batches(2)]
    expected = scores(torch.cat([b.target for b in batches(2)]), torch.cat(out))
    assert logged["valid/original_mse"] == pytest.approx(expected["mse"], rel=1e-4)
    assert logged["valid/original_spearman"] == pytest.approx(expected["spearman"], rel=1e-4)


@pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore:.*LeafSpec")
def test_a_loss_that_is_not_finite_names_the_genes() -> None:
    loss = r"loss of step 2 is not finite.*gene8, gene9, gene10, gene11. What goes in is not finite: signals of gene9"
    with pytest.raises(DivergedError, match=loss):
        in_memory(batches(4, spoil=2), 8)
    extreme = batches(4)
    extreme.batches[3].target[:] = 3e38
    with pytest.raises(DivergedError, match=r"loss of step 3 .*What goes in is finite: look for extreme values"):
        in_memory(extreme, 8)
    with pytest.raises(DivergedError, match=r"validation after step 4 are not finite: of gene5\. .*signals of gene5"):
        in_memory(batches(4), 8, batches(2, spoil=1))


def test_missing_gene_features_are_told(tiny_store: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_store, tmp_path / "s.zarr")
    zarr.open_array(tmp_path / "s.zarr/features/CDSLEN", mode="r+")[[0, 1, 3]] = np.nan
    lines: list[str] = []
    fit(config(tmp_path / "s.zarr", "train.epochs=1"), tmp_path / "r", device="cpu", say=lines.append)
    # The fourth gene is not measured, the others in two cell types.
    assert lines[1] == "values missing among the samples to train, and taken for 0: 4 of CDSLEN"
    assert not any("to validate, and taken" in line for line in lines)


def test_predictions_that_are_not_finite_are_named(run: Path, tiny_store: Path, tmp_path: Path) -> None:
    spoilt = tmp_path / "spoilt.zarr"
    shutil.copytree(tiny_store, spoilt)
    array = zarr.open_array(spoilt / "features/CDSLEN", mode="r+")
    array[32] = np.inf  # of the validation
    array[44] = np.inf  # of the test
    with pytest.raises(DivergedError, match=r"of G032 in A, G032 in B\. What goes in .*: features of G032 in A, "):
        fit(config(spoilt, "train.epochs=1"), tmp_path / "r", device="cpu", say=quiet)
    shutil.copytree(run, tmp_path / "copy")
    settings = (tmp_path / "copy/config.yaml").read_text().replace(str(tiny_store), str(spoilt))
    (tmp_path / "copy/config.yaml").write_text(settings)
    with pytest.warns(UserWarning, match="2 of 24 predictions are not finite.*: G044 in A, G044 in B;"):
        evaluate(tmp_path / "copy", "test", device="cpu", baselines=False)


def test_evaluate(run: Path) -> None:
    result = evaluate(run, "test", device="cpu")
    table = pd.read_parquet(run / "predictions/test.parquet")
    assert list(table) == ["gene", "name", "cell_type", "observed", "original", "adjusted", "mean", "ridge"]
    assert len(table) == 24
    for name in ("original", "adjusted", "ridge"):
        assert result["scores"][name]["all"] == scores(table["observed"], table[name])
        rows = table[table["cell_type"] == "B"]
        assert result["scores"][name]["B"] == scores(rows["observed"], rows[name])
    assert result["scores"]["ridge"]["all"]["pearson"] > 0.9  # the expression is made from the signal
    kept = json.loads((run / "metrics/test.json").read_text())
    assert kept["scores"]["mean"]["all"]["pearson"] is None  # a constant has no correlation
    assert kept["data"] == json.loads((run / "data.json").read_text())["sha256"]


def test_predict_genes(run: Path) -> None:
    predictor = Predictor(run, device="cpu")
    table = predictor(predictor.genes(["gene3", "G001"]))
    assert list(table["gene"]) == ["G003", "G003", "G001", "G001"]
    assert table["observed"].isna().tolist() == [True, True, False, False]
    again = predictor(predictor.genes(["G001"]), batch_size=1)
    np.testing.assert_allclose(again["original"], table["original"][2:], rtol=1e-5)
    assert len(predictor(predictor.genes())) == 108


def test_unseen_cell_types_are_warned_of(tiny_store: Path, tmp_path: Path) -> None:
    out = fit(config(tiny_store, "data.cell_types=[A]", "train.epochs=1"), tmp_path / "r", say=quiet)
    with pytest.warns(UserWarning, match="trained on A and has never seen B"):
        predictor = Predictor(out, cell_types=["B"], device="cpu")
    assert set(predictor(predictor.genes(["G001"]))["cell_type"]) == {"B"}


def command(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)


def test_commands(run: Path, tiny_store: Path, tmp_path: Path) -> None:
    out = tmp_path / "r"
    sets = [part for setting in [*SETTINGS, "train.epochs=1"] for part in ("--set", setting)]
    done = command("train", tiny_store, "--out", out, "--seed", 5, *sets)
    assert done.exit_code == 0, done.output
    assert "finished at step 4" in done.output
    assert command("train", "--out", out, "--resume").exit_code == 0
    done = command("evaluate", out, "--split", "valid", "--no-baselines")
    assert "original branch" in done.output
    assert "adjusted branch" in done.output
    done = command("predict", out, "--genes", "G001,gene5")
    assert done.output.splitlines()[0] == "gene\tname\tcell_type\tobserved\toriginal\tadjusted"
    assert len(done.output.splitlines()) == 5
    (tmp_path / "genes.txt").write_text("G001\n\ngene5\n")
    done = command("predict", out, "--genes", f"@{tmp_path / 'genes.txt'}", "--out", tmp_path / "p.parquet")
    assert len(pd.read_parquet(tmp_path / "p.parquet")) == 4
    done = command("predict", out, "--genes", "gen5")
    assert done.exit_code == 1
    assert done.output.startswith("Error: there is no gene 'gen5'")
    assert command("predict", out, "--out", tmp_path / "p.xlsx").exit_code == 1
    done = command("predict", out, "--genes", f"@{tmp_path / 'none.txt'}")
    assert done.output.endswith("none.txt: No such file or directory\n")
    assert done.exit_code == 1
    assert command("train", tiny_store, "--out", out, *sets).exit_code == 1
    assert command("train", tiny_store, "--out", out, "--resume").exit_code == 2


def test_a_command_without_its_packages(
    run: Path, tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "prism_model.train")
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    done = command("train", tiny_store, "--out", tmp_path / "r")
    assert done.exit_code == 1
    assert "needs lightning, which is not installed: pip install" in done.output


def test_bad_settings_are_one_message(tiny_store: Path, tmp_path: Path) -> None:
    done = command("train", tiny_store, "--out", tmp_path / "r", "--set", "data.width=40", "--set", "train.epochs=1")
    assert done.exit_code == 1
    assert "data.width is 40; the confounder encoder needs 64 positions" in done.output
    assert not (tmp_path / "r").exists()  # so that the next try may use the name
    done = command("train", tiny_store, "--out", tmp_path / "s", "--set", "model.n_contxt=1")
    assert "did you mean 'n_context'" in done.output


def test_convert_there_and_back(small_parity: Any, tmp_path: Path) -> None:
    activation = ("--context-activation", "softmax", "--center-length", 256)
    done = command("convert", small_parity.path, "--out", tmp_path / "ours", *activation)
    assert "26,349 parameters: d_model 32, 2 layers, 3 contexts, 2 signals, 9 features" in done.output
    model = Prism.from_run(tmp_path / "ours")
    with torch.no_grad():
        out = model(*small_parity.inputs)
    np.testing.assert_allclose(out.original[:, None], small_parity.arrays["eval_logits"], rtol=1e-4)
    command("convert", tmp_path / "ours", "--to-official", "--out", tmp_path / "back.ckpt")
    back = torch.load(tmp_path / "back.ckpt", weights_only=True)["state_dict"]
    before = torch.load(small_parity.path, weights_only=True)["state_dict"]
    assert all(torch.equal(before[key], value) for key, value in back.items())
    done = command("convert", tmp_path / "ours", "--to-official", "--out", tmp_path / "back.ckpt")
    assert done.exit_code == 2
    assert "back.ckpt exists" in done.output
    done = command("convert", tmp_path / "nothing.ckpt")
    assert done.exit_code == 1
    assert "there is no checkpoint" in done.output


def test_convert_keeps_off_runs_and_from_what_the_release_cannot_load(
    run: Path, small_parity: Any, tiny_store: Path, tmp_path: Path
) -> None:
    best = (run / "checkpoints/best/model.safetensors").read_bytes()
    done = command("convert", small_parity.path, "--out", run)
    assert "holds a run already" in done.output
    assert not (run / "model.safetensors").exists()  # it would stand before the run's own
    assert (run / "checkpoints/best/model.safetensors").read_bytes() == best
    one = fit(config(tiny_store, "model.name=mamba", "train.epochs=1"), tmp_path / "r", device="cpu", say=quiet)
    done = command("convert", one, "--to-official", "--out", tmp_path / "back.ckpt")
    assert "cannot load this model of kind 'mamba': it reads in one direction" in done.output
    assert not (tmp_path / "back.ckpt").exists()
    done = command("convert", small_parity.path, "--out", tmp_path / "o", "--set", "data.width=256")
    assert done.exit_code == 2
    assert "--set is of the run that --store makes" in done.output


def test_what_is_no_store(run: Path, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="not a genostore store"):
        Predictor(run, store=tmp_path / "none.zarr", device="cpu")
