"""Why a model predicts what it does for a gene: attribution a base and a signal, and mutagenesis in silico.

Everything here is on the reference strand, in 0-based coordinates of the contig, whatever strand the model read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from genostore.errors import GenostoreError, QueryError
from genostore.genome import Region, window_starts
from genostore.windows import Windows
from prism_model.attribution import Branch, Reference, integrated_gradients

if TYPE_CHECKING:
    from genostore import Batch
    from prism_model.data import Inputs
    from prism_model.predict import Predictor

Floats = NDArray[np.float64]
BASES = "ACGT"


@dataclass(frozen=True)
class Mutagenesis:
    """What every substitution in a region does to the prediction.

    Attributes
    ----------
    start
        Of the region, on the contig.
    effects
        ``(n, 4)`` prediction with A, C, G or T there minus the prediction; 0 for the base that is there, NaN for N.
    """

    start: int
    effects: Floats

    @property
    def importance(self) -> Floats:
        """``(n,)``: what a substitution loses, the mean over the three; above 0 where the base supports expression."""
        lost: Floats = -self.effects.sum(1) / 3
        return lost


@dataclass(frozen=True)
class Explanation:
    """Contributions to one prediction, on the reference strand.

    Attributes
    ----------
    name, gene
        Of the gene or region; the id in the store, None for a region.
    contig, start, end
        The window, cut at the ends of the contig.
    anchor, strand
        The TSS (the middle of a region), and the strand the gene lies on.
    cell_type, branch
        Which prediction.
    codes
        ``(n,)`` uint8 bases.
    sequence
        ``(n,)`` contributions of the bases.
    signals, values
        A signal's contributions, and what the model was given, ``(n,)`` each.
    features
        A gene feature's contribution.
    prediction, reference
        For the inputs, and for what they were compared with.
    gap
        What all contributions lack of ``prediction - reference``.
    observed
        The label; NaN where there is none.
    mutagenesis
        Of a region in the window, or None.
    """

    name: str
    gene: str | None
    contig: str
    start: int
    end: int
    anchor: int
    strand: str
    cell_type: str
    branch: Branch
    codes: NDArray[np.uint8]
    sequence: Floats
    signals: dict[str, Floats]
    values: dict[str, Floats]
    features: dict[str, float]
    prediction: float
    reference: float
    gap: float
    observed: float
    mutagenesis: Mutagenesis | None


def explain(
    predictor: Predictor,
    target: str,
    *,
    cell_type: str | None = None,
    branch: Branch = "original",
    steps: int = 64,
    mutate: str | int = 200,
) -> Explanation:
    """Explain the prediction for a gene or a region.

    Parameters
    ----------
    predictor
        Of a run.
    target
        Id or name of a gene; or a region such as ``chr1:1,000-2,000``, on whose middle the window is centred. A model
        with gene features takes their means over the training samples for a region.
    cell_type
        One of the run's; the first when left out.
    branch
        Of the model.
    steps
        Points of the quadrature; more make ``gap`` smaller.
    mutate
        Region of the mutagenesis, or so many bases about the anchor; 0 = none.

    Returns
    -------
    Explanation
        Signals are compared with their mean profile over the training samples, features with their means, and each
        base with a quarter of all four.

    Raises
    ------
    genostore.errors.NotFoundError
        When the store has no such gene or contig, or the run no such cell type.
    genostore.errors.QueryError
        When the region of the mutagenesis lies outside the window, or the model lacks the branch.
    """
    data = predictor.data
    windows, is_gene = _windows(predictor, target)
    cell = _cell(windows, cell_type)
    row = np.zeros(1, dtype=np.int64)
    sample = Windows(
        windows.store, windows.query, replace(windows.selection, gene=row, cell_type=row + cell), windows.reader
    )
    batch = next(iter(data.loader(sample, 1, device=predictor.device)))
    training = predictor.training_data
    reference = Reference.of(training, training.windows("train"))
    inputs = _inputs(predictor, batch, reference)
    predictor.model.eval()
    found = integrated_gradients(predictor.model, inputs, reference.like(inputs), branch=branch, steps=steps)

    place = _Place.of(sample)
    anchor = int(sample.selection.anchor[0])
    region = _region(predictor, mutate, place, anchor)
    rows = windows.genes
    signals = {} if found.signals is None else place.signals(found.signals[0], data.channels)
    values = {} if inputs[1] is None else place.signals(inputs[1][0], data.channels)
    one_hot = inputs[0][0].cpu().numpy()
    codes = np.where(one_hot.any(1), one_hot.argmax(1), 4).astype(np.uint8)
    features = found.features
    return Explanation(
        name=str(rows["name"].iloc[0] or rows["id"].iloc[0]) if is_gene else target,
        gene=str(rows["id"].iloc[0]) if is_gene else None,
        contig=place.contig,
        start=place.start,
        end=place.end,
        anchor=anchor,
        strand=str(rows["strand"].iloc[0]) if "strand" in rows else ".",
        cell_type=windows.cell_types[cell],
        branch=branch,
        codes=place.bases(codes),
        sequence=place.along(found.sequence[0].sum(-1)),
        signals=signals,
        values=values,
        features={} if features is None else dict(zip(data.features, features[0].tolist(), strict=True)),
        prediction=float(found.prediction[0]),
        reference=float(found.reference[0]),
        gap=float(found.gap[0]),
        observed=float("nan") if batch.target is None else float(batch.target[0]),
        mutagenesis=None if region is None else _mutate(predictor, inputs, branch, place, region),
    )


@dataclass(frozen=True)
class _Place:
    """Where the positions of a window lie on its contig, in the order that the model reads them."""

    contig: str
    first: int  # of the window, which may lie before the contig
    width: int
    length: int  # of the contig
    flipped: bool
    swapped: list[int]  # a channel's partner on the other strand

    @classmethod
    def of(cls, sample: Windows) -> _Place:
        chosen = sample.selection
        contig = next(c for c in sample.store.genome if c.offset == chosen.contig_offset[0])
        first = int(window_starts(chosen.anchor[:1], sample.width)[0])
        flipped = sample.query.orient == "gene" and bool(chosen.minus[0])
        named = {assay: i for i, assay in enumerate(sample.assays)}
        partner = [a[:-1] + {"+": "-", "-": "+"}.get(a[-1], a[-1]) for a in sample.assays]
        swapped = [named.get(other, i) for i, other in enumerate(partner)]
        return cls(contig.name, first, sample.width, contig.length, flipped, swapped)

    @property
    def start(self) -> int:
        return max(self.first, 0)

    @property
    def end(self) -> int:
        return min(self.first + self.width, self.length)

    def along(self, values: Any) -> Floats:
        """``(W, ...)`` of the model onto ``(n, ...)`` of the contig."""
        array = np.asarray(torch.as_tensor(values).cpu(), dtype=np.float64)
        if self.flipped:
            array = array[::-1]
        return array[self.start - self.first : self.end - self.first].copy()

    def bases(self, codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The codes of the reference strand."""
        found = self.along(codes).astype(np.uint8)
        return np.where(found < 4, 3 - found, found).astype(np.uint8) if self.flipped else found

    def signals(self, values: Any, channels: list[str]) -> dict[str, Floats]:
        """A row a channel; tracks of stranded pairs change places where the window was turned."""
        array = self.along(values)
        order = list(range(len(channels)))
        if self.flipped:
            order[: len(self.swapped)] = self.swapped
        return {name: array[:, i] for name, i in zip(channels, order, strict=True)}

    def index(self, position: int) -> int:
        """Of a position of the contig in the model's window."""
        at = position - self.first
        return self.width - 1 - at if self.flipped else at


