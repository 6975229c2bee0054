"""From a store to a model's inputs: which windows, in which channels, and from which source files."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

import genostore
from genostore import Batch, Contacts, Store
from genostore.errors import NotFoundError, QueryError, nearest
from prism_model.config import DataConfig
from prism_model.hic import signals

if TYPE_CHECKING:
    from genostore.loader import Loader
    from genostore.windows import Windows

SPLITS = ("train", "valid", "test")
PAPER_FEATURES = (
    *(f"{part}_log10zscore" for part in ("UTR5LEN", "CDSLEN", "INTRONLEN", "UTR3LEN")),
    *("UTR5GC", "CDSGC", "UTR3GC", "ORFEXONDENSITY", "promoter_activity"),
)
"""The nine gene features of the release, in its order; the last one belongs to a cell type and sees the epigenome."""
Inputs = tuple[Tensor, Tensor | None, Tensor | None]


class Data:
    """The data of a run.

    Parameters
    ----------
    config
        What was asked for; its open ends are resolved from the store, see ``config``.
    store
        Opened from ``config.store`` when left out.
    labels
        False: only to predict, so that the store needs neither expression nor a split.

    Raises
    ------
    genostore.errors.NotFoundError, genostore.errors.QueryError
        When the store lacks what is asked for, or leaves a choice open.
    """

    def __init__(self, config: DataConfig, store: Store | None = None, *, labels: bool = True) -> None:
        self.store = genostore.open(config.store) if store is None else store
        self.labels = labels
        self.config = resolve(config, self.store, labels)

    @property
    def channels(self) -> list[str]:
        """Names of the signals, in the order that the model sees them."""
        return self._any.assays + ([self.config.contacts] if self.config.contacts else [])

    @property
    def roles(self) -> list[str | None]:
        """``foreground``, ``background`` or None, a channel; contacts are background."""
        return self._any.roles + (["background"] if self.config.contacts else [])

    @property
    def features(self) -> list[str]:
        """Names of the gene features."""
        return list(self.config.features or ())

    @cached_property
    def _any(self) -> Windows:
        if self.labels:
            return self.windows()
        contig = next(iter(self.store.genome)).name  # there may be no genes
        return self.windows(regions=pd.DataFrame({"contig": [contig], "start": [0], "end": [1]}))

    def windows(
        self,
        split: str | None = None,
        genes: list[str] | None = None,
        measured: bool = True,
        regions: pd.DataFrame | str | Path | None = None,
    ) -> Windows:
        """Query the store.

        Parameters
        ----------
        split
            ``train`` (with the jitter of the configuration), ``valid`` or ``test``; None for all.
        genes
            Ids or names; None for all.
        measured
            Whether to leave out samples whose expression was not measured.
        regions
            Instead of genes: a BED file, or a table of contig, start, end; without features and expression.

        Returns
        -------
        genostore.Windows
            Of all cell types of the configuration.
        """
        c = self.config
        contacts = None
        if c.contacts:
            contacts = Contacts(c.contacts, c.contact_bin_size, weight=c.contact_weight, kind="profile")
        common: dict[str, Any] = {
            "cell_types": list(c.cell_types or ()),
            "assays": list(c.assays or ()),
            "contacts": contacts,
            "width": c.width,
            "orient": c.orient,
        }
        if regions is not None:
            return self.store.windows(regions=regions, **common)
        return self.store.windows(
            genes=genes,
            split=split,
            fold=c.fold if split else None,
            exclude=c.exclude,
            expression=c.expression,
            features=list(c.features or ()) or None,
            missing_target="drop" if measured and c.expression else "keep",
            jitter=c.jitter if split == "train" else 0,
            **common,
        )

    def loader(self, windows: Windows, batch_size: int, **options: Any) -> Loader:
        """Batches of windows, see :class:`genostore.loader.Loader` for the options; silent positions are 0."""
        return windows.loader(batch_size, missing="zero", **options)

    def inputs(self, batch: Batch) -> Inputs:
        """What the model takes of a batch.

        Returns
        -------
        tuple
            Sequence ``(B, L, 4)``, signals ``(B, L, S)`` or None, features ``(B, F)`` or None.
        """
        together = signals(batch)
        if together is not None and self.config.transform == "log1p":
            tracks = together[..., : len(self._any.assays)]
            together = torch.cat([tracks.sign() * tracks.abs().log1p(), together[..., tracks.shape[-1] :]], dim=-1)
        return batch.sequence, together, batch.features

    def feature_means(self, windows: Windows) -> dict[str, float]:
        """The mean of each gene feature over some samples: what stands for it where there is no gene."""
        chosen = windows.selection
        if chosen.feature_values is None:
            return {}
        values = np.nanmean(chosen.feature_values[chosen.gene, chosen.cell_type].astype(np.float64), axis=0)
        return dict(zip(windows.features, values.tolist(), strict=True))

    def lacking_features(self, windows: Windows) -> dict[str, int]:
        """How many samples have no value of a gene feature, of those that some lack; the model is given 0 for it."""
        chosen = windows.selection
        if chosen.feature_values is None:
            return {}
        counts = np.isnan(chosen.feature_values[chosen.gene, chosen.cell_type]).sum(axis=0)
        return {name: int(n) for name, n in zip(windows.features, counts, strict=True) if n}

    def digest(self) -> dict[str, Any]:
        """Everything of the store that the run reads: nodes with their generations and source files' hashes.

        Returns
        -------
        dict
            ``store``, ``assembly``, ``nodes`` (path to generation and provenance) and ``sha256`` over the nodes.
        """
        c = self.config
        prefixes = ["genes", "sequence"]
        for cell in c.cell_types or ():
            prefixes += [f"tracks/{cell}/{assay}" for assay in self._any.assays]
            prefixes += [f"expression/{c.expression}/{cell}"]
            prefixes += [f"contacts/{cell}/{c.contacts}/"] if c.contacts else []
            prefixes += [f"features/{cell}/{name}" for name in self.features]
        prefixes += [f"features/{name}" for name in self.features]
        nodes = {
            node: {key: entry[key] for key in ("generation", "provenance", "transform") if key in entry}
            for node, entry in sorted(self.store.entries.items())
            if any(node == p or (p.endswith("/") and node.startswith(p)) for p in prefixes)
        }
        text = json.dumps(nodes, sort_keys=True, default=str)
        return {
            "store": str(self.store.path),
            "assembly": self.store.genome.name,
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
            "nodes": nodes,
        }

    def names(self, batch: Batch, windows: Windows) -> list[str]:
        """The samples of a batch in words, for messages: ``GENE in K562``."""
        column = "id" if "id" in windows.genes else "contig"
        genes = windows.genes[column].iloc[torch.as_tensor(batch.gene).tolist()]
        cells = [windows.cell_types[i] for i in torch.as_tensor(batch.cell_type).tolist()]
        return [f"{gene} in {cell}" for gene, cell in zip(genes, cells, strict=True)]


def resolve(config: DataConfig, store: Store, labels: bool = True) -> DataConfig:
    """Fill in what a configuration leaves to the store.

    Parameters
    ----------
    config
        With ``None`` and ``"auto"`` where the store decides.
    store
        Where to look.
    labels
        False: leave expression and split out.

    Returns
    -------
    DataConfig
        Nothing of it depends on the store's further growth.

    Raises
    ------
    genostore.errors.NotFoundError
        When the store has nothing to choose from.
    genostore.errors.QueryError
        When it has several and none is the obvious one.
    """
    table = store.expression
    expression = fold = None
    if labels:
        expression = _only(config.expression, list(dict.fromkeys(table["assay"])), "expression", store, usual="CAGE")
        fold = _only(config.fold, store.splits, "fold", store, usual="fold_11")
    measured = list(table.loc[table["assay"] == expression, "cell_type"])
    cells = config.cell_types
    if cells is None:
        cells = tuple(c for c in store.cell_types if c in measured)
        if not cells:
            raise NotFoundError(
                f"{store.path} has expression {expression!r} for {measured} and tracks for {store.cell_types}: "
                f"no cell type has both; name data.cell_types"
            )
    assays = _shared_assays(store, cells) if config.assays is None else config.assays
    contacts = _shared_contacts(store, cells) if config.contacts == "auto" else config.contacts
    size, weight = config.contact_bin_size, config.contact_weight
    if contacts:
        opened = store.contacts(cells[0], contacts, size)
        size = opened.bin_size
        weight = _weight(opened.weights, contacts) if weight == "auto" else weight
    return replace(
        config,
        store=str(store.path),
        cell_types=tuple(cells),
        assays=tuple(assays),
        contacts=contacts,
        contact_bin_size=size if contacts else None,
        contact_weight=weight if contacts else None,
        features=_ordered(store.features) if config.features is None else config.features,
        expression=expression,
        fold=fold,
    )


def _only(wanted: str | None, known: list[str], what: str, store: Store, usual: str) -> str:
    """The one that is wanted, or the one there is; among several the published one."""
    if wanted is not None:
        if wanted not in known:
            raise NotFoundError(f"{store.path} has no {what} {wanted!r}: {nearest(wanted, known)}")
        return wanted
    if not known:
        raise NotFoundError(f"{store.path} has no {what}, and a run needs one: name it in the catalogue and ingest it")
    if len(known) > 1 and usual in known:
        return usual
    if len(known) > 1:
        raise QueryError(f"{store.path} has several: {', '.join(known)}; choose with data.{what}")
    return known[0]


def _ordered(features: list[str]) -> tuple[str, ...]:
    """Features in the order of the release's models, others behind them."""
    return (*(f for f in PAPER_FEATURES if f in features), *(f for f in features if f not in PAPER_FEATURES))


