"""How far does a model lean on the background? Error growth where the background means something else.

On simulated data the true background state of every gene is known, and that it causes nothing. A model is trained in
one environment and tested there and in others (`genostore simulate --shift`), where the state no longer goes with
expression, or goes against it, while everything that does cause expression is the same to the last base.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from genostore.errors import NotFoundError, QueryError
from prism_model.config import RunConfig
from prism_model.data import Data
from prism_model.predict import Predictor
from prism_model.studies import draw
from prism_model.studies.base import Cell, Plain, Report, Study, StudyError, Tables
from prism_model.studies.intervals import columns, over_genes, over_seeds
from prism_model.studies.scoring import drawn, exchanged, predictions

HOME = "training"
FOREGROUND, BACKGROUND, ALL = "foreground, n=0", "background, n=0", "all, n=0"
STATE = "background_state"
KEYS = ["seed", "gene", "cell_type"]
CAUSES = ("hidden_activity", "element_activity", "add_motifs", "add_features")


@dataclass(frozen=True)
class Environment:
    """A store and the truth about it.

    Attributes
    ----------
    name
        In tables and pictures.
    store
        Path.
    truth
        The ``truth.tsv`` that the simulation wrote.
    """

    name: str
    store: str
    truth: str


@dataclass(frozen=True)
class ShiftDesign:
    """The grid of `prism study shift`."""

    n_context: int = 2
    """Contexts of the Prism models."""
    background_encoder: bool = True
    """Whether to train a Prism whose encoder sees the background signals alone, too."""
    draws: int = 4
    """Backgrounds of other samples over which the explicit adjustment averages; 0 = leave it out."""


class ShiftStudy(Study):
    """Models of different inputs and kinds, in and out of their training environment.

    Parameters
    ----------
    design, base, seeds
        As of any study.
    environments
        The one of the base's store first.
    """

    name = "shift"
    title = "How far do models lean on the background?"
    design_type = ShiftDesign
    sizes: ClassVar[dict[str, Plain]] = {"quick": {"draws": 1}}
    design: ShiftDesign

    def __init__(
        self, design: Any, base: RunConfig, seeds: tuple[int, ...], environments: tuple[Environment, ...]
    ) -> None:
        super().__init__(design, base, seeds)
        self.environments = environments

    def cells(self, data: Data) -> list[Cell]:
        """A run a model and seed."""
        check_truths(self.environments)  # before the hours of training
        roles = dict(zip(data.channels, data.roles, strict=True))
        front = [c for c in data.channels if roles[c] == "foreground"]
        back = [c for c in data.channels if roles[c] == "background"]
        if not front or not back:
            raise QueryError(
                f"{data.store.path}: this study needs foreground and background signals, and has roles {roles}"
            )
        n = self.design.n_context
        models: dict[str, tuple[list[str], Plain]] = {
            FOREGROUND: (front, self.contexts(0)),
            BACKGROUND: (back, self.contexts(0)),
            ALL: (data.channels, self.contexts(0)),
        }
        if self.contexts(n):
            models[f"Prism, n={n}"] = (data.channels, self.contexts(n))
        if self.contexts(n) and self.design.background_encoder:
            models[f"Prism, n={n}, background encoder"] = (
                data.channels,
                {"n_context": n, "encoder_signals": "background"},
            )
        made = []
        for model, (kept, settings) in models.items():
            plain: dict[str, Any] = {"data": {"assays": [c for c in kept if c != data.config.contacts]}}
            if data.config.contacts not in kept:
                plain["data"] |= {"contacts": None, "contact_bin_size": None, "contact_weight": None}
            name = model.replace(", ", "-").replace(" ", "-").replace("=", "")
            labels = {"model": model, "both": len(kept) == len(data.channels)}
            made += [self.cell(name, labels, {**plain, "model": settings}, seed) for seed in self.seeds]
        return made

    def measure(self, cell: Cell, run: Path, device: str) -> Tables:
        """Predictions in every environment, plain and averaged over other samples' backgrounds."""
        tables = []
        train = None
        for environment in self.environments:
            predictor = Predictor(run, store=environment.store, device=device)
            train = train or predictor.data.windows("train")
            test = predictor.data.windows("test")
            table = predictions(predictor, test).assign(environment=environment.name)
            if cell.labels["both"] and self.design.draws:
                channels = tuple(i for i, role in enumerate(predictor.data.roles) if role == "background")
                mixed = [
                    predictions(predictor, test, partners=drawn(train, test, k), exchange=exchanged(channels))
                    for k in range(self.design.draws)
                ]
                for branch in ("original", "adjusted"):
                    if branch in table:
                        table[f"{branch}, drawn"] = np.mean([m[branch] for m in mixed], axis=0)
            tables.append(table)
        return {"predictions": pd.concat(tables, ignore_index=True)}

    def report(self, tables: Tables) -> Report:
        """Errors by environment, their growth, and what of them the state explains."""
        truth = pd.concat([read_truth(e) for e in self.environments], ignore_index=True)
        long = tidy(tables["predictions"], truth)
        summary = leaning(long, self.environments)
        against = compared(long, self.environments)
        if against.empty or against["mse"].isna().all():
            raise StudyError(f"there is neither {FOREGROUND} nor {ALL} to compare with others")
        figures = {"shift": draw.shift(summary, against, [e.name for e in self.environments])}
        captions = {
            "shift": "Left: test MSE minus that of the foreground alone, same genes. Right: how much a prediction "
            "rises when the background opens and nothing else changes, in log10(1 + expression). Thick bars: 95% "
            "bootstrap over neighbourhoods; thin: Student's t over seeds."
        }
        return Report(summary, self._text(summary, against), {"compared": against}, figures, captions)

    def _text(self, summary: pd.DataFrame, against: pd.DataFrame) -> list[str]:
        text = [
            "Predictors: `original` and `adjusted` are a model's branches. `..., drawn` is the backdoor formula taken "
            f"literally: the branch's prediction averaged over the background signals of {self.design.draws} random "
            "training samples of the cell type, in place of the sample's own, so that it cannot use the background of "
            "the gene at hand. The checkpoint is chosen in the training environment.",
            "`growth`: MSE here minus MSE in the training environment, same genes. `lean`: how much the prediction for "
            "a gene rises when its background opens and nothing else changes (genes whose state differs between the "
            "two environments); it should be 0, for the state causes nothing. `slope`: coefficient of the true "
            "state (open 1, closed 0) in a regression of prediction minus label on the state and all true causes "
            "(hidden activity, elements, motifs, features): 0 for a model that does not lean on the background, which "
            "causes nothing. `total_slope`: without the causes held fixed. `genes_low, genes_high`: bootstrap over "
            "neighbourhoods, whose genes share a state; `seeds_low, seeds_high`: Student's t over seeds. Both 95%.",
        ]
        away = summary[summary["environment"] != HOME]
        for row in away.itertuples():
            verdict = "grows" if row.growth_genes_low > 0 else "falls" if row.growth_genes_high < 0 else "stays"
            text.append(
                f"- {row.environment}: {row.model}, {row.branch}: MSE {row.mse:.4f}, growth {row.growth:+.4f} "
                f"[{row.growth_genes_low:+.4f}, {row.growth_genes_high:+.4f}] ({verdict}); lean {row.lean:+.3f} "
                f"[{row.lean_genes_low:+.3f}, {row.lean_genes_high:+.3f}]; slope {row.slope:+.3f} "
                f"[{row.slope_genes_low:+.3f}, {row.slope_genes_high:+.3f}]."
            )
        text.append(
            "**Against the foreground alone and all signals with n = 0**, same genes and seeds: differences of MSE. "
            "Brackets: over neighbourhoods, over seeds. The table `compared` has those of lean too."
        )
        for row in against[~against["branch"].str.endswith("drawn") & against["mse"].notna()].itertuples():
            verdict = "lower" if row.mse_genes_high < 0 else "higher" if row.mse_genes_low > 0 else "not told apart"
            text.append(
                f"- {row.environment}: {row.model}, {row.branch}, against {row.against}: MSE {row.mse:+.4f} "
                f"[{row.mse_genes_low:+.4f}, {row.mse_genes_high:+.4f}] [{row.mse_seeds_low:+.4f}, "
                f"{row.mse_seeds_high:+.4f}]: {verdict}."
            )
        return text


