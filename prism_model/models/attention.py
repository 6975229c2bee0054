"""Convolutions that halve the length, then transformer blocks over the bins: Enformer's plan at a small size.

(Avsec et al., "Effective gene expression prediction from sequence by integrating long-range interactions", 2021.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genostore.errors import QueryError
from prism_model.adjustment import predict
from prism_model.models.base import ModelConfig
from prism_model.models.parts import central_mean, channels_first, head
from prism_model.prism import PrismOutput


@dataclass(frozen=True)
class AttentionConfig(ModelConfig):
    """Its sizes."""

    name: str = "attention"
    d_model: int = 64
    n_layer: int = 2
    """Transformer blocks."""
    n_head: int = 4
    n_halving: int = 4
    """Convolutions before them; each halves the length."""
    kernel: int = 15
    """Width of the first convolution, in bases."""
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(1, "d_model", "n_layer", "n_head", "n_halving", "kernel")
        if self.d_model % (2 * self.n_head):
            raise QueryError(f"model.d_model is {self.d_model}, no multiple of twice n_head, {2 * self.n_head}")


class Attention(nn.Module):
    """The network; see :class:`AttentionConfig`."""

    def __init__(self, config: AttentionConfig) -> None:
        super().__init__()
        self.config = c = config
        layers: list[nn.Module] = [nn.Conv1d(4 + c.signal_size, c.d_model, c.kernel, padding="same")]
        for _ in range(c.n_halving - 1):
            layers += [Halve(c.d_model), nn.Conv1d(c.d_model, c.d_model, 5, padding=2)]
        self.convolutions = nn.Sequential(*layers, Halve(c.d_model))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                c.d_model, c.n_head, 2 * c.d_model, c.dropout, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(c.n_layer)
        )
        self.norm = nn.LayerNorm(c.d_model)
        self.head = head(c.d_model, c.feature_size)

    def forward(self, sequence: Tensor, signals: Tensor | None = None, features: Tensor | None = None) -> PrismOutput:
        """Predict; inputs as :meth:`prism_model.Prism.forward` takes them."""
        c = self.config
        x = self.convolutions(channels_first(c, sequence, signals, features)).transpose(1, 2)  # (B, bins, d)
        x = x + distances(x.shape[1], c.d_model, x.device).to(x)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x).transpose(1, 2)
        pooled = central_mean(x, 2**c.n_halving, sequence.shape[1], c.center_length)
        return PrismOutput(predict(self.head, pooled, features), None, None)


class Halve(nn.Module):
    """Normalise, rectify, keep the larger of two neighbours."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, d, n)`` to ``(B, d, ceil(n / 2))``."""
        return F.max_pool1d(F.gelu(self.norm(x)), 2, ceil_mode=True)


def distances(bins: int, width: int, device: torch.device) -> Tensor:
    """Sines and cosines of each bin's distance from the centre, ``(bins, width)``; any length can be asked for."""
    at = torch.arange(bins, device=device)[:, None] - (bins - 1) / 2
    rate = torch.exp(torch.arange(0, width, 2, device=device) * (-math.log(10_000.0) / width))
    return torch.cat([torch.sin(at * rate), torch.cos(at * rate)], dim=1)
