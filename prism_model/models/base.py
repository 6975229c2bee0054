"""What the settings of all architectures share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from genostore.errors import QueryError


@dataclass(frozen=True)
class ModelConfig:
    """Settings of an architecture; each has a subclass of its own, chosen by ``name``."""

    takes_signals: ClassVar[bool] = True
    """Whether the architecture has an input for signals; without one the query leaves them out."""

    name: str = "prism"
    """In the registry."""
    signal_size: int = 3
    """Signal channels; 0 = sequence alone."""
    feature_size: int = 9
    """Gene features joined to the pooled hidden state."""
    center_length: int = 2_000
    """Positions around the centre that are averaged; at most the window."""

    def __post_init__(self) -> None:
        self.require(1, "center_length")
        self.require(0, "signal_size", "feature_size")

    @property
    def adjusts(self) -> bool:
        """Whether the model has an adjusted branch beside the original one."""
        return False

    def require(self, least: int, *names: str) -> None:
        """Raise QueryError unless all of these settings are so large."""
        for name in names:
            if getattr(self, name) < least:
                raise QueryError(
                    f"model.{name} must {'be positive' if least else 'not be negative'}, not {getattr(self, name)}"
                )

    def fitted(self, channels: Sequence[str], roles: Sequence[str | None], features: int, width: int) -> Self:
        """The settings with what the data decide filled in.

        Parameters
        ----------
        channels, roles
            Names of the signals, and ``foreground``, ``background`` or None for each.
        features
            Number of gene features.
        width
            Of the windows, in bases.
        """
        return replace(
            self,
            signal_size=len(channels),
            feature_size=features,
            center_length=min(self.center_length, width),
        )

    @classmethod
    def settings_class(cls, plain: Mapping[str, Any]) -> type[ModelConfig]:
        """The class that reads some settings: this one, or for the base the one that their name names."""
        if cls is not ModelConfig:
            return cls
        from prism_model.models.registry import config_class

        return config_class(str(plain.get("name", "prism")))
