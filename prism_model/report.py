"""``prism report``: one page that shows a store, a gene's window, and how a run trained and what it predicts."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import genostore
from genostore.errors import NotFoundError
from prism_model import runs, weights
from prism_model.config import RunConfig
from prism_model.figures import predicted_against_observed, training_curves
from prism_model.page import Page

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from genostore import Store

NAMES = {
    "original": "original branch",
    "adjusted": "adjusted branch",
    "ridge": "ridge (baseline)",
    "mean": "mean (baseline)",
}
SCALES = {"log10p1": "log10(1 + {})", "log2p1": "log2(1 + {})", "log1p": "ln(1 + {})"}  # of the targets, by transform
TERMS = ("prediction", "intervention", "uniformity", "total")
WIDE = 200_000  # bases of the picture of a gene's neighbourhood
RESAMPLES = 2_000


def report(
    run: str | Path,
    out: str | Path,
    *,
    split: str = "test",
    gene: str | None = None,
    commands: Sequence[str] = (),
    device: str = "auto",
) -> Path:
    """Write a self-contained HTML page about a run, and its pictures as PNG files.

    Parameters
    ----------
    run
        Folder of the run. It is evaluated first where that was not done since its checkpoint was written.
    out
        Folder to write ``report.html`` and the pictures to; made where absent.
    split
        Whose predictions are shown.
    gene
        Id or name of the gene whose window is drawn; the one of the split whose observed expression differs most
        between cell types when left out (with one cell type, the one with the highest).
    commands
        Those that led up to the run, one a line, to be listed before the run's own.
    device
        To evaluate on: ``cpu``, ``cuda`` or ``auto``.

    Returns
    -------
    pathlib.Path
        Of ``report.html``.

    Raises
    ------
    genostore.errors.NotFoundError
        When the folder is no run's, or the run has no checkpoint yet.
    genostore.errors.FormatError
        When the store that it was trained on is no longer there.
    genostore.errors.QueryError
        When matplotlib is not installed.
    """
    from genostore.plot import check_matplotlib

    check_matplotlib()
    run, out = Path(run), Path(out)
    config = runs.read_config(run)
    store = genostore.open(config.data.store)
    best = _best(run)
    results = {name: _evaluated(run, name, device) for name in dict.fromkeys(("valid", split))}
    out.mkdir(parents=True, exist_ok=True)

    scores, table = results[split]
    gene = gene or _telling_gene(table)
    model = "Prism" if config.model.name == "prism" else f"the model {config.model.name}"
    page = Page(f"{config.data.expression} of {_listed(config.data.cell_types or ())}, predicted by {model}")
    _summary(page, config, store, split, scores, table)
    _store_section(page, out, store, config)
    _window_section(page, out, store, config, gene)
    _training_section(page, out, run, config, best, results["valid"][0])
    _prediction_section(page, out, store, config, split, scores, table)
    page.heading("Commands")
    page.commands([*commands, *_own_commands(run, out, config, split, gene)])
    code = json.loads((run / "run.json").read_text())
    version = " ".join(code["code"].values())
    page.text(f"Trained with genostore {version}, torch {code['packages'].get('torch', '')}, seed {config.seed}.", True)
    page.write(out / "report.html")
    return out / "report.html"


def _best(run: Path) -> dict[str, Any]:
    """What the kept checkpoint says of itself."""
    path = run / weights.BEST
    if not (path / "model.safetensors").is_file():
        raise NotFoundError(f"{run} has no checkpoint yet ({path} is missing); let `prism train` reach a validation")
    info: dict[str, Any] = weights.read_card(path).get("info", {})
    return info


def _evaluated(run: Path, split: str, device: str) -> tuple[dict[str, Any], pd.DataFrame]:
    """Scores and predictions of a split, made anew where they are older than the checkpoint."""
    from prism_model.evaluate import evaluate

    scores, table = run / "metrics" / f"{split}.json", run / "predictions" / f"{split}.parquet"
    weights = (run / "checkpoints" / "best" / "model.safetensors").stat().st_mtime
    fresh = all(p.is_file() and p.stat().st_mtime >= weights for p in (scores, table))
    if not fresh or "ridge" not in json.loads(scores.read_text())["scores"]:
        evaluate(run, split, device=device)
    found: dict[str, Any] = json.loads(scores.read_text())
    return found, pd.read_parquet(table)


def _telling_gene(table: pd.DataFrame) -> str:
    by_gene = table.pivot_table(index="gene", columns="cell_type", values="observed", sort=False).dropna()
    if by_gene.empty:
        return str(table["gene"].iloc[0])
    spread = by_gene.max(axis=1) - by_gene.min(axis=1) if by_gene.shape[1] > 1 else by_gene.iloc[:, 0]
    return str(spread.idxmax())


def _summary(
    page: Page, config: RunConfig, store: Store, split: str, scores: dict[str, Any], table: pd.DataFrame
) -> None:
    overall = {name: groups["all"] for name, groups in scores["scores"].items()}
    page.text(
        f"One run (seed {config.seed}) on assembly `{store.genome.name}`. Everything below is of the {split} split, "
        f"which the model has not been trained on, unless it says otherwise: {len(table):,} samples, that is "
        f"{table['gene'].nunique():,} genes in {_listed(config.data.cell_types or ())}.",
        soft=True,
    )
    page.tiles([(f"{values['mse']:.3f}", f"MSE, {NAMES[name]}") for name, values in overall.items() if name in NAMES])
    rows = []
    for branch in [b for b in ("original", "adjusted") if b in table]:
        cells = []
        for baseline in ("mean", "ridge"):
            difference, low, high = difference_of_errors(table, branch, baseline)
            cells.append(f"{difference:+.3f} ({low:+.3f} to {high:+.3f})")
        rows.append([NAMES[branch], *cells])
    page.table(["difference of MSE", "from the mean", "from ridge"], rows)
    page.text(
        "Below 0 the model is better. In brackets: 95% interval when the genes of the split are drawn anew; one that "
        "includes 0 says that this split cannot tell the two apart. It does not cover what another seed would change.",
        soft=True,
    )


def difference_of_errors(table: pd.DataFrame, one: str, other: str) -> tuple[float, float, float]:
    """Difference of two predictors' mean squared errors, with a bootstrap interval.

    Parameters
    ----------
    table
        ``gene``, ``observed`` and a column a predictor; one row a sample.
    one, other
        The predictors; the difference is that of ``one`` minus that of ``other``.

    Returns
    -------
    tuple of float
        The difference, and the 2.5% and 97.5% quantiles when genes are drawn anew with replacement. A gene's samples
        are drawn together, since its cell types share their sequence.
    """
    errors = (table[one] - table["observed"]) ** 2 - (table[other] - table["observed"]) ** 2
    by_gene = errors.groupby(table["gene"]).agg(["sum", "size"]).to_numpy(np.float64)
    drawn = np.random.default_rng(0).integers(0, len(by_gene), (RESAMPLES, len(by_gene)))
    sums: NDArray[np.float64] = by_gene[drawn].sum(axis=1)
    low, high = np.quantile(sums[:, 0] / sums[:, 1], [0.025, 0.975])
    return float(errors.mean()), float(low), float(high)


def _store_section(page: Page, out: Path, store: Store, config: RunConfig) -> None:
    from genostore.plot import plot_content

    page.heading("What the store holds")
    bases = sum(store.contigs.values())
    page.text(
        f"{len(store.contigs):,} contigs with {bases / 1e6:,.1f} Mb, {len(store.genes):,} genes, "
        f"{len(store.tracks):,} tracks, {len(store.features):,} gene features."
    )
    caption = (
        "Share of the genome that each track covers: bases without a value are no data, not zeros. Grey: not there."
    )
    width = _picture(plot_content(store), out / "store.png")
    page.picture(out / "store.png", "Tracks, contacts and expression by cell type", caption, width)
    columns = ["cell type", "assay", "role", "unit", "coverage", "mean", "max", "source", "sha256"]
    rows = []
    for track in store.tracks.astype(object).where(store.tracks.notna(), None).itertuples():
        figures = [None if v is None else f"{v:.4g}" for v in (track.mean, track.max)]
        share = None if track.coverage is None else f"{track.coverage:.1%}"
        digest = f"`{track.sha256[:12]}`" if track.sha256 else None
        rows.append([track.cell_type, track.assay, track.role, track.unit, share, *figures, track.source, digest])
    page.table(columns, rows)
    page.table(["split", "contigs", "genes"], _splits(store, config))


def _splits(store: Store, config: RunConfig) -> list[list[object]]:
    """Rows of split, contigs and genes, in the order train, valid, test."""
    genes, column = store.genes, config.data.fold or "split"
    rows: list[list[object]] = []
    for name in [n for n in ("train", "valid", "test") if n in set(genes[column])]:
        mine = genes[genes[column] == name]
        contigs = list(dict.fromkeys(mine["contig"]))
        shown = ", ".join(contigs[:8]) + (f" and {len(contigs) - 8} more" if len(contigs) > 8 else "")
        rows.append([name, shown, f"{len(mine):,}"])
    return rows


def _window_section(page: Page, out: Path, store: Store, config: RunConfig, gene: str) -> None:
    from genostore.plot import plot_window

    page.heading("One gene's window")
    cells = list(config.data.cell_types or ())
    row = store.windows(genes=[gene], assays=[], sequence=False, width=1).genes.iloc[0]
    page.text(
        f"`{row['name'] or row['id']}` on {row['contig']}, strand {row['strand']}. All rows share the axis below them, "
        "in the direction of the assembly; all cell types of an assay share one scale."
    )
    c = config.data
    contacts = genostore.Contacts(c.contacts, c.contact_bin_size, weight=c.contact_weight) if c.contacts else None
    wide = plot_window(store, gene, cells, contacts=contacts, width=WIDE)
    _picture(wide, out / "neighbourhood.png")
    page.picture(
        out / "neighbourhood.png",
        f"Contacts, genes, GC content and signals in {WIDE // 1_000} kb around the TSS",
        f"{WIDE // 1_000} kb around the TSS. The height of a point in the triangle is the distance of its two bins; "
        "the profile is the row of the TSS's bin. Grey is no data: bins that balancing left out, N, and bases that a "
        "track's source does not cover.",
    )
    narrow = plot_window(store, gene, cells, contacts=False, width=config.data.width)
    _picture(narrow, out / "window.png")
    taken = _listed([*(config.data.assays or ()), *([config.data.contacts] if config.data.contacts else [])])
    page.picture(
        out / "window.png",
        f"Genes, GC content and signals in {config.data.width:,} bp around the TSS",
        f"The {config.data.width:,} bp that the model reads. Of the signals it takes {taken or 'none'}; other tracks "
        "are shown and not used.",
    )


def _training_section(
    page: Page, out: Path, run: Path, config: RunConfig, best: dict[str, Any], valid: dict[str, Any]
) -> None:
    log = pd.read_csv(run / runs.LOG)
    present = [t for t in TERMS if f"train/{t}" in log and log[f"train/{t}"].notna().any()]
    training = log[["step", *(f"train/{t}" for t in present)]].rename(columns={f"train/{t}": t for t in present})
    branches = [b for b in ("original", "adjusted") if log.get(f"valid/{b}_mse", pd.Series(dtype=float)).notna().any()]
    validation = log[["step", *(f"valid/{b}_mse" for b in branches)]]
    # The log counts steps from 0, so a validation after the last step has that step's number.
    validation = validation.rename(columns={f"valid/{b}_mse": b for b in branches}).assign(step=log["step"] + 1)
    baselines = {name: valid["scores"][name]["all"]["mse"] for name in ("mean", "ridge") if name in valid["scores"]}
    figure = training_curves(training, validation.dropna(subset=branches, how="all"), best.get("step"), baselines)
    _picture(figure, out / "training.png")
    page.heading("Training")
    steps = int(log["step"].max()) + 1
    page.text(
        f"{steps:,} steps of {config.train.batch_size} samples. The checkpoint is the one of step "
        f"{best.get('step', 0):,}, picked by the {config.select} branch's MSE on the validation split; that split is "
        "therefore no measure of how well the model does on new genes."
    )
    terms = "the loss"
    if config.model.adjusts:
        terms += (
            f"'s terms; the total weighs them by alpha = {config.loss.alpha:g} (intervention) and beta = "
            f"{config.loss.beta:g} (uniformity)"
        )
    page.picture(
        out / "training.png",
        "Losses on training batches, and validation error of both branches by step",
        f"Left: {terms}. Right: the whole validation split after each pass; the baselines are fitted on the training "
        "split.",
    )


def _prediction_section(
    page: Page,
    out: Path,
    store: Store,
    config: RunConfig,
    split: str,
    scores: dict[str, Any],
    table: pd.DataFrame,
) -> None:
    page.heading("Predicted against observed")
    shown = {NAMES[n]: table[n].to_numpy(np.float64) for n in ("original", "adjusted", "ridge") if n in table}
    assay = str(config.data.expression)
    known = store.expression
    transform = next(iter(known.loc[known["assay"] == assay, "transform"]), None)
    label = SCALES.get(str(transform), "{}").format(assay)
    figure = predicted_against_observed(table["observed"].to_numpy(np.float64), shown, list(table["cell_type"]), label)
    _picture(figure, out / "predictions.png")
    page.picture(
        out / "predictions.png",
        f"Scatter of predicted against observed {label}, both branches and ridge",
        f"Each point is a gene in a cell type, {split} split; the line is where prediction and observation are equal.",
    )
    rows: list[list[object]] = []
    stressed: list[int] = []
    for name, groups in scores["scores"].items():
        for group, values in groups.items():
            if group == "all":
                stressed.append(len(rows))
            figures = [None if values[s] is None else f"{values[s]:.4f}" for s in ("mse", "mae", "pearson", "spearman")]
            rows.append([NAMES.get(name, name) if group == "all" else "", group, f"{values['n']:,}", *figures])
    page.table(["predictor", "samples", "n", "MSE", "MAE", "Pearson", "Spearman"], rows, stressed)
    page.text(
        "`mean` predicts the mean of the training samples for every gene. `ridge` is a linear model on the log mean of "
        "each signal over the window, the GC content and the gene features, its penalty chosen on the training split. "
        "A model is worth its cost where it beats them. Original: the prediction from the signals as they are."
        + (" Adjusted: the prediction averaged over the learnt background states." if "adjusted" in table else ""),
        soft=True,
    )


def _own_commands(run: Path, out: Path, config: RunConfig, split: str, gene: str) -> list[str]:
    store = _near(config.data.store)
    return [
        f"prism train --config {_near(run / runs.CONFIG)} --out NEW_RUN    # repeats this run",
        f"prism evaluate {_near(run)} --split {split}",
        f"genostore plot {store} {gene} --width {WIDE} --out {_near(out / 'neighbourhood.png')}",
        f"prism report {_near(run)} --out {_near(out)}",
    ]


def _near(path: str | Path) -> str:
    """A path as one would type it here: relative where it lies below the working directory."""
    absolute = os.path.abspath(path)  # noqa: PTH100 - links stay as they are
    relative = os.path.relpath(absolute)
    return str(path) if relative.startswith("..") or "://" in str(path) else relative


def _picture(figure: Figure, path: Path) -> int:
    """Save a picture, and give the width at which it reads as one of the page's."""
    figure.savefig(path, dpi=150)
    return round(figure.get_size_inches()[0] * 104)


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else list(names))
