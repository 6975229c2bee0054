"""Scores of a run on a split: both branches, a cell type at a time too, beside the baselines."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from prism_model import runs
from prism_model.baselines import baseline_predictions
from prism_model.metrics import SCORES, scores
from prism_model.predict import Predictor, write_table

if TYPE_CHECKING:
    from rich.table import Table

BRANCHES = ("original", "adjusted")


def evaluate(run: str | Path, split: str = "test", *, device: str = "auto", baselines: bool = True) -> dict[str, Any]:
    """Score the best model of a run, and keep scores and predictions in the run's folder.

    Parameters
    ----------
    run
        Folder of the run.
    split
        ``train``, ``valid`` or ``test``.
    device
        ``cpu``, ``cuda`` or ``auto``.
    baselines
        Whether to fit and score the baselines too, which reads the training samples.

    Returns
    -------
    dict
        ``run``, ``split``, ``expression``, ``cell_types``, ``data`` (the digest's hash) and ``scores``: predictor
        (``original``, ``adjusted``, ``mean``, ``ridge``) to group (``all`` or a cell type) to mse, mae, pearson,
        spearman and n. The same is in ``metrics/<split>.json``; predictions are in ``predictions/<split>.parquet``.
    """
    run = Path(run)
    predictor = Predictor(run, device=device)
    digest = predictor.data.digest()["sha256"]
    if digest != runs.read_digest(run)["sha256"]:
        warnings.warn(f"{predictor.data.store.path} has changed since {run.name} was trained on it", stacklevel=2)
    windows = predictor.data.windows(split)
    table = predictor(windows)
    if baselines:
        for name, values in baseline_predictions(predictor.data, predictor.data.windows("train"), windows).items():
            table[name] = values
    names = [name for name in (*BRANCHES, "mean", "ridge") if name in table]
    result: dict[str, Any] = {
        "run": run.resolve().name,
        "split": split,
        "expression": predictor.data.config.expression,
        "cell_types": list(predictor.data.config.cell_types or ()),
        "data": digest,
        "code": runs.code_version(),
        "scores": {name: _by_group(table, name) for name in names},
    }
    write_table(table, run / "predictions" / f"{split}.parquet")
    runs.write_json(run / "metrics" / f"{split}.json", result)
    return result


def _by_group(table: pd.DataFrame, name: str) -> dict[str, dict[str, float]]:
    groups = {"all": table}
    if table["cell_type"].nunique() > 1:
        groups |= {str(cell): rows for cell, rows in table.groupby("cell_type", sort=False)}
    return {group: scores(rows["observed"], rows[name]) for group, rows in groups.items()}


def as_table(result: dict[str, Any]) -> Table:
    """The scores as a table for a terminal."""
    from rich.table import Table

    table = Table(title=f"{result['run']}, {result['split']} split, {result['expression']}")
    table.add_column("predictor")
    table.add_column("samples")
    for score in SCORES:
        table.add_column({"mse": "MSE", "mae": "MAE"}.get(score, score.capitalize()), justify="right")
    for predictor, groups in result["scores"].items():
        label = f"{predictor} branch" if predictor in BRANCHES else f"{predictor} (baseline)"
        for group, values in groups.items():
            row = [f"{values[score]:.4f}" for score in SCORES]
            table.add_row(label, f"{group} ({values['n']:,})", *row)
            label = ""
        table.add_section()
    return table
