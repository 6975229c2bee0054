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


def weighted_copies(sequence: Tensor, signals: Tensor, contexts: Tensor | None, branches: Branches = "both") -> Tensor:
    """Lay the copies of a batch one after the other.

    Parameters
    ----------
    sequence, signals
        Embeddings, ``(B, L, d)``.
    contexts
        ``(B, d, n)``; None = the original alone.
    branches
        ``"original"`` or ``"adjusted"`` leaves out the copies that only the other branch needs.

    Returns
    -------
    Tensor
        ``(copies * B, L, d)``: all of copy 0 (unless ``branches`` is ``"adjusted"``), then of copy 1, ...
    """
    weights = torch.ones_like(signals[None, :, 0])
    if contexts is not None and branches != "original":
        others = contexts.to(signals).movedim(-1, 0)  # (n, B, d)
        weights = others if branches == "adjusted" else torch.cat([weights, others])
    return torch.addcmul(sequence, signals, weights[:, :, None]).flatten(0, 1)


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
