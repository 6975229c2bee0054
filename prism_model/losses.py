"""Prism's objective, term by term."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from prism_model.prism import PrismOutput


class LossTerms(NamedTuple):
    """The terms of the objective, unweighted, and their weighted sum; scalars.

    A model without contexts has neither ``intervention`` nor ``uniformity``.
    """

    prediction: Tensor
    intervention: Tensor | None
    uniformity: Tensor | None
    total: Tensor


def prism_loss(
    out: PrismOutput, target: Tensor, alpha: float = 1.0, beta: float = 1.0, temperature: float = 2.0
) -> LossTerms:
    """Loss of both branches and the uniformity of the contexts.

    ``total = prediction + alpha * intervention + beta * uniformity``.

    Parameters
    ----------
    out
        Both branches.
    target
        ``(B,)``.
    alpha, beta
        Weights of the adjusted branch and of the uniformity; the architecture does not depend on them.
    temperature
        ``t`` of the uniformity.

    Returns
    -------
    LossTerms
        Smooth-L1 losses of the branches, and :func:`uniformity`.

    Raises
    ------
    ValueError
        When shapes differ or the original branch was not computed.
    """
    if out.original is None or (out.contexts is not None and out.adjusted is None):
        raise ValueError("the loss needs both branches: call the model with branches='both'")
    if target.shape != out.original.shape:
        raise ValueError(f"target has shape {tuple(target.shape)}, predictions {tuple(out.original.shape)}")
    prediction = total = F.smooth_l1_loss(out.original, target)
    intervention = spread = None
    if out.adjusted is not None and out.contexts is not None:
        intervention = F.smooth_l1_loss(out.adjusted, target)
        spread = uniformity(out.contexts, temperature)
        total = prediction + alpha * intervention + beta * spread
    return LossTerms(prediction, intervention, spread, total)


def uniformity(contexts: Tensor, temperature: float = 2.0) -> Tensor:
    """How close the contexts of a sample lie to one another; small when they spread over the sphere.

    ``mean over the batch of log sum_ij exp(2 t (a_i . a_j) - 2 t)``, the contexts normalised, ``i = j`` included:
    the Gaussian potential of Wang and Isola (arXiv 2005.10242).

    Parameters
    ----------
    contexts
        ``(B, d, n)``.
    temperature
        ``t``.

    Returns
    -------
    Tensor
        A scalar.
    """
    unit = contexts / (contexts.norm(dim=1, keepdim=True) + 1e-8)
    cosine = unit.transpose(1, 2) @ unit  # (B, n, n)
    return torch.logsumexp((2 * temperature * (cosine - 1)).flatten(1), dim=1).mean()
