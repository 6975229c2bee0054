"""The backdoor adjustment: one prediction averaged over hypothetical background states.

``P(Y | do(X)) = sum over b of P(Y | X, b) P(b)`` with the contexts ``b`` equally likely. Copy 0 of an input is what
was observed; copy ``i`` has its signal embedding weighted by context ``i``. All copies go through one backbone.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Averaging = Literal["hidden", "prediction"]
Branches = Literal["both", "original", "adjusted"]


def embedded_copies(
    sequence: Tensor,
    signals: Tensor,
    sequence_in: nn.Linear,
    signal_in: nn.Linear,
    contexts: Tensor | None,
    branches: Branches = "both",
) -> Tensor:
    """Embed a batch and lay its copies one after the other.

    A copy is ``sequence_in(sequence) + weights * signal_in(signals)`` with the same weights at all positions. So these
    go into the matrices: a copy is one product of bases, signals and a one, and no tensor of embeddings is written,
    nor one of their gradients.

    Parameters
    ----------
    sequence, signals
        ``(B, L, 4)`` and ``(B, L, S)``.
    sequence_in, signal_in
        What embeds them in ``d`` numbers.
    contexts
        ``(B, d, n)``; None = the original alone.
    branches
        ``"original"`` or ``"adjusted"`` leaves out the copies that only the other branch needs.

    Returns
    -------
    Tensor
        ``(copies * B, L, d)``: all of copy 0 (unless ``branches`` is ``"adjusted"``), then of copy 1, ...
    """
    batch, bases = len(sequence), sequence_in.weight.t()
    weights = bases.new_ones(1, batch, 1, bases.shape[1])  # (copies, B, 1, d)
    if contexts is not None and branches != "original":
        others = contexts.to(weights).movedim(-1, 0)[:, :, None]
        weights = others if branches == "adjusted" else torch.cat([weights, others])
    bases = bases.expand(*weights.shape[:2], *bases.shape)
    matrices = torch.cat([bases, weights * signal_in.weight.t(), sequence_in.bias + weights * signal_in.bias], dim=2)
    seen = torch.cat([sequence, signals, sequence.new_ones(*sequence.shape[:2], 1)], dim=-1)
    return torch.matmul(seen, matrices).flatten(0, 1)


def adjusted_prediction(head: nn.Module, pooled: Tensor, features: Tensor | None, averaging: Averaging) -> Tensor:
    """Average over the contexts.

    Parameters
    ----------
    head
        Maps ``(..., d + F)`` to ``(..., 1)``.
    pooled
        Hidden states of copies 1..n, averaged over positions, ``(n, B, d)``.
    features
        ``(B, F)`` or None.
    averaging
        ``"hidden"``: the head on the mean hidden state, as the released code does;
        ``"prediction"``: the mean of the head's predictions, as the paper writes.

    Returns
    -------
    Tensor
        ``(B,)``.
    """
    if averaging == "hidden":
        return predict(head, pooled.mean(0), features)
    return predict(head, pooled, None if features is None else features.expand(len(pooled), -1, -1)).mean(0)


def predict(head: nn.Module, pooled: Tensor, features: Tensor | None) -> Tensor:
    """The head on a pooled hidden state ``(..., d)`` beside the features ``(..., F)``: ``(...)``, float32."""
    joined = pooled if features is None else torch.cat([pooled, features.to(pooled)], dim=-1)
    prediction: Tensor = head(joined)
    return prediction.squeeze(-1).float()
