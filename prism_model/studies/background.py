"""Does a model depend on background signals more than they are worth?

Worth: how much worse a model gets that never saw a signal. Dependence: how much worse the model of all signals gets
when the signal is taken away at test, by zeros, by the mean profile, and by another gene's (which leaves the signal's
distribution as it was, so that an input of a kind never seen is not mistaken for dependence).

Of the rise by another gene's signal half is counted: the own signal is missed, and another's is believed. For
y = f(s, t) + noise, s independent of t, and s' another gene's, E (y - f(s', t))^2 - E (y - f(s, t))^2
= E (f(s, t) - f(s', t))^2 = 2 E Var(f | t), and E Var(f | t) is what the best model without s errs more (Gregorutti,
Michel and Saint-Pierre, "Correlation and variable importance in random forests", 2017).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd

from prism_model.attribution import channel_shares
from prism_model.data import Data
from prism_model.predict import Predictor
from prism_model.studies import draw
from prism_model.studies.base import Cell, Plain, Report, Study, StudyError, Tables
from prism_model.studies.intervals import Interval, columns, over_genes, over_seeds
from prism_model.studies.scoring import exchanged, mean_profile, predictions, shuffled, without

NINTH = "promoter_activity"
NOTHING = "no signal"


@dataclass(frozen=True)
class BackgroundDesign:
    """The grid of `prism study background`."""

    n_context: int = 0
    """Contexts of the models; 0 = plain Caduceus with signals, whose dependence the claim is about."""
    subsets: Literal["all", "each"] = "all"
    """Train on every subset of the signals, or on all of them, on all but one, on each alone and on none."""
    ninth: bool = True
    """Whether to train with and without the feature ``promoter_activity`` where the store has it."""
    draws: int = 2
    """Shuffles across genes, averaged."""
    attributed: int = 64
    """Test samples whose signals are attributed; 0 = none."""
    steps: int = 32
    """Of the integrated gradients."""


class BackgroundStudy(Study):
    """Train on every subset against removing at test."""

    name = "background"
    title = "Do background signals confound?"
    design_type = BackgroundDesign
    sizes: ClassVar[dict[str, Plain]] = {"quick": {"draws": 1, "attributed": 8, "steps": 8}}
    design: BackgroundDesign

    def cells(self, data: Data) -> list[Cell]:
        """A run a subset of signals, choice of features and seed."""
        made = []
        for features in self._features(data):
            for kept in self._subsets(data.channels):
                settings: dict[str, Any] = {
                    "data": {"assays": [c for c in kept if c != data.config.contacts], "features": features},
                    "model": self.contexts(self.design.n_context if kept else 0),
                }
                if data.config.contacts not in kept:
                    settings["data"] |= {"contacts": None, "contact_bin_size": None, "contact_weight": None}
                ninth = "with" if NINTH in features else "without"
                labels = {"signals": spelled(kept), "ninth": ninth, "all": kept == data.channels}
                name = "+".join(kept) or "none"
                name += "" if NINTH not in data.features else f"-{ninth}-ninth"
                made += [self.cell(name, labels, settings, seed) for seed in self.seeds]
        return made

    def _features(self, data: Data) -> list[list[str]]:
        has = NINTH in data.features
        plain = [f for f in data.features if f != NINTH]
        return [data.features, plain] if has and self.design.ninth else [data.features]

    def _subsets(self, channels: list[str]) -> list[list[str]]:
        n = len(channels)
        sizes = range(n + 1) if self.design.subsets == "all" else {0, 1, n - 1, n}
        ordered = sorted(sizes, reverse=True)
        return [list(kept) for size in ordered for kept in combinations(channels, size)]

    def measure(self, cell: Cell, run: Path, device: str) -> Tables:
        """Predictions of the test split as it is; of the model of all signals, also with signals taken away."""
        predictor = Predictor(run, device=device)
        data = predictor.data
        test = data.windows("test")
        tables = [predictions(predictor, test).assign(removed=NOTHING, way="none")]
        if not cell.labels["all"]:
            return {"predictions": tables[0]}
        fill = mean_profile(data, data.windows("train"))
        channels = data.channels
        for kept in self._subsets(channels)[1:]:
            gone = tuple(i for i, name in enumerate(channels) if name not in kept)
            removed = spelled([channels[i] for i in gone])
            for way, change in {"zero": without(gone), "mean": without(gone, fill)}.items():
                tables.append(predictions(predictor, test, change).assign(removed=removed, way=way))
            for number in range(self.design.draws):
                mixed = partial(predictions, partners=shuffled(test, number), exchange=exchanged(gone))
                tables.append(mixed(predictor, test).assign(removed=removed, way="shuffle", draw=number))
        measured = {"predictions": pd.concat(tables, ignore_index=True)}
        if self.design.attributed:
            measured["attributions"] = channel_shares(predictor, test, self.design.attributed, self.design.steps)
        return measured

    def report(self, tables: Tables) -> Report:
        """Worth against dependence, a set of signals."""
        errors = squared_errors(tables["predictions"])
        trained = trained_on(errors)
        summary = worth_and_dependence(errors)
        if summary.empty or summary["excess"].isna().all():
            raise StudyError("there is no model of all signals to compare with one that lacks some")
        shares = attributed(tables["attributions"]) if "attributions" in tables else None
        figures = {"worth_and_dependence": draw.worth_and_dependence(summary)}
        captions = {
            "worth_and_dependence": "How much the test MSE rises without a set of signals: trained without it (worth), "
            "or taken from the model of all signals at test (dependence). Thick bars: 95% bootstrap over genes; thin: "
            "Student's t over seeds. Linear up to 0.1, then logarithmic."
        }
        extra = {"trained_on": trained}
        if shares is not None:
            extra["attributed"] = shares
            figures["attributions"] = draw.attributions(shares)
            captions["attributions"] = (
                "Integrated gradients: the mean absolute contribution of each input to a prediction, against the mean "
                "profile. Bars: Student's t over seeds."
            )
        return Report(summary, self._text(summary), extra, figures, captions)

    def _text(self, summary: pd.DataFrame) -> list[str]:
        text = [
            "**Worth** of a set of signals: test MSE of models trained without it, minus that of models trained on "
            "all. **Dependence**: test MSE of the model of all signals with the set taken away at test (zero, mean "
            "profile, another gene's), minus its MSE as it is; of another gene's half, for there the own signal is "
            "missed and another's believed, which costs a model of independent signals twice their worth. **Excess**: "
            "dependence minus worth. Brackets `genes_low, genes_high`: paired bootstrap over genes of the difference "
            "averaged over seeds; `seeds_low, seeds_high`: Student's t over seeds. Both 95%."
        ]
        shuffled = summary[(summary["way"] == "shuffle") & summary["excess"].notna()]
        for ninth, part in shuffled.groupby("ninth"):
            for row in part.itertuples():
                excess = Interval(row.excess, row.excess_genes_low, row.excess_genes_high)
                verdict = "above 0" if excess.low > 0 else "below 0" if excess.high < 0 else "not told from 0"
                seeds = f"[{row.excess_seeds_low:+.4f}, {row.excess_seeds_high:+.4f}] over seeds"
                text.append(
                    f"- {row.removed} ({ninth} the ninth feature): worth {row.worth:+.4f}, dependence by shuffling "
                    f"{row.dependence:+.4f}, excess {excess.estimate:+.4f} "
                    f"[{excess.low:+.4f}, {excess.high:+.4f}] over genes, {seeds}: {verdict} (over genes)."
                )
        return text


def spelled(channels: list[str]) -> str:
    """A set of signals in one text."""
    return "+".join(channels) or NOTHING


def squared_errors(table: pd.DataFrame, branch: str = "original") -> pd.DataFrame:
    """One squared error a sample, run and change; the draws of a shuffle averaged."""
    rows = table.assign(error=(table[branch] - table["observed"]) ** 2)
    keys = ["ninth", "signals", "all", "removed", "way", "seed", "gene", "cell_type"]
    return rows.groupby(keys, sort=False)["error"].mean().reset_index()


def trained_on(errors: pd.DataFrame) -> pd.DataFrame:
    """Test MSE of the models of each subset."""
    rows = []
    plain = errors[errors["way"] == "none"]
    for (ninth, signals), part in plain.groupby(["ninth", "signals"], sort=False):
        seeds = over_seeds(part.groupby("seed")["error"].mean())
        genes = over_genes(*_by_sample(part))
        found = {"ninth": ninth, "signals": signals, "mse": seeds.estimate}
        rows.append(found | columns("seeds", seeds) | columns("genes", genes))
    return pd.DataFrame(rows)


def worth_and_dependence(errors: pd.DataFrame) -> pd.DataFrame:
    """Worth, dependence and excess of every set of signals, for each way of taking it away."""
    rows = []
    for ninth, part in errors.groupby("ninth", sort=False):
        everything = part[part["all"] & (part["way"] == "none")]
        if everything.empty:
            continue
        channels = everything["signals"].iloc[0].split("+")
        without_it = {spelled([c for c in channels if c not in s.split("+")]): s for s in part["signals"].unique()}
        for (removed, way), changed in part[part["way"] != "none"].groupby(["removed", "way"], sort=False):
            dependence = _difference(changed, everything)
            if way == "shuffle":
                dependence["error"] /= 2  # see above
            other = part[(part["signals"] == without_it.get(removed)) & (part["way"] == "none")]
            worth = _difference(other, everything)
            row = {"ninth": ninth, "removed": removed, "way": way} | _estimates("dependence", dependence)
            row |= _estimates("worth", worth) | _estimates("excess", _difference(dependence, worth))
            rows.append(row)
    return pd.DataFrame(rows)


def _difference(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    keys = ["seed", "gene", "cell_type"]
    both = a[[*keys, "error"]].merge(b[[*keys, "error"]], on=keys, suffixes=("_a", "_b"), validate="one_to_one")
    return both.assign(error=both["error_a"] - both["error_b"])


def _by_sample(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Errors averaged over seeds, and the gene of each."""
    mean = rows.groupby(["gene", "cell_type"], sort=False)["error"].mean()
    return mean.to_numpy(), mean.index.get_level_values("gene").to_numpy()


def _estimates(name: str, rows: pd.DataFrame) -> dict[str, float]:
    seeds = over_seeds(rows.groupby("seed")["error"].mean())
    genes = over_genes(*_by_sample(rows))
    return {name: seeds.estimate} | columns(f"{name}_seeds", seeds) | columns(f"{name}_genes", genes)


def attributed(table: pd.DataFrame) -> pd.DataFrame:
    """Mean absolute contribution of each input, with Student's t over seeds."""
    rows = []
    for (ninth, what), part in table.groupby(["ninth", "input"], sort=False):
        size = over_seeds(part.groupby("seed")["contribution"].apply(lambda c: c.abs().mean()))
        rows.append({"ninth": ninth, "input": what, "contribution": size.estimate} | columns("seeds", size))
    return pd.DataFrame(rows)
