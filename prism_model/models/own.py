"""A module of the user's own, made to look like the registered ones."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from genostore import Batch
from genostore.errors import QueryError
from prism_model.models.base import ModelConfig
from prism_model.prism import PrismOutput

INPUTS = ("sequence", "signals", "features", "batch")


@dataclass(frozen=True)
class OwnConfig(ModelConfig):
    """What a run records of a module that is not in the registry."""

    name: str = "own"
    module: str = ""
    """Name of its class."""

    @property
    def adjusts(self) -> bool:
        """It may: what it gives will tell."""
        return True


class Own(nn.Module):
    """Calls a module with the inputs that its ``forward`` names.

    Parameters
    ----------
    module
        Its ``forward`` takes some of ``sequence`` (B, L, 4), ``signals`` (B, L, S), ``features`` (B, F) and ``batch``
        (the whole ``genostore.Batch`` of torch tensors), by these names, and gives ``(B,)``, ``(B, 1)`` or a
        ``PrismOutput``. Signals and features that the data lack are of size 0.
    config
        Of the run.

    Raises
    ------
    genostore.errors.QueryError
        When ``forward`` needs something else.
    """

    def __init__(self, module: nn.Module, config: ModelConfig | None = None) -> None:
        super().__init__()
        self.module = module
        self.config: ModelConfig = config or OwnConfig(module=type(module).__name__)
        parameters = inspect.signature(module.forward).parameters.values()
        self.takes = [p.name for p in parameters if p.name in INPUTS]
        strange = [
            p.name
            for p in parameters
            if p.name not in INPUTS and p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        ]
        if strange or not self.takes:
            raise QueryError(
                f"{type(module).__name__}.forward takes {', '.join(p.name for p in parameters) or 'nothing'}; a model "
                f"is given its inputs by name, some of {', '.join(INPUTS)}"
            )

    def forward(
        self,
        sequence: Tensor,
        signals: Tensor | None = None,
        features: Tensor | None = None,
        batch: Batch | None = None,
    ) -> PrismOutput:
        """Predict.

        Raises
        ------
        genostore.errors.QueryError
            When the module gives something else than a prediction a sample.
        """
        if "batch" in self.takes and batch is None:
            raise QueryError(f"{type(self.module).__name__} takes the whole batch: give batch= too")
        given: dict[str, Any] = {
            "sequence": sequence,
            "signals": sequence[..., :0] if signals is None else signals,
            "features": sequence[:, 0, :0] if features is None else features,
            "batch": batch,
        }
        out = self.module(**{name: given[name] for name in self.takes})
        if isinstance(out, PrismOutput):
            return out
        size = len(sequence)
        if not isinstance(out, Tensor) or out.shape not in ((size,), (size, 1)):
            got = tuple(out.shape) if isinstance(out, Tensor) else f"a {type(out).__name__}"
            raise QueryError(
                f"{type(self.module).__name__} gives {got} for {size} samples, expected ({size},), ({size}, 1) or a "
                f"PrismOutput: one prediction a sample"
            )
        return PrismOutput(out.reshape(size).float(), None, None)


def run_model(model: nn.Module, inputs: tuple[Any, ...], batch: Batch) -> PrismOutput:
    """Call any model on a batch: with its inputs, and with the batch itself where it takes that."""
    options = {"batch": batch} if "batch" in getattr(model, "takes", ()) else {}
    out: PrismOutput = model(*inputs, **options)
    return out
