"""Predictions of a trained model: for a split, or for any genes of a store."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import nn

import genostore
from genostore.errors import NotFoundError, QueryError
from prism_model import distributed, room, runs
from prism_model.adjustment import Averaging
from prism_model.config import RunConfig
from prism_model.data import Data
from prism_model.models.own import run_model
from prism_model.needs import absent_signals, named, taken
from prism_model.weights import load_any

if TYPE_CHECKING:
    from genostore.windows import Windows

COLUMNS = ("gene", "name", "cell_type", "observed", "original", "adjusted")


class Predictor:
    """The best model of a run, with the query that its inputs come from.

    Parameters
    ----------
    run
        Folder of the run.
    store
        Another store than the one it was trained on.
    cell_types
        Others than those it was trained on; a warning names those that it has not seen.
    device
        ``cpu``, ``cuda`` or ``auto``.
    model
        For a run of a module of your own: one like it.

    Raises
    ------
    genostore.errors.NotFoundError
        When there is no run, or the store lacks a signal that the model takes.
    """

    def __init__(
        self,
        run: str | Path,
        *,
        store: str | Path | None = None,
        cell_types: Sequence[str] | None = None,
        device: str = "auto",
        model: nn.Module | None = None,
    ) -> None:
        self.run = Path(run)
        self.config: RunConfig = runs.read_config(run)
        seen = self.config.data.cell_types or ()
        asked = tuple(cell_types or seen)
        unseen = [c for c in asked if c not in seen]
        if unseen:
            warnings.warn(
                f"the model was trained on {', '.join(seen)} and has never seen {', '.join(unseen)}", stacklevel=2
            )
        query: dict[str, Any] = {**vars(self.config.data), "cell_types": asked}
        if store is not None:
            query["store"] = str(store)
        opened = genostore.open(query["store"])
        absent = absent_signals(self.config.data, asked, opened.entries)
        if absent:
            cell, assay = absent[0]
            bins = f" --bin-size {self.config.data.contact_bin_size}" if assay == self.config.data.contacts else ""
            raise NotFoundError(
                f"the model of {run} takes the signals {taken(self.config.data)}, and {opened.path} lacks "
                f"{named(absent)}; it has cell types {', '.join(opened.cell_types) or 'none'} and assays "
                f"{', '.join(opened.assays) or 'none'}. `genostore add STORE FILE --cell-type {cell} --assay {assay}"
                f"{bins}` adds one"
            )
        measured = self.config.data.expression in set(opened.expression["assay"])
        self.data = Data(type(self.config.data)(**query), opened, labels=measured and bool(opened.splits))
        kind = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        self.place = distributed.current()
        self.device = self.place.device(kind)
        self.model = load_any(run, scan=self.config.scan, model=model).to(self.device)
        config: Any = self.model.config  # the checkpoint's own, which may have come from another run
        wanted, given = config.signal_size, self.data.channels
        if wanted != len(given):
            raise QueryError(
                f"the checkpoint of {run} was made for {wanted} signals, and the run reads {len(given)} "
                f"({', '.join(given) or 'none'}): is it of another run?"
            )

    @property
    def training_data(self) -> Data:
        """What the model was trained on, whatever store and cell types are predicted for.

        Raises
        ------
        genostore.errors.FormatError
            When that store is no longer there.
        """
        asked, trained = self.data.config, self.config.data
        same = asked.store == str(genostore.open(trained.store).path) and asked.cell_types == trained.cell_types
        return self.data if same and self.data.labels else Data(trained)

    def genes(self, genes: Sequence[str] | None = None, split: str | None = None) -> Windows:
        """Windows of some genes or a split, whether or not their expression was measured."""
        return self.data.windows(split=split, genes=None if genes is None else list(genes), measured=False)

    def regions(self, regions: pd.DataFrame | str | Path) -> Windows:
        """Windows around the middle of regions, each in every cell type: of a BED file, or a table of them.

        A model that takes gene features is given their means over the training samples, with a warning.
        """
        return self.data.windows(regions=regions)

    def __call__(
        self,
        windows: Windows,
        batch_size: int | None = None,
        *,
        averaging: Averaging | None = None,
    ) -> pd.DataFrame:
        """Predict all samples of a query.

        In a group of processes (``torch.distributed``) each predicts a share, and all get the whole table.

        Parameters
        ----------
        windows
            Of ``genes`` or of ``data.windows``.
        batch_size
            Samples at once; that of the training when left out.
        averaging
            A second way of averaging over the contexts, whose column is ``adjusted_<averaging>``.

        Returns
        -------
        pandas.DataFrame
            One row a sample: gene (id), name (of regions contig, start, end and what else their table has), cell_type,
            observed (NaN when not measured), original and, for a model with contexts, adjusted.

        Raises
        ------
        genostore.errors.QueryError
            When a batch would not fit into the memory of a processor.
        """
        if self.device == "cpu":
            size = batch_size or self.config.train.batch_size
            room.check(self.model, self.data.config.width, size * self.place.local_world, training=False)
        middle = self._typical_features(windows)
        share = {"rank": self.place.rank, "world": self.place.world, "even": False}
        loader = self.data.loader(windows, batch_size or self.config.train.batch_size, device=self.device, **share)
        second = f"adjusted_{averaging}"
        columns: dict[str, list[Any]] = {name: [] for name in ("index", *COLUMNS, second)}
        self.model.eval()
        with torch.no_grad():
            for batch in loader:
                if middle is not None:
                    batch.features = middle.expand(len(batch), -1)
                out = run_model(self.model, self.data.inputs(batch), batch)
                columns["index"].append(batch.index.cpu().numpy())
                columns["gene"].append(batch.gene.cpu().numpy())
                columns["cell_type"].append(batch.cell_type.cpu().numpy())
                if batch.target is not None:
                    columns["observed"].append(batch.target.cpu().numpy())
                for branch in ("original", "adjusted"):
                    predicted = getattr(out, branch)
                    if predicted is not None:
                        columns[branch].append(predicted.cpu().numpy())
                if averaging is not None and self.config.model.adjusts:
                    again = self.model(*self.data.inputs(batch), averaging=averaging, branches="adjusted")
                    columns[second].append(again.adjusted.cpu().numpy())
        shares = distributed.gather({name: np.concatenate(parts) for name, parts in columns.items() if parts})
        shares = [mine for mine in shares if mine]  # fewer samples than processes
        joined = {name: np.concatenate([mine[name] for mine in shares]) for name in shares[0]} if shares else {}
        order = np.argsort(joined.pop("index"), kind="stable")
        joined = {name: values[order] for name, values in joined.items()}
        rows = windows.genes.iloc[joined.pop("gene")]
        named = {"gene": rows["id"], "name": rows["name"]} if "id" in rows else {name: rows[name] for name in rows}
        cells = np.asarray(windows.cell_types, dtype=object)[joined.pop("cell_type")]
        return pd.DataFrame({**{k: v.to_numpy() for k, v in named.items()}, "cell_type": cells, **joined})

    def _typical_features(self, windows: Windows) -> torch.Tensor | None:
        """What stands for the gene features of regions ``(F,)``; None where genes bring their own."""
        names = self.config.data.features or ()
        if not names or "id" in windows.genes:
            return None
        means = runs.read_digest(self.run).get("feature_means")
        if means is None:
            raise QueryError(
                f"{self.run} was trained before runs kept the means of gene features, and regions have none"
            )
        warnings.warn(
            f"regions have no gene features ({', '.join(names)}): the model is given their means over the training "
            f"samples",
            stacklevel=3,
        )
        return torch.tensor([means[name] for name in names], dtype=torch.float32, device=self.device)


def write_table(table: pd.DataFrame, path: str | Path) -> None:
    """Write predictions as the name says: ``.parquet``, ``.tsv`` (also ``.txt``) or ``.csv``.

    Raises
    ------
    genostore.errors.QueryError
        For another ending.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        table.to_parquet(path, index=False)
    elif path.suffix in (".tsv", ".txt", ".csv"):
        table.to_csv(path, sep="," if path.suffix == ".csv" else "\t", index=False, float_format="%.6g")
    else:
        raise QueryError(f"{path.name}: predictions are written as .tsv, .csv or .parquet, not {path.suffix!r}")
