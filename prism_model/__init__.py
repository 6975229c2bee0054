"""Prism: a confounder encoder and a backdoor-adjusted predictor of gene expression.

The names here are loaded when they are first used, so that importing the package does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prism_model.hic import hic_profile, signals
    from prism_model.losses import LossTerms, prism_loss
    from prism_model.prism import Prism, PrismConfig, PrismOutput
    from prism_model.scan import selective_scan

_HOMES = {
    "LossTerms": "losses",
    "Prism": "prism",
    "PrismConfig": "prism",
    "PrismOutput": "prism",
    "hic_profile": "hic",
    "prism_loss": "losses",
    "selective_scan": "scan",
    "signals": "hic",
}

__all__ = [
    "LossTerms",
    "Prism",
    "PrismConfig",
    "PrismOutput",
    "hic_profile",
    "prism_loss",
    "selective_scan",
    "signals",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its module."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