def read_truth(environment: Environment) -> pd.DataFrame:
    """The states and causes of the genes of an environment.

    Raises
    ------
    genostore.errors.NotFoundError
        When the file is missing, or no simulation's.
    """
    path = Path(environment.truth)
    try:
        table = pd.read_csv(path, sep="\t")
    except OSError as error:
        raise NotFoundError(
            f"the truth {path} cannot be read: {error.strerror}; `genostore simulate` writes it"
        ) from error
    wanted = ["gene_id", "cell_type", "neighbourhood", STATE, *CAUSES]
    lacking = [c for c in wanted if c not in table]
    if lacking:
        raise NotFoundError(f"{path} lacks {', '.join(lacking)}; give the truth.tsv that `genostore simulate` wrote")
    return table[wanted].rename(columns={"gene_id": "gene"}).assign(environment=environment.name)


def check_truths(environments: tuple[Environment, ...]) -> None:
    """Check that environments are of one simulation, and that the background differs between them.

    Raises
    ------
    genostore.errors.QueryError
        When a truth is of other genes or causes than the first one, or has the very states of it.
    """
    keys = ["gene", "cell_type"]
    truths = [read_truth(e).set_index(keys).sort_index() for e in environments]
    for environment, truth in zip(environments[1:], truths[1:], strict=True):
        home = truths[0]
        if not truth.index.equals(home.index) or not np.allclose(truth[[*CAUSES]], home[[*CAUSES]], equal_nan=True):
            raise QueryError(
                f"{environment.truth} ({environment.name}) and {environments[0].truth} tell of other genes or causes: "
                f"environments are simulations of the same settings and seed, with and without --shift"
            )
        if truth[STATE].equals(home[STATE]):
            raise QueryError(
                f"{environment.truth} has the very background states of {environments[0].truth}, so nothing is "
                f"shifted: give the truth.tsv that `genostore simulate --shift` wrote with {environment.store}"
            )


