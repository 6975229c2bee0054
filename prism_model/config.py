"""What a run is made of: data, architecture, loss and training, with named recipes as starting points."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from genostore.errors import NotFoundError, nearest
from prism_model.models.base import ModelConfig
from prism_model.prism import PrismConfig
from prism_model.settings import from_plain, merge, parse_overrides, read_yaml, to_plain, within


@dataclass(frozen=True)
class DataConfig:
    """Which windows of which store. ``None`` and ``"auto"`` are resolved from the store and written back."""

    store: str = ""
    cell_types: tuple[str, ...] | None = None
    """None = all."""
    assays: tuple[str, ...] | None = None
    """Tracks in the order of the channels; None = all that every cell type has; [] = sequence alone."""
    contacts: str | None = "auto"
    """Assay of the Hi-C signal; "auto" = the one there is; None = no Hi-C signal."""
    contact_bin_size: int | None = None
    contact_weight: str | None = "auto"
    """Balancing; "auto" = the one there is, or VC among several; None = raw counts."""
    features: tuple[str, ...] | None = None
    """Gene features; None = all; [] = none."""
    expression: str | None = None
    """Assay to predict; None = the one there is, CAGE among several."""
    fold: str | None = None
    """Column of the split; None = the one there is, the published fold_11 among several."""
    width: int = 2_000
    jitter: int = 0
    """Greatest random shift of training windows, in bases."""
    orient: Literal["reference", "gene"] = "reference"
    exclude: str | None = None
    """Set of regions whose genes are left out."""
    transform: Literal["none", "log1p"] = "none"
    """Of the tracks' values before they enter a model."""

    def __post_init__(self) -> None:
        within(self, width=">= 1", jitter=">= 0", contact_bin_size=">= 1")
        if self.cell_types is not None and not self.cell_types:
            raise ValueError("cell_types are none; name some, or leave them out for all")


@dataclass(frozen=True)
class LossConfig:
    """Weights of the loss; the architecture does not depend on them."""

    alpha: float = 1.0
    """Of the adjusted branch."""
    beta: float = 1.0
    """Of the contexts' uniformity."""
    temperature: float = 2.0
    """Of the uniformity."""

    def __post_init__(self) -> None:
        within(self, alpha=">= 0", beta=">= 0", temperature="> 0")


@dataclass(frozen=True)
class TrainConfig:
    """Optimisation. AdamW with a warm-up from ``warmup_from`` to ``lr``, then half a cosine to ``lr_end``."""

    lr: float = 1e-3
    lr_end: float = 5e-5
    warmup_from: float = 1e-5
    warmup: float = 0.05
    """Steps of warm-up; below 1, as a share of all steps."""
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 1e-6
    """On all parameters but biases, batch normalisation, ``A_log`` and ``D``."""
    clip: float = 1.0
    """Greatest norm of the gradient; 0 = no clipping."""
    batch_size: int = 16
    """Samples a step and process."""
    epochs: int | None = 10
    steps: int | None = None
    """Ends training after so many steps; otherwise ``epochs`` does. The schedule is as long as the training."""
    validations: float = 1.0
    """Validations an epoch."""
    precision: Literal["32-true", "bf16-mixed", "auto"] = "auto"
    """"auto" = bf16 on a GPU, 32 bits on a CPU."""
    tf32: bool = True
    """Whether a GPU may multiply float32 matrices in TF32."""
    start_from_mean: bool = False
    """Start the output's bias at the mean of the training targets instead of 0."""
    loggers: tuple[str, ...] = ("tensorboard",)
    """Beside ``log.csv``: ``tensorboard``, ``wandb``, both or none."""
    save_steps: int | None = 500
    """Steps after which the state is saved within an epoch, for --resume; None = only at the epoch's end."""
    patience: int | None = None
    """Stop after so many validations without a better one; None = never."""

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(f"give epochs or steps, one of them: epochs is {self.epochs}, steps {self.steps}")
        within(
            self,
            lr="> 0",
            lr_end=">= 0",
            warmup_from=">= 0",
            warmup=">= 0",
            betas=">= 0, < 1",
            weight_decay=">= 0",
            clip=">= 0",
            batch_size=">= 1",
            epochs=">= 1",
            steps=">= 1",
            validations="> 0",
            save_steps=">= 1",
            patience=">= 1",
        )


