"""Integrated gradients of a prediction, a base and a signal (Captum's, with its check of completeness)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from genostore.errors import QueryError
from prism_model.data import Data, Inputs
from prism_model.predict import Predictor

if TYPE_CHECKING:
    from genostore.windows import Windows

Branch = Literal["original", "adjusted"]


@dataclass(frozen=True)
class Reference:
    """What an input is compared with: the path of integration begins there.

    Attributes
    ----------
    sequence
        ``(L, 4)``: a quarter of each base.
    signals
        ``(L, S)``: the mean profile over the training samples; or None.
    features
        ``(F,)``: the mean over the training samples; or None.
    """

    sequence: Tensor
    signals: Tensor | None
    features: Tensor | None

    @classmethod
    def of(cls, data: Data, windows: Windows, batch_size: int = 64) -> Reference:
        """The means over some samples."""
        totals: list[Tensor | None] = [None, None]
        length, n = data.config.width, 0
        for batch in data.loader(windows, batch_size):
            _, signals, features = data.inputs(batch)
            for i, part in enumerate((signals, features)):
                if part is not None:
                    total = totals[i]
                    totals[i] = part.double().sum(0) if total is None else total + part.double().sum(0)
            n += len(batch)
        signals, features = (None if t is None else (t / n).float() for t in totals)
        return cls(torch.full((length, 4), 0.25), signals, features)

    def like(self, inputs: Inputs) -> Inputs:
        """For each sample of a batch."""
        given = (self.sequence, self.signals, self.features)
        made = [
            None if x is None or r is None else r.to(x).expand(len(x), *r.shape)
            for x, r in zip(inputs, given, strict=True)
        ]
        assert made[0] is not None
        return made[0], made[1], made[2]


@dataclass(frozen=True)
class Attribution:
    """Contributions of every number of the inputs to the predictions of a batch.

    Attributes
    ----------
    sequence, signals, features
        In the shapes of the inputs; None where the model has none.
    prediction, reference
        ``(B,)`` of the inputs and of what they were compared with.
    """

    sequence: Tensor
    signals: Tensor | None
    features: Tensor | None
    prediction: Tensor
    reference: Tensor

    @property
    def gap(self) -> Tensor:
        """``(B,)``: what the contributions lack of prediction minus reference; 0 were the integral exact."""
        parts = [p.flatten(1).sum(1) for p in (self.sequence, self.signals, self.features) if p is not None]
        return (self.prediction - self.reference) - torch.stack(parts).sum(0)


def integrated_gradients(
    model: Any, inputs: Inputs, reference: Inputs, *, branch: Branch = "original", steps: int = 64, at_once: int = 64
) -> Attribution:
    """Attribute predictions to their inputs.

    The contribution of an input x against its reference r is ``(x - r)`` times the mean gradient on the straight line
    from r to x (Sundararajan et al. 2017, arXiv 1703.01365), by Gauss-Legendre quadrature.

    Parameters
    ----------
    model
        Called with sequence, signals and features.
    inputs, reference
        Of a batch, in equal shapes.
    branch
        Of the model.
    steps
        Points of the quadrature.
    at_once
        Samples times points in memory at once.

    Returns
    -------
    Attribution
        On the CPU.

    Raises
    ------
    genostore.errors.QueryError
        When the model lacks the branch.
    """
    from captum.attr import IntegratedGradients

    given = [i for i, x in enumerate(inputs) if x is not None]

    def predict(*parts: Tensor) -> Tensor:
        filled: list[Tensor | None] = [None, None, None]
        for i, part in zip(given, parts, strict=True):
            filled[i] = part
        out = getattr(model(*filled), branch)
        if out is None:
            raise QueryError(f"the model has no {branch} branch: it has no contexts")
        # By an input that the model leaves unused autograd would refuse to differentiate.
        return out + 0.0 * torch.stack([part.sum() for part in parts]).sum()

    x = tuple(part for part in inputs if part is not None)
    r = tuple(part for part in reference if part is not None)
    with torch.no_grad():
        prediction, start = predict(*x), predict(*r)
    size = max(at_once, len(x[0]))  # captum takes at least one point of every sample
    found = IntegratedGradients(predict).attribute(
        x, baselines=r, n_steps=steps, method="gausslegendre", internal_batch_size=size
    )
    parts = {given[i]: part.detach().cpu() for i, part in enumerate(found)}
    return Attribution(parts[0], parts.get(1), parts.get(2), prediction.cpu(), start.cpu())


def channel_shares(
    predictor: Predictor, windows: Windows, samples: int, steps: int, branch: Branch = "original"
) -> pd.DataFrame:
    """What each signal, the sequence and each feature contribute to the predictions of some samples.

    Parameters
    ----------
    predictor
        Of a run.
    windows
        Evenly spaced ones of which are taken.
    samples
        How many at most.
    steps
        Of the quadrature.
    branch
        Of the model.

    Returns
    -------
    pandas.DataFrame
        gene, cell_type, input, contribution (summed over positions) and gap (of the sample, see Attribution).
    """
    from prism_model.studies.scoring import reordered

    data = predictor.data
    chosen = reordered(windows, np.unique(np.linspace(0, len(windows) - 1, samples).astype(np.int64)))
    reference = Reference.of(data, data.windows("train"))
    ids, cells = chosen.genes["id"].to_numpy(), chosen.cell_types
    rows: list[pd.DataFrame] = []
    predictor.model.eval()
    for batch in data.loader(chosen, predictor.config.train.batch_size, device=predictor.device):
        inputs = data.inputs(batch)
        found = integrated_gradients(predictor.model, inputs, reference.like(inputs), branch=branch, steps=steps)
        sums = {"sequence": found.sequence.sum((1, 2))}
        if found.signals is not None:
            sums |= {name: found.signals[..., i].sum(1) for i, name in enumerate(data.channels)}
        if found.features is not None:
            sums |= {name: found.features[:, i] for i, name in enumerate(data.features)}
        gene = ids[batch.gene.cpu().numpy()]
        cell = [cells[i] for i in batch.cell_type.cpu().tolist()]
        for name, values in sums.items():
            columns = {"gene": gene, "cell_type": cell, "input": name, "contribution": values.numpy()}
            rows.append(pd.DataFrame(columns | {"gap": found.gap.numpy()}))
    return pd.concat(rows, ignore_index=True)
