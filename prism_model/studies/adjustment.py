"""Does the backdoor adjustment help, and what do its contexts learn?"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch

from prism_model.data import Data
from prism_model.metrics import correlation
from prism_model.predict import Predictor
from prism_model.studies import draw
from prism_model.studies.base import Cell, Plain, Report, Study, StudyError, Tables
from prism_model.studies.intervals import columns, over_genes, over_seeds
from prism_model.studies.scoring import predictions

BRANCHES = ("original", "adjusted", "adjusted-prediction")


@dataclass(frozen=True)
class AdjustmentDesign:
    """The grid of `prism study adjustment`."""

    contexts: tuple[int, ...] = (0, 1, 2, 4)
    """Numbers of contexts, with alpha = beta = 1."""
    weights: tuple[tuple[float, float], ...] = ((0.0, 1.0), (1.0, 0.0))
    """Further (alpha, beta), the weights of the adjusted branch's loss and of the uniformity."""
    weights_at: int = 2
    """Contexts of the models with these."""


class AdjustmentStudy(Study):
    """Numbers of contexts and weights of the loss, at one length and the same seeds."""

    name = "adjustment"
    title = "Does the adjustment help?"
    design_type = AdjustmentDesign
    of_contexts = True
    sizes: ClassVar[dict[str, Plain]] = {"quick": {"contexts": [0, 2], "weights": [[0.0, 1.0]]}}
    design: AdjustmentDesign

    def cells(self, data: Data) -> list[Cell]:
        """A run a number of contexts, weights and seed."""
        d = self.design
        grid = [(n, 1.0, 1.0) for n in d.contexts]
        grid += [(d.weights_at, alpha, beta) for alpha, beta in d.weights]
        made = []
        for n, alpha, beta in dict.fromkeys(grid):
            variant = f"n={n}" + ("" if alpha == beta == 1 else f", alpha={alpha:g}, beta={beta:g}")
            settings = {"model": {"n_context": n}, "loss": {"alpha": alpha, "beta": beta}}
            labels = {"variant": variant, "n": n, "alpha": alpha, "beta": beta}
            name = f"n{n}-alpha{alpha:g}-beta{beta:g}"
            made += [self.cell(name, labels, settings, seed) for seed in self.seeds]
        return made

    def measure(self, cell: Cell, run: Path, device: str) -> Tables:
        """Predictions of all branches, and of a model with contexts their projection."""
        predictor = Predictor(run, device=device)
        test = predictor.data.windows("test")
        table = predictions(predictor, test)
        if not cell.labels["n"]:
            return {"predictions": table}
        with averaging(predictor.model, "prediction"):
            table["adjusted-prediction"] = predictions(predictor, test)["adjusted"]
        return {"predictions": table, **contexts(predictor, test)}

    def report(self, tables: Tables) -> Report:
        """Each variant and branch against n = 0 at the same seeds."""
        summary = compare(tables["predictions"])
        if "difference" not in summary or summary["difference"].isna().all():
            raise StudyError("there is no model of n = 0 to compare with others")
        untrained = summary["variant"].str.contains("alpha=0,", regex=False) & (summary["branch"] != "original")
        figures = {"adjustment": draw.adjustment(summary[~untrained])}
        captions = {
            "adjustment": "Test MSE of each variant and branch minus that of n = 0. Thick bars: 95% bootstrap over "
            "genes; thin: Student's t over seeds. Without the adjusted branch of alpha = 0, which was never trained."
        }
        extra: Tables = {}
        if "contexts" in tables:
            extra["contexts_seen"] = seen(tables["context_fit"])
            figures["contexts"] = draw.contexts(tables["contexts"])
            captions["contexts"] = (
                "Contexts of the test samples, first seed, on the first two principal components of each model; one "
                "colour a context."
            )
        return Report(summary, self._text(summary, extra.get("contexts_seen")), extra, figures, captions)

    def _text(self, summary: pd.DataFrame, fit: pd.DataFrame | None) -> list[str]:
        text = [
            "Branches: `original` is what the release scores; `adjusted` averages hidden states over the contexts (the "
            "release), `adjusted-prediction` averages predictions (the paper). `difference` is test MSE minus that of "
            "n = 0 (original branch, same seed); `genes_low, genes_high`: paired bootstrap over genes of the "
            "difference averaged over seeds, `seeds_low, seeds_high`: Student's t over seeds, both 95%."
        ]
        for row in summary.dropna(subset=["difference"]).itertuples():
            low, high = row.difference_genes_low, row.difference_genes_high
            seeds = f"seeds [{row.difference_seeds_low:+.4f}, {row.difference_seeds_high:+.4f}]"
            verdict = "lower" if high < 0 else "higher" if low > 0 else "not told apart"
            text.append(
                f"- {row.variant}, {row.branch}: {row.difference:+.4f}, genes [{low:+.4f}, {high:+.4f}], {seeds}: "
                f"{verdict} (over genes)."
            )
        if fit is not None:
            text.append(
                "**Contexts.** `cosine`: mean over samples between two contexts of a sample. `between_samples`: share "
                "of the contexts' variance that lies between samples (the rest is the same for all samples: a fixed "
                "gate). `r2_...`: how well a signal's mean over the window, or the label, is read off the contexts, by "
                "ridge, leave-one-out."
            )
        return text


