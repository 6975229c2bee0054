"""The confounder encoder: what background chromatin state the signals of a window speak of."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genostore.errors import QueryError

ACTIVATIONS = ("sigmoid", "softmax")


class Convolution(nn.Conv1d):
    """A convolution with zeros beyond both ends; on a processor as a product, whose gradient is quicker there.

    Of three channels, forward and backward, oneDNN takes 8 ms, a product 0.4.
    """

    def __init__(self, before: int, after: int, kernel: int) -> None:
        super().__init__(before, after, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``(B, before, L)`` to ``(B, after, L)``."""
        if x.device.type != "cpu":
            return super().forward(x)
        kernel = self.kernel_size[0]
        padded = F.pad(x, (kernel // 2, kernel // 2))
        seen = padded.unfold(-1, kernel, 1).transpose(1, 2).flatten(2)  # (B, L, before * kernel)
        return F.linear(seen, self.weight.flatten(1), self.bias).transpose(1, 2)


class ConfounderEncoder(nn.Module):
    """Turn the signals of a window into ``n_context`` vectors, one a hypothetical background state.

    Three rounds of convolution, batch normalisation, ReLU and pooling by 4, the mean over the length, and a
    linear layer into ``d_model * n_context`` numbers.

    Parameters
    ----------
    signal_size
        Channels that the encoder sees.
    d_model, n_context
        Length and number of the context vectors.
    width
        Channels of the first convolution; the next two have twice and four times as many.
    activation
        ``"sigmoid"``, or ``"softmax"`` over the entries of each vector.
    """

    pooled = 4**3
    """Shortest window, in positions: below it the pooling leaves nothing."""

    def __init__(
        self, signal_size: int, d_model: int, n_context: int, *, width: int = 8, activation: str = "sigmoid"
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise QueryError(f"context activation {activation!r} is none of {', '.join(ACTIVATIONS)}")
        self.shape = (d_model, n_context)
        self.activation = activation
        layers: list[nn.Module] = []
        sizes = (signal_size, width, 2 * width, 4 * width)
        for before, after, kernel in zip(sizes, sizes[1:], (7, 5, 3), strict=False):
            layers += [
                Convolution(before, after, kernel),
                nn.BatchNorm1d(after),
                nn.ReLU(),
                nn.MaxPool1d(4),
            ]
        self.convolutions = nn.Sequential(*layers)
        self.projection = nn.Linear(4 * width, d_model * n_context)

    def forward(self, signals: Tensor) -> Tensor:
        """Encode.

        Parameters
        ----------
        signals
            ``(B, L, signal_size)``.

        Returns
        -------
        Tensor
            Contexts, ``(B, d_model, n_context)``.

        Raises
        ------
        genostore.errors.QueryError
            When the window is shorter than ``pooled`` positions.
        """
        if signals.shape[1] < self.pooled:
            raise QueryError(
                f"the confounder encoder pools {self.pooled} positions into one; "
                f"a window of {signals.shape[1]} is too short for it"
            )
        pooled = self.convolutions(signals.transpose(1, 2)).mean(-1)  # (B, 4 * width)
        raw = self.projection(pooled).float().unflatten(-1, self.shape)
        return torch.sigmoid(raw) if self.activation == "sigmoid" else torch.softmax(raw, dim=1)