def _shared_assays(store: Store, cells: tuple[str, ...]) -> list[str]:
    """Tracks with a role that every cell type has, foreground first; all shared tracks when none has a role."""
    tracks = store.tracks[store.tracks["cell_type"].isin(cells)]
    counts = tracks.groupby("assay")["cell_type"].nunique()
    shared = [a for a in counts.index if counts[a] == len(cells)]
    roles = {a: set(tracks.loc[tracks["assay"] == a, "role"].dropna()) for a in shared}
    with_role = [a for a in shared if roles[a]]
    return sorted(with_role or shared, key=lambda a: ("foreground" not in roles[a], a))


def _shared_contacts(store: Store, cells: tuple[str, ...]) -> str | None:
    """The contacts that every cell type has, if there are such."""
    found = [{node.split("/")[2] for node in store.entries if node.startswith(f"contacts/{cell}/")} for cell in cells]
    shared = sorted(set.intersection(*found)) if found else []
    if len(shared) > 1:
        raise QueryError(f"{store.path} has several contacts: {', '.join(shared)}; choose with data.contacts")
    return shared[0] if shared else None


def _weight(weights: list[str], contacts: str) -> str | None:
    """Without a choice none, with one that; among several VC, which the release uses."""
    if len(weights) > 1 and "VC" not in weights:
        raise QueryError(
            f"contacts {contacts!r} have weights {', '.join(weights)}; choose with data.contact_weight (null = raw)"
        )
    return "VC" if "VC" in weights else next(iter(weights), None)