def _windows(predictor: Predictor, target: str) -> tuple[Windows, bool]:
    """The windows of a gene in every cell type, or of a region."""
    try:
        return predictor.genes([target]), True
    except GenostoreError:
        if ":" not in target:
            raise
    region = predictor.data.store.genome.region(target)
    table = pd.DataFrame({"contig": [region.contig.name], "start": [region.start], "end": [region.end]})
    plain = predictor.data.windows().query
    query = replace(plain, genes=None, regions=table, split=None, fold=None, expression=None, features=None)
    return Windows(predictor.data.store, query), False


def _cell(windows: Windows, cell_type: str | None) -> int:
    if cell_type is None:
        return 0
    if cell_type not in windows.cell_types:
        raise QueryError(f"the run has no cell type {cell_type!r}, only {', '.join(windows.cell_types)}")
    return windows.cell_types.index(cell_type)


def _inputs(predictor: Predictor, batch: Batch, reference: Reference) -> Inputs:
    sequence, signals, features = predictor.data.inputs(batch)
    if features is None and reference.features is not None:
        features = reference.features.to(sequence)[None]
    return sequence, signals, features


def _region(predictor: Predictor, mutate: str | int, place: _Place, anchor: int) -> Region | None:
    """The region to mutate, checked to lie in the window."""
    text = str(mutate)
    if text.isdigit():
        if text == "0":
            return None
        contig = predictor.data.store.genome.resolve(place.contig)
        start = anchor - int(text) // 2
        return Region(contig, max(start, place.start), min(start + int(text), place.end))
    region = predictor.data.store.genome.region(text)
    if region.contig.name != place.contig or region.start < place.start or region.end > place.end or not len(region):
        raise QueryError(
            f"{region} is not in the window, {place.contig}:{place.start}-{place.end}; mutate a part of that"
        )
    return region


def _mutate(predictor: Predictor, inputs: Inputs, branch: Branch, place: _Place, region: Region) -> Mutagenesis:
    """Predict every substitution of a region."""
    sequence, signals, features = inputs
    jobs = [
        (i, base)
        for i, position in enumerate(range(region.start, region.end))
        for base in range(4)
        if sequence[0, place.index(position)].any() and not sequence[0, place.index(position), base]
    ]
    effects = np.full((len(region), 4), np.nan)
    known = [i for i, _ in jobs]
    effects[known] = 0.0
    size = max(predictor.config.train.batch_size, 16)
    with torch.no_grad():
        before = getattr(predictor.model(*inputs), branch)
        for low in range(0, len(jobs), size):
            part = jobs[low : low + size]
            changed = sequence.repeat(len(part), 1, 1)
            for row, (i, base) in enumerate(part):
                at = place.index(region.start + i)
                changed[row, at] = 0.0
                changed[row, at, base] = 1.0
            rest = [None if x is None else x.expand(len(part), *x.shape[1:]) for x in (signals, features)]
            after = getattr(predictor.model(changed, *rest), branch)
            for (i, base), change in zip(part, (after - before).tolist(), strict=True):
                effects[i, 3 - base if place.flipped else base] = change
    return Mutagenesis(region.start, effects)


def mutations(explanation: Explanation) -> pd.DataFrame:
    """One row a substitution: contig, position (0-based), reference, alternative, effect."""
    found = explanation.mutagenesis
    if found is None:
        raise QueryError("nothing was mutated")
    first = found.start - explanation.start
    rows = []
    for i, effects in enumerate(found.effects):
        code = int(explanation.codes[first + i])
        if code > 3:
            continue
        for base in range(4):
            if base != code:
                rows.append((explanation.contig, found.start + i, BASES[code], BASES[base], effects[base]))
    return pd.DataFrame(rows, columns=["contig", "position", "reference", "alternative", "effect"])
