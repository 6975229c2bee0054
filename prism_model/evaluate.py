"""Scores of a run on a split: both branches, a cell type at a time too, beside the baselines."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import nn

from prism_model import distributed, runs
from prism_model.adjustment import Averaging
from prism_model.baselines import baseline_predictions
from prism_model.card import write_card
from prism_model.metrics import SCORES, scores
from prism_model.predict import Predictor, write_table

if TYPE_CHECKING:
    from rich.table import Table

BRANCHES = ("original", "adjusted")


def evaluate(
    run: str | Path,
    split: str = "test",
    *,
    device: str = "auto",
    baselines: bool = True,
    averaging: Literal["configured", "both"] = "configured",
    model: nn.Module | None = None,
) -> dict[str, Any]:
    """Score the best model of a run, and keep scores and predictions in the run's folder.

    Started by ``torchrun``, the processes share the samples out, and the first one writes.

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
    averaging
        ``"both"``: the adjusted branch also by the other way of averaging over the contexts than the run's own.
    model
        For a run of a module of your own: one like it.

    Returns
    -------
    dict
        ``run``, ``split``, ``expression``, ``cell_types``, ``data`` (the digest's hash) and ``scores``: predictor
        (``original``, ``adjusted``, ``adjusted_hidden`` or ``adjusted_prediction``, ``mean``, ``ridge``) to group
        (``all`` or a cell type) to mse, mae, pearson, spearman and n. The same is in ``metrics/<split>.json``;
        predictions are in ``predictions/<split>.parquet``.
    """
    kind = "cuda" if device == "cuda" or (device == "auto" and torch.cuda.is_available()) else "cpu"
    with distributed.group(distributed.place(), kind):
        return _evaluate(Path(run), split, device, baselines, averaging, model)


def _evaluate(
    run: Path, split: str, device: str, baselines: bool, averaging: str, model: nn.Module | None
) -> dict[str, Any]:
    predictor = Predictor(run, device=device, model=model)
    digest = predictor.data.digest()["sha256"]
    if digest != runs.read_digest(run)["sha256"]:
        warnings.warn(f"{predictor.data.store.path} has changed since {run.name} was trained on it", stacklevel=3)
    own: Averaging | None = getattr(predictor.config.model, "averaging", None)
    other: Averaging = "hidden" if own == "prediction" else "prediction"
    windows = predictor.data.windows(split)
    table = predictor(windows, averaging=other if averaging == "both" else None)
    first = predictor.place.first
    wrong = table[~np.isfinite(table[[b for b in BRANCHES if b in table]]).all(axis=1)]
    if first and len(wrong):
        few = ", ".join(f"{row.gene} in {row.cell_type}" for row in wrong.head(5).itertuples())
        warnings.warn(
            f"{len(wrong):,} of {len(table):,} predictions are not finite, and so no score of their group is: {few}"
            f"{', ...' if len(wrong) > 5 else ''}; look at their signals and features",
            stacklevel=4,
        )
    if baselines and first:
        for name, values in baseline_predictions(predictor.data, predictor.data.windows("train"), windows).items():
            table[name] = values
    names = [name for name in (*BRANCHES, f"adjusted_{other}", "mean", "ridge") if name in table]
    result: dict[str, Any] = {
        "run": run.resolve().name,
        "split": split,
        "model": predictor.config.model.name,
        "averaging": own,
        "expression": predictor.data.config.expression,
        "cell_types": list(predictor.data.config.cell_types or ()),
        "data": digest,
        "code": runs.code_version(),
        "scores": {name: _by_group(table, name) for name in names},
    }
    if first:
        write_table(table, run / "predictions" / f"{split}.parquet")
        runs.write_json(run / "metrics" / f"{split}.json", result)
        write_card(run)
    return result


def label(predictor: str, averaging: str | None) -> str:
    """A predictor in words; the adjusted branch with its way of averaging."""
    branch, _, other = predictor.partition("_")
    if branch not in BRANCHES:
        return f"{predictor} (baseline)"
    return f"{branch} branch" + (f" ({other or averaging} averaged)" if branch == "adjusted" else "")


def _by_group(table: pd.DataFrame, name: str) -> dict[str, dict[str, float]]:
    groups = {"all": table}
    if table["cell_type"].nunique() > 1:
        groups |= {str(cell): rows for cell, rows in table.groupby("cell_type", sort=False)}
    return {group: scores(rows["observed"], rows[name]) for group, rows in groups.items()}


def score_table(title: str) -> Table:
    """An empty table of scores: predictor, samples, and a column a score."""
    from rich.table import Table

    table = Table(title=title)
    table.add_column("predictor", min_width=len("(prediction"))
    table.add_column("samples")
    for score in SCORES:
        table.add_column({"mse": "MSE", "mae": "MAE"}.get(score, score.capitalize()), justify="right")
    return table


def as_table(result: dict[str, Any]) -> Table:
    """The scores as a table for a terminal."""
    table = score_table(f"{result['run']}, {result['split']} split, {result['expression']}")
    for predictor, groups in result["scores"].items():
        shown = label(predictor, result["averaging"])
        for group, values in groups.items():
            row = [f"{values[score]:.4f}" for score in SCORES]
            table.add_row(shown, f"{group} ({values['n']:,})", *row)
            shown = ""
        table.add_section()
    return table
