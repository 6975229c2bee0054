"""Ridge regression on a few numbers a window: the mean of each signal, the gene features, the GC content."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genostore.errors import QueryError
from prism_model.models.base import ModelConfig
from prism_model.prism import PrismOutput


@dataclass(frozen=True)
class RidgeConfig(ModelConfig):
    """Its penalties, of which leave-one-out on the training samples picks the best."""

    name: str = "ridge"
    penalties: tuple[float, ...] = tuple(float(f"{p:.6g}") for p in np.logspace(-3, 4, 15))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.penalties or min(self.penalties) <= 0:
            raise QueryError(f"model.penalties are {self.penalties}, expected one or more positive numbers")


class Ridge(nn.Module):
    """A linear model of :func:`summaries`, solved in closed form; see :class:`RidgeConfig`."""

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, config: RidgeConfig) -> None:
        super().__init__()
        self.config = config
        size = 1 + config.signal_size + config.feature_size
        for name, start in (("mean", 0.0), ("scale", 1.0), ("weight", 0.0)):
            self.register_buffer(name, torch.full((size,), start, dtype=torch.float64))
        self.register_buffer("bias", torch.zeros((), dtype=torch.float64))

    def forward(self, sequence: Tensor, signals: Tensor | None = None, features: Tensor | None = None) -> PrismOutput:
        """Predict; inputs as :meth:`prism_model.Prism.forward` takes them."""
        x = summaries(sequence, signals, features)
        if x.shape[1] != len(self.weight):
            c = self.config
            raise QueryError(
                f"the model ridge was made for {c.signal_size} signals and {c.feature_size} features, and is given "
                f"{x.shape[1] - 1} in all"
            )
        return PrismOutput(((x - self.mean) / self.scale @ self.weight + self.bias).float(), None, None)

    def solve(self, samples: Iterable[tuple[tuple[Tensor, Tensor | None, Tensor | None], Tensor]]) -> float:
        """Set the weights from training samples.

        Parameters
        ----------
        samples
            Batches of inputs and their targets.

        Returns
        -------
        float
            The penalty that was chosen.
        """
        from sklearn.linear_model import RidgeCV
        from sklearn.preprocessing import StandardScaler

        pairs = [(summaries(*inputs).cpu(), target.double().cpu()) for inputs, target in samples]
        scaler = StandardScaler()
        x: NDArray[np.float64] = scaler.fit_transform(torch.cat([row for row, _ in pairs]).numpy())
        fit = RidgeCV(self.config.penalties).fit(x, torch.cat([target for _, target in pairs]).numpy())
        for name, value in (
            ("mean", scaler.mean_),
            ("scale", scaler.scale_),
            ("weight", fit.coef_),
            ("bias", fit.intercept_),
        ):
            buffer = getattr(self, name)
            buffer.copy_(torch.as_tensor(value, dtype=torch.float64).reshape(buffer.shape))
        return float(fit.alpha_)


def summaries(sequence: Tensor, signals: Tensor | None, features: Tensor | None) -> Tensor:
    """A few numbers a sample.

    Returns
    -------
    Tensor
        ``(B, 1 + S + F)`` float64: the share of G and C, ``sign(m) log(1 + |m|)`` of each signal's mean, the features.
    """
    parts = [sequence[..., 1:3].sum(-1).double().mean(1, keepdim=True)]
    if signals is not None:
        mean = signals.double().mean(1)
        parts.append(mean.sign() * mean.abs().log1p())
    if features is not None:
        parts.append(features.double())
    return torch.cat(parts, dim=1)
