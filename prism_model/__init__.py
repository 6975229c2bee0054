"""Prism: a confounder encoder and a backdoor-adjusted predictor of gene expression.

The names here are loaded when they are first used, so that importing the package does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prism_model.config import RunConfig, make_config
    from prism_model.hic import hic_profile, signals
    from prism_model.losses import LossTerms, prism_loss
    from prism_model.models.base import ModelConfig
    from prism_model.models.registry import build, register
    from prism_model.predict import Predictor
    from prism_model.prism import Prism, PrismConfig, PrismOutput
    from prism_model.scan import selective_scan
    from prism_model.train import fit

_HOMES = {
    "LossTerms": "losses",
    "ModelConfig": "models.base",
    "Predictor": "predict",
    "Prism": "prism",
    "PrismConfig": "prism",
    "PrismOutput": "prism",
    "RunConfig": "config",
    "build": "models.registry",
    "fit": "train",
    "hic_profile": "hic",
    "make_config": "config",
    "prism_loss": "losses",
    "register": "models.registry",
    "selective_scan": "scan",
    "signals": "hic",
}

__all__ = [
    "LossTerms",
    "ModelConfig",
    "Predictor",
    "Prism",
    "PrismConfig",
    "PrismOutput",
    "RunConfig",
    "build",
    "fit",
    "hic_profile",
    "make_config",
    "prism_loss",
    "register",
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
