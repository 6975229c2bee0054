"""A convolutional network: a wide first layer, then dilated residual layers, as BPNet has them.

(Avsec et al., "Base-resolution models of transcription-factor binding reveal soft motif syntax", 2021.)
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from prism_model.adjustment import predict
from prism_model.models.base import ModelConfig
from prism_model.models.parts import central_mean, channels_first, head
from prism_model.prism import PrismOutput


@dataclass(frozen=True)
class CnnConfig(ModelConfig):
    """Its sizes."""

    name: str = "cnn"
    d_model: int = 64
    """Channels."""
    n_layer: int = 6
    """Residual layers; the dilation doubles with each."""
    kernel: int = 15
    """Width of the first layer, in bases."""
    pool: int = 4
    """Bases a bin behind the first layer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(1, "d_model", "n_layer", "kernel", "pool")


class Residual(nn.Module):
    """Normalise, rectify, convolve with holes, add."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width)
        self.convolution = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, d, bins)`` to the same."""
        out: Tensor = x + self.convolution(F.relu(self.norm(x)))
        return out


class Cnn(nn.Module):
    """The network; see :class:`CnnConfig`."""

    def __init__(self, config: CnnConfig) -> None:
        super().__init__()
        self.config = c = config
        self.stem = nn.Conv1d(4 + c.signal_size, c.d_model, c.kernel, padding="same")
        self.layers = nn.Sequential(*(Residual(c.d_model, 2**i) for i in range(c.n_layer)))
        self.norm = nn.BatchNorm1d(c.d_model)
        self.head = head(c.d_model, c.feature_size)

    def forward(self, sequence: Tensor, signals: Tensor | None = None, features: Tensor | None = None) -> PrismOutput:
        """Predict; inputs as :meth:`prism_model.Prism.forward` takes them."""
        c = self.config
        x = self.stem(channels_first(c, sequence, signals, features))  # (B, d, L)
        x = F.max_pool1d(F.relu(x), c.pool, ceil_mode=True)
        x = F.relu(self.norm(self.layers(x)))  # (B, d, bins)
        pooled = central_mean(x, c.pool, sequence.shape[1], c.center_length)
        return PrismOutput(predict(self.head, pooled, features), None, None)