@dataclass(frozen=True)
class RunConfig:
    """All of a run. In it, ``model.signal_size`` and ``model.feature_size`` are what the data give."""

    recipe: str = "laptop"
    seed: int = 2
    select: Literal["original", "adjusted"] = "original"
    """The branch whose validation MSE picks the checkpoint; the release picks by the original."""
    scan: str = "auto"
    """Backend of the selective scan."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=PrismConfig)
    """The architecture: ``model.name`` chooses one of the registry, the other settings are its own."""
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        within(self, seed=">= 0, <= 4294967295")


RECIPES: dict[str, dict[str, Any]] = {
    "paper": {
        "model": {},  # the defaults of PrismConfig
        "train": {
            "lr": 5e-4,
            "lr_end": 1e-4,
            "warmup_from": 1e-5,
            "warmup": 5_000,
            "batch_size": 8,
            "steps": 50_000,
            "epochs": None,
            "validations": 2.0,
            "precision": "bf16-mixed",
        },
    },
    "laptop": {
        "model": {"d_model": 64, "n_layer": 2, "d_state": 8},
        "train": {"start_from_mean": True},
    },
    "tiny": {
        "data": {"width": 1_000, "transform": "log1p"},
        "model": {"d_model": 32, "n_layer": 1, "d_state": 4, "center_length": 1_000},
        "train": {"lr": 3e-3, "epochs": 8, "start_from_mean": True},
    },
}
"""``paper``: as published; ``laptop``: a tenth of the work a sample, for a processor; ``tiny``: a hundredth.

Their sizes are those of Prism and of the other state space models; the other architectures keep their own."""


def make_config(
    recipe: str = "laptop",
    file: str | Path | Mapping[str, Any] | None = None,
    overrides: Iterable[str] = (),
    *,
    sizes: Mapping[str, Any] | None = None,
) -> RunConfig:
    """Compose the configuration of a run: a recipe, then a file, then single settings.

    Parameters
    ----------
    recipe
        A name of ``RECIPES``; a ``recipe`` in the file takes its place.
    file
        YAML, or a mapping.
    overrides
        Texts like ``"train.lr=0.001"``.
    sizes
        Changes to the recipe, before the file; as with the recipe's own, what they say of the model is for the state
        space models alone.

    Returns
    -------
    RunConfig
        Complete, unresolved against a store.

    Raises
    ------
    genostore.errors.NotFoundError
        When the recipe or the model is unknown.
    genostore.errors.QueryError
        For unknown keys and wrong values, all of them listed.
    """
    given = {} if file is None else dict(file) if isinstance(file, Mapping) else read_yaml(file)
    given = merge(given, parse_overrides(overrides))
    recipe = str(given.get("recipe", recipe))
    if recipe not in RECIPES:
        raise NotFoundError(f"recipe {recipe!r} is unknown: {nearest(recipe, RECIPES)}")
    train = given.get("train")
    if isinstance(train, Mapping) and len({"epochs", "steps"} & set(train)) == 1:
        # Naming one length of training undoes the recipe's other one.
        given["train"] = {"epochs": None, "steps": None, **train}
    start = merge({"recipe": recipe, **RECIPES[recipe]}, sizes or {})
    model = given.get("model")
    if isinstance(model, Mapping) and not issubclass(ModelConfig.settings_class(model), PrismConfig):
        start["model"] = {}
    return from_plain(RunConfig, merge(start, given))


__all__ = [
    "RECIPES",
    "DataConfig",
    "LossConfig",
    "ModelConfig",
    "PrismConfig",
    "RunConfig",
    "TrainConfig",
    "make_config",
    "to_plain",
]