def tidy(table: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    """One row a prediction, with the truth beside it."""
    keys = ["model", "seed", "environment", "gene", "cell_type", "observed"]
    branches = [c for c in ("original", "adjusted", "original, drawn", "adjusted, drawn") if c in table]
    long = table.melt(keys, branches, "branch", "predicted").dropna(subset=["predicted"])
    joined = long.merge(truth, on=["environment", "gene", "cell_type"], how="left", validate="many_to_one")
    if joined[STATE].isna().any():
        gene = joined.loc[joined[STATE].isna(), "gene"].iloc[0]
        raise NotFoundError(f"the truth says nothing of {gene}: is it of the same simulation as the store?")
    joined["error"] = joined["predicted"] - joined["observed"]
    joined["squared"] = joined["error"] ** 2
    return joined


def leaning(long: pd.DataFrame, environments: tuple[Environment, ...]) -> pd.DataFrame:
    """MSE, growth and slopes of each predictor in each environment."""
    rows = []
    for (model, branch), part in long.groupby(["model", "branch"], sort=False):
        home = part[part["environment"] == environments[0].name]
        for environment in environments:
            here = part[part["environment"] == environment.name]
            row: dict[str, Any] = {"environment": environment.name, "model": model, "branch": branch}
            row |= _both("mse", here, "squared")
            if environment is not environments[0]:
                both = here.merge(home[[*KEYS, "squared"]], on=KEYS, suffixes=("", "_home"), validate="one_to_one")
                row |= _both("growth", both.assign(growth=both["squared"] - both["squared_home"]), "growth")
                row |= _both("lean", moves(here, home), "lean")
            for name, causes in (("slope", CAUSES), ("total_slope", ())):
                row |= _slopes(name, here, causes)
            rows.append(row)
    return pd.DataFrame(rows)


def compared(long: pd.DataFrame, environments: tuple[Environment, ...]) -> pd.DataFrame:
    """MSE and lean of each predictor minus those of the plain models, paired by seed and sample."""
    of = dict(iter(long.groupby(["model", "branch"], sort=False)))
    home = environments[0].name
    rows = []
    for against in (FOREGROUND, ALL):
        plain = of.get((against, "original"))
        if plain is None:
            continue
        for (model, branch), part in of.items():
            if model == against:
                continue
            for environment in environments:
                here, there = (p[p["environment"] == environment.name] for p in (part, plain))
                row: dict[str, Any] = {"environment": environment.name, "model": model, "branch": branch}
                row |= {"against": against} | _difference("mse", here, there, "squared")
                if environment is not environments[0]:
                    ours = moves(here, part[part["environment"] == home])
                    theirs = moves(there, plain[plain["environment"] == home])
                    row |= _difference("lean", ours, theirs, "lean")
                rows.append(row)
    return pd.DataFrame(rows)


def _difference(name: str, a: pd.DataFrame, b: pd.DataFrame, column: str) -> dict[str, float]:
    both = a.merge(b[[*KEYS, column]], on=KEYS, suffixes=("", "_b"), validate="one_to_one")
    return _both(name, both.assign(difference=both[column] - both[f"{column}_b"]), "difference")


def _both(name: str, rows: pd.DataFrame, column: str) -> dict[str, float]:
    seeds = over_seeds(rows.groupby("seed")[column].mean())
    mean = rows.groupby(["gene", "cell_type"], sort=False).agg(value=(column, "mean"), at=("neighbourhood", "first"))
    genes = over_genes(mean["value"], mean["at"])
    return {name: seeds.estimate} | columns(f"{name}_genes", genes) | columns(f"{name}_seeds", seeds)


def moves(here: pd.DataFrame, home: pd.DataFrame) -> pd.DataFrame:
    """How much the prediction for a gene moves when its background opens and nothing else changes."""
    both = here.merge(home[[*KEYS, "predicted", STATE]], on=KEYS, suffixes=("", "_home"), validate="one_to_one")
    moved = both[both[STATE] != both[f"{STATE}_home"]]
    sign = moved[STATE] - moved[f"{STATE}_home"]
    return moved.assign(lean=(moved["predicted"] - moved["predicted_home"]) * sign)


def _slopes(name: str, rows: pd.DataFrame, causes: tuple[str, ...]) -> dict[str, float]:
    """The state's coefficient for errors, over seeds and over neighbourhoods."""
    seeds = over_seeds([slope(np.ones(len(g)), _design(g, causes)) for _, g in rows.groupby("seed")])
    mean = rows.groupby(["gene", "cell_type"], sort=False).agg(
        {"error": "mean", "neighbourhood": "first", STATE: "first", **dict.fromkeys(causes, "first")}
    )
    genes = over_genes(_design(mean, causes), mean["neighbourhood"], slope, resamples=1_000)
    return {name: seeds.estimate} | columns(f"{name}_genes", genes) | columns(f"{name}_seeds", seeds)


def _design(rows: pd.DataFrame, causes: tuple[str, ...]) -> NDArray[np.float64]:
    """Error, state, causes."""
    return rows[["error", STATE, *causes]].to_numpy(dtype=np.float64)


def slope(weights: NDArray[np.float64], values: NDArray[np.float64]) -> float:
    """Weighted least squares of the first column on the others and a constant: the second column's coefficient."""
    y, x = values[:, 0], np.column_stack([values[:, 1:], np.ones(len(values))])
    root = np.sqrt(weights)
    size, *_ = np.linalg.lstsq(x * root[:, None], y * root, rcond=None)
    return float(size[0])