class averaging:
    """Let a model average hidden states or predictions, for a while."""

    def __init__(self, model: Any, how: str) -> None:
        self.model, self.how = model, how

    def __enter__(self) -> None:
        from dataclasses import replace

        self.before = self.model.config
        self.model.config = replace(self.before, averaging=self.how)

    def __exit__(self, *exception: object) -> None:
        self.model.config = self.before


def contexts(predictor: Predictor, windows: Any) -> Tables:
    """The contexts of some samples: their projection, and what can be read off them."""
    from sklearn.linear_model import RidgeCV

    data = predictor.data
    found, means, observed = [], [], []
    predictor.model.eval()
    with torch.no_grad():
        for batch in data.loader(windows, predictor.config.train.batch_size, device=predictor.device):
            inputs = data.inputs(batch)
            found.append(predictor.model(*inputs).contexts.cpu().double().numpy())
            assert inputs[1] is not None
            means.append(inputs[1].double().mean(1).cpu().numpy())
            observed.append(batch.target.double().cpu().numpy())
    made, mean, y = np.concatenate(found), np.concatenate(means), np.concatenate(observed)  # (B, d, n)
    n_samples, _, n = made.shape
    vectors = made.transpose(0, 2, 1)  # (B, n, d)
    centre = vectors.reshape(-1, made.shape[1]).mean(0)
    _, size, axes = np.linalg.svd(vectors.reshape(-1, made.shape[1]) - centre, full_matrices=False)
    places = (vectors - centre) @ axes[:2].T  # (B, n, 2)
    rows = {
        "sample": np.repeat(np.arange(n_samples), n),
        "context": np.tile(np.arange(n), n_samples),
        "pc1": places[..., 0].ravel(),
        "pc2": places[..., 1].ravel() if places.shape[-1] > 1 else 0.0,
    }
    fit: dict[str, float] = {
        "explained_1": float(size[0] ** 2 / (size**2).sum()),
        "between_samples": float(
            vectors.var(axis=0).mean() / max(vectors.reshape(-1, len(centre)).var(axis=0).mean(), 1e-12)
        ),
    }
    unit = vectors / (np.linalg.norm(vectors, axis=2, keepdims=True) + 1e-8)
    pairs = [(unit[:, i] * unit[:, j]).sum(1).mean() for i, j in combinations(range(n), 2)]
    fit["cosine"] = float(np.mean(pairs)) if pairs else float("nan")
    flat = made.reshape(n_samples, -1)
    flat = (flat - flat.mean(0)) / (flat.std(0) + 1e-8)
    for name, values in {**dict(zip(data.channels, mean.T, strict=True)), "label": y}.items():
        model = RidgeCV(np.logspace(-2, 4, 13), store_cv_results=True).fit(flat, values)
        error = model.cv_results_.reshape(n_samples, -1).mean(0).min()
        fit[f"r2_{name}"] = float(1 - error / max(values.var(), 1e-12))
        fit[f"r_pc1_{name}"] = abs(correlation(places[:, 0, 0], values))
    return {"contexts": pd.DataFrame(rows), "context_fit": pd.DataFrame([fit])}


def compare(table: pd.DataFrame) -> pd.DataFrame:
    """MSE of each variant and branch, and its difference from n = 0."""
    long = table.melt(
        ["variant", "seed", "gene", "cell_type", "observed"], [b for b in BRANCHES if b in table], "branch"
    ).dropna(subset=["value"])
    long["error"] = (long["value"] - long["observed"]) ** 2
    plain = long[long["variant"] == "n=0"]
    rows = []
    for (variant, branch), part in long.groupby(["variant", "branch"], sort=False):
        mse = over_seeds(part.groupby("seed")["error"].mean())
        each = part.groupby("seed")["error"].mean()
        row = {"variant": variant, "branch": branch, "mse": mse.estimate} | columns("mse_seeds", mse)
        row["by_seed"] = " ".join(f"{e:.4f}" for e in each)
        if len(plain) and variant != "n=0":
            keys = ["seed", "gene", "cell_type"]
            both = part.merge(plain, on=keys, suffixes=("", "_0"), validate="one_to_one")
            both["difference"] = both["error"] - both["error_0"]
            seeds = over_seeds(both.groupby("seed")["difference"].mean())
            mean = both.groupby(["gene", "cell_type"], sort=False)["difference"].mean()
            genes = over_genes(mean.to_numpy(), mean.index.get_level_values("gene").to_numpy())
            row |= {"difference": seeds.estimate}
            row |= columns("difference_genes", genes) | columns("difference_seeds", seeds)
        rows.append(row)
    return pd.DataFrame(rows)


def seen(fit: pd.DataFrame) -> pd.DataFrame:
    """What is read off the contexts, averaged over seeds."""
    numbers = [c for c in fit.columns if c not in ("variant", "n", "alpha", "beta", "seed")]
    return fit.groupby("variant", sort=False)[numbers].mean().reset_index()
