"""What a study is: a design, the cells of its grid, what is measured on each, and a report."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from genostore.errors import GenostoreError, QueryError
from prism_model.config import RunConfig, make_config
from prism_model.data import Data
from prism_model.settings import from_plain, merge, to_plain

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Plain = Mapping[str, Any]
Tables = dict[str, "pd.DataFrame"]


class StudyError(GenostoreError):
    """Cells of a study that failed, or too few of them to compare anything."""


@dataclass(frozen=True)
class Cell:
    """One run of a grid.

    Attributes
    ----------
    name
        Of its folder.
    labels
        Columns that every row measured on it gets.
    config
        Of the run.
    """

    name: str
    labels: Plain
    config: RunConfig


@dataclass(frozen=True)
class Report:
    """What a study found.

    Attributes
    ----------
    summary
        One row a comparison, with its interval.
    tables
        Further tables worth keeping, by name.
    figures
        Name to picture, in the order of the page.
    captions
        Of the figures.
    text
        Paragraphs of Markdown: the design, how to read the intervals, what came out.
    """

    summary: pd.DataFrame
    text: list[str]
    tables: Tables = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)
    captions: dict[str, str] = field(default_factory=dict)


class Study(ABC):
    """A design on a store.

    Parameters
    ----------
    design
        Of the study's own kind.
    base
        Settings of every run, before a cell sets its own.
    seeds
        Of initialisation and order; one run each.

    Raises
    ------
    genostore.errors.QueryError
        When the architecture lacks what the study is about.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    design_type: ClassVar[type[Any]]
    sizes: ClassVar[dict[str, Plain]] = {}
    of_signals: ClassVar[bool] = True
    of_contexts: ClassVar[bool] = False

    def __init__(self, design: Any, base: RunConfig, seeds: tuple[int, ...]) -> None:
        self.design, self.base, self.seeds = design, base, seeds
        if self.of_signals and not base.model.takes_signals:
            raise QueryError(f"the model {base.model.name} takes no signals, which the study {self.name} is about")
        if self.of_contexts and not self.contexts(1):
            raise QueryError(
                f"the model {base.model.name} has no contexts, which the study {self.name} is about; prism has"
            )

    @abstractmethod
    def cells(self, data: Data) -> list[Cell]:
        """The grid, given what the store holds."""

    @abstractmethod
    def measure(self, cell: Cell, run: Path, device: str) -> Tables:
        """Tidy tables of one finished run; they get the cell's labels as columns."""

    @abstractmethod
    def report(self, tables: Tables) -> Report:
        """Make of the tables of the cells, some of which may be missing, what the study has to say.

        Raises
        ------
        StudyError
            When no two of them can be compared.
        """

    def contexts(self, n: int) -> Plain:
        """Settings of a model with so many contexts; none where the architecture has no such setting."""
        return {"n_context": n} if "n_context" in to_plain(self.base.model) else {}

    def cell(self, name: str, labels: Plain, settings: Plain, seed: int) -> Cell:
        """A cell: the base with some settings changed."""
        plain = merge(merge(to_plain(self.base), settings), {"seed": seed})
        return Cell(f"{name}-seed{seed}", {**labels, "seed": seed}, from_plain(RunConfig, plain))


QUICK: Plain = {
    "data": {"width": 256},
    "model": {"d_model": 8, "d_state": 4, "n_layer": 1, "center_length": 256},
    "train": {"epochs": 1, "lr": 0.01},
}
"""Settings of the size ``quick``, over the recipe ``tiny``: to see that everything runs, not to learn from."""

LAPTOP: Plain = {"data": {"width": 512}, "model": {"d_model": 16}, "train": {"epochs": 4, "lr": 5e-3, "batch_size": 16}}
"""Settings of the size ``laptop``, over the recipe ``tiny``: a study in tens of minutes on two cores."""

RECIPES = {"quick": ("tiny", QUICK), "laptop": ("tiny", LAPTOP), "paper": ("paper", {})}
"""Recipe and settings of each size."""


def base_config(store: str, size: str, overrides: tuple[str, ...] = ()) -> RunConfig:
    """The settings that all runs of a study share: those of the size, then single ones."""
    recipe, settings = RECIPES[size]
    return make_config(recipe, {"data": {"store": store}}, overrides, sizes=settings)


def resolved(base: RunConfig) -> tuple[RunConfig, Data]:
    """Resolve the data once, so that all cells ask the same of the store."""
    data = Data(base.data)
    return replace(base, data=data.config), data
