"""Does longer input help? Windows of many lengths, and each model also tested on the middle of its windows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from genostore.errors import QueryError
from prism_model.data import Data
from prism_model.predict import Predictor
from prism_model.studies import draw
from prism_model.studies.base import Cell, Plain, Report, Study, StudyError, Tables
from prism_model.studies.intervals import columns, over_genes, over_seeds
from prism_model.studies.scoring import centred, pooled_over, predictions


@dataclass(frozen=True)
class LengthDesign:
    """The grid of `prism study length`."""

    lengths: tuple[int, ...] = (500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000)
    """Windows to train on; each model is tested on its own length and all shorter ones."""
    n_context: int = 0
    """Contexts; 0 = plain Caduceus with signals."""
    center: int = 2_000
    """Central positions that a model averages, or its window where that is shorter; so in training, and at test."""


class LengthStudy(Study):
    """Train and test lengths crossed: train long, test truncated."""

    name = "length"
    title = "Does longer input help?"
    design_type = LengthDesign
    of_signals = False
    sizes: ClassVar[dict[str, Plain]] = {
        "quick": {"lengths": [128, 256]},
        "laptop": {"lengths": [500, 1_000, 2_000, 5_000]},
    }
    design: LengthDesign

    def cells(self, data: Data) -> list[Cell]:
        """A run a length and seed."""
        longest = max(data.store.contigs.values())
        lengths = sorted(set(self.design.lengths))
        if len(lengths) < 2 or lengths[-1] > longest:
            raise QueryError(
                f"lengths are {lengths}: give two or more, none longer than the longest contig ({longest:,} bases)"
            )
        made = []
        for length in lengths:
            settings: dict[str, Any] = {
                "data": {"width": length},
                "model": {**self.contexts(self.design.n_context), "center_length": min(length, self.design.center)},
            }
            made += [self.cell(f"{length}", {"train_length": length}, settings, seed) for seed in self.seeds]
        return made

    def measure(self, cell: Cell, run: Path, device: str) -> Tables:
        """Predictions of the test split at the trained length and cut to each shorter one."""
        predictor = Predictor(run, device=device)
        test = predictor.data.windows("test")
        tables = []
        for length in sorted(set(self.design.lengths)):
            if length <= cell.labels["train_length"]:
                with pooled_over(predictor.model, length):
                    table = predictions(predictor, test, centred(length))
                tables.append(table.assign(test_length=length))
        return {"predictions": pd.concat(tables, ignore_index=True)}

    def report(self, tables: Tables) -> Report:
        """MSE of each pair of lengths; against the best short training, and against the whole window."""
        table = tables["predictions"]
        table = table.assign(error=(table["original"] - table["observed"]) ** 2)
        lengths = set(table["train_length"])
        if len(lengths) < 2:
            raise StudyError("there are no two lengths to compare")
        reference = 2_000 if 2_000 in lengths else min(lengths)
        summary = lengths_crossed(table, reference)
        figures = {"length": draw.length(summary)}
        captions = {
            "length": "Left: test MSE by training length, tested on whole windows. Right: the same models tested on "
            "the middle of their windows. Bars: Student's t over seeds."
        }
        return Report(summary, self._text(summary, reference), {}, figures, captions)

    def _text(self, summary: pd.DataFrame, reference: int) -> list[str]:
        text = [
            f"Each model averages the central {self.design.center:,} positions, or its window where that is shorter; "
            f"cut windows likewise. `longer`: MSE of a training length minus that of {reference:,} bp, whole windows. "
            "`truncated`: MSE on cut windows minus that on whole ones, same model. `genes_low, genes_high`: paired "
            "bootstrap over genes of the difference averaged over seeds; `seeds_low, seeds_high`: Student's t over "
            "seeds. Both 95%. An interval about 0 says that no difference was found, not that there is none. Between "
            "windows shorter than what is averaged, a difference may be the average's: `--design center="
            f"{min(self.design.lengths)}` averages the same positions at every length."
        ]
        whole = summary[summary["train_length"] == summary["test_length"]]
        for row in whole.dropna(subset=["longer"]).itertuples():
            low, high = row.longer_genes_low, row.longer_genes_high
            verdict = "lower" if high < 0 else "higher" if low > 0 else "not told apart"
            text.append(
                f"- trained on {row.train_length:,} bp: MSE {row.mse:.4f}, against {reference:,} bp {row.longer:+.4f} "
                f"[{low:+.4f}, {high:+.4f}] over genes, [{row.longer_seeds_low:+.4f}, {row.longer_seeds_high:+.4f}] "
                f"over seeds: {verdict}."
            )
        longest = summary[summary["train_length"] == summary["train_length"].max()]
        for row in longest[longest["test_length"] < longest["train_length"]].itertuples():
            text.append(
                f"- trained on {row.train_length:,} bp, tested on the central {row.test_length:,}: "
                f"{row.truncated:+.4f} "
                f"[{row.truncated_genes_low:+.4f}, {row.truncated_genes_high:+.4f}] over genes."
            )
        return text


def lengths_crossed(table: pd.DataFrame, reference: int) -> pd.DataFrame:
    """MSE of each training and test length, and its differences."""
    at = dict(iter(table.groupby(["train_length", "test_length"])))
    rows = []
    for (train, test), part in at.items():
        row: dict[str, Any] = {"train_length": train, "test_length": test}
        mse = over_seeds(part.groupby("seed")["error"].mean())
        row |= {"mse": mse.estimate} | columns("mse_seeds", mse)
        if train == test and train != reference:
            row |= _difference("longer", part, at[reference, reference])
        if train != test:
            row |= _difference("truncated", part, at[train, train])
        rows.append(row)
    return pd.DataFrame(rows)


def _difference(name: str, a: pd.DataFrame, b: pd.DataFrame) -> dict[str, float]:
    keys = ["seed", "gene", "cell_type"]
    both = a[[*keys, "error"]].merge(b[[*keys, "error"]], on=keys, suffixes=("_a", "_b"), validate="one_to_one")
    both["difference"] = both["error_a"] - both["error_b"]
    seeds = over_seeds(both.groupby("seed")["difference"].mean())
    mean = both.groupby(["gene", "cell_type"], sort=False)["difference"].mean()
    genes = over_genes(mean.to_numpy(), mean.index.get_level_values("gene").to_numpy())
    return {name: seeds.estimate} | columns(f"{name}_genes", genes) | columns(f"{name}_seeds", seeds)
