"""Predictions of a run on changed inputs: windows cut shorter, signals taken away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from genostore.windows import Windows
from prism_model.data import Data, Inputs
from prism_model.predict import Predictor

if TYPE_CHECKING:
    from genostore import Batch

Change = Callable[[Inputs], Inputs]
PairChange = Callable[[Inputs, Inputs], Inputs]


def predictions(
    predictor: Predictor,
    windows: Windows,
    change: Change | None = None,
    *,
    partners: Windows | None = None,
    exchange: PairChange | None = None,
) -> pd.DataFrame:
    """Predict all samples of a query from inputs that were changed first.

    Parameters
    ----------
    predictor
        Of the run.
    windows
        Samples.
    change
        Of a batch's inputs; None for none.
    partners
        As many samples, one for each of ``windows``, from which ``exchange`` takes parts.
    exchange
        Of a batch's inputs and those of its partners.

    Returns
    -------
    pandas.DataFrame
        gene, cell_type, observed, original and, for a model with contexts, adjusted.
    """
    data, size = predictor.data, predictor.config.train.batch_size
    loader = data.loader(windows, size, device=predictor.device)
    others: Iterator[Batch | None] = iter(lambda: None, 0)
    if partners is not None:
        others = iter(data.loader(partners, size, device=predictor.device))
    rows: list[pd.DataFrame] = []
    genes, cells = windows.genes["id"].to_numpy(), np.asarray(windows.cell_types, dtype=object)
    predictor.model.eval()
    with torch.no_grad():
        for batch, other in zip(loader, others, strict=partners is not None):
            inputs = data.inputs(batch)
            if other is not None and exchange is not None:
                inputs = exchange(inputs, data.inputs(other))
            if change is not None:
                inputs = change(inputs)
            out = predictor.model(*inputs)
            columns: dict[str, Any] = {
                "gene": genes[batch.gene.cpu().numpy()],
                "cell_type": cells[batch.cell_type.cpu().numpy()],
                "observed": batch.target.cpu().numpy(),
                "original": out.original.cpu().numpy(),
            }
            if out.adjusted is not None:
                columns["adjusted"] = out.adjusted.cpu().numpy()
            rows.append(pd.DataFrame(columns))
    return pd.concat(rows, ignore_index=True)


def shuffled(windows: Windows, seed: int) -> Windows:
    """The samples in another order within each cell type, so that each gets another gene's as its partner."""
    chosen = windows.selection
    order = np.arange(len(windows))
    rng = np.random.default_rng(seed)
    for cell in np.unique(chosen.cell_type):
        mine = np.flatnonzero(chosen.cell_type == cell)
        order[mine] = mine[_derangement(rng, len(mine))]
    return reordered(windows, order)


def drawn(windows: Windows, like: Windows, seed: int) -> Windows:
    """A random sample of ``windows`` for each of ``like``, of the same cell type."""
    ours, theirs = windows.selection.cell_type, like.selection.cell_type
    order = np.empty(len(like), dtype=np.int64)
    rng = np.random.default_rng(seed)
    for cell in np.unique(theirs):
        mine = np.flatnonzero(theirs == cell)
        order[mine] = rng.choice(np.flatnonzero(ours == cell), len(mine))
    return reordered(windows, order)


def reordered(windows: Windows, order: NDArray[np.int64]) -> Windows:
    """Some samples in a given order; repeats are allowed."""
    chosen = windows.selection
    selection = replace(chosen, gene=chosen.gene[order], cell_type=chosen.cell_type[order])
    return Windows(windows.store, windows.query, selection, windows.reader)


def _derangement(rng: np.random.Generator, n: int) -> NDArray[np.int64]:
    """A random order in which, but for n = 1, nothing keeps its place: one cycle through all."""
    cycle = rng.permutation(n)
    order = np.empty(n, dtype=np.int64)
    order[cycle] = np.roll(cycle, -1)
    return order


def without(channels: tuple[int, ...], fill: Tensor | None = None) -> Change:
    """Take signals away: zero in their place, or ``fill`` ``(L, S)``."""

    def change(inputs: Inputs) -> Inputs:
        sequence, signals, features = inputs
        assert signals is not None
        changed = signals.clone()
        changed[..., list(channels)] = 0.0 if fill is None else fill.to(signals)[:, list(channels)]
        return sequence, changed, features

    return change


def exchanged(channels: tuple[int, ...]) -> PairChange:
    """Take signals of the partner in place of a sample's own."""

    def change(inputs: Inputs, partner: Inputs) -> Inputs:
        sequence, signals, features = inputs
        assert signals is not None
        assert partner[1] is not None
        changed = signals.clone()
        changed[..., list(channels)] = partner[1][..., list(channels)]
        return sequence, changed, features

    return change


def centred(length: int) -> Change:
    """Cut the central ``length`` positions out of a window."""

    def change(inputs: Inputs) -> Inputs:
        sequence, signals, features = inputs
        start = (sequence.shape[1] - length) // 2
        part = slice(start, start + length)
        return sequence[:, part], None if signals is None else signals[:, part], features

    return change


@contextmanager
def pooled_over(model: Any, length: int) -> Iterator[None]:
    """Let a model average at most ``length`` central positions, for a while."""
    before = model.config
    model.config = replace(before, center_length=min(before.center_length, length))
    try:
        yield
    finally:
        model.config = before


def mean_profile(data: Data, windows: Windows, batch_size: int = 64) -> Tensor:
    """The mean of each signal at each position of the window, over the samples: ``(L, S)`` float32."""
    total, n = None, 0
    for batch in data.loader(windows, batch_size):
        _, signals, _ = data.inputs(batch)
        assert signals is not None
        part = signals.double().sum(0)
        total = part if total is None else total + part
        n += len(batch)
    assert total is not None
    return (total / n).float()
