"""What several architectures are made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genostore.errors import QueryError
from prism_model.models.base import ModelConfig


def head(width: int, feature_size: int) -> nn.Sequential:
    """From a pooled hidden state and the gene features to a prediction, as Prism has it; biases start at 0."""
    layers = [nn.Linear(width + feature_size, width), nn.Linear(width, width), nn.Linear(width, 1)]
    for layer in layers:
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])


def channels_first(config: ModelConfig, sequence: Tensor, signals: Tensor | None, features: Tensor | None) -> Tensor:
    """Sequence and signals side by side, ``(B, 4 + S, L)``.

    Raises
    ------
    genostore.errors.QueryError
        When the inputs are not those the model was made for.
    """
    got = (0 if signals is None else signals.shape[-1], 0 if features is None else features.shape[-1])
    if got != (config.signal_size, config.feature_size):
        raise QueryError(
            f"the model {config.name} was made for {config.signal_size} signals and {config.feature_size} features, "
            f"and is given {got[0]} and {got[1]}"
        )
    if sequence.shape[1] < config.center_length:
        raise QueryError(
            f"the window has {sequence.shape[1]} positions, fewer than the {config.center_length} central ones that "
            f"the model averages (center_length)"
        )
    together = sequence if signals is None else torch.cat([sequence, signals], dim=-1)
    return together.transpose(1, 2)


def central_mean(hidden: Tensor, pool: int, length: int, center: int) -> Tensor:
    """Mean over the bins that hold the central positions: ``(B, d, L // pool)`` to ``(B, d)``, float32.

    Parameters
    ----------
    hidden
        One column a bin.
    pool
        Positions a bin.
    length, center
        Of the window and of its centre, in positions.
    """
    start = (length - center) // 2
    first, last = start // pool, -(-(start + center) // pool)
    return hidden[..., first:last].float().mean(-1)
