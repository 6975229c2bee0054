"""The state space models that Prism is measured against: its own backbone and head, without contexts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from prism_model.adjustment import Averaging
from prism_model.prism import PrismConfig


@dataclass(frozen=True)
class CaduceusSignalsConfig(PrismConfig):
    """Prism with n = 0: what a window shows is taken as it is."""

    name: str = "caduceus-signals"
    n_context: int = field(default=0, init=False)
    context_activation: str = field(default="sigmoid", init=False)
    encoder_width: int = field(default=8, init=False)
    encoder_signals: Literal["all", "background"] | tuple[int, ...] = field(default="all", init=False)
    averaging: Averaging = field(default="hidden", init=False)
    bidirectional: bool = field(default=True, init=False)


@dataclass(frozen=True)
class CaduceusConfig(CaduceusSignalsConfig):
    """Sequence alone, beside the gene features."""

    takes_signals = False
    name: str = "caduceus"
    signal_size: int = 0


@dataclass(frozen=True)
class MambaConfig(CaduceusSignalsConfig):
    """One direction; with the signals that the data give (``data.assays=[] data.contacts=null``: sequence alone)."""

    name: str = "mamba"
    bidirectional: bool = field(default=False, init=False)
