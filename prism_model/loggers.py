"""Where the numbers of a training go: ``log.csv`` always, TensorBoard unless refused, Weights & Biases when asked."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from genostore.errors import QueryError
from prism_model.config import RunConfig
from prism_model.runs import LOG
from prism_model.settings import to_plain

NAMES = ("tensorboard", "wandb")
_PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb"}


def check(names: tuple[str, ...]) -> None:
    """Raise QueryError for a logger that is unknown, or whose package is missing."""
    for name in names:
        if name not in NAMES:
            raise QueryError(f"there is no logger {name!r}; there are {', '.join(NAMES)} (log.csv is always written)")
        if find_spec(_PACKAGES[name]) is None:
            raise QueryError(
                f"the logger {name!r} needs the package {_PACKAGES[name]}, which is not installed: "
                f"pip install {_PACKAGES[name]}, or leave it out of train.loggers"
            )


def make(config: RunConfig, folder: Path, columns: list[str]) -> list[Logger]:
    """The loggers of a run, ``log.csv`` first; their files lie in its folder."""
    loggers: list[Logger] = [CsvLog(folder, columns)]
    if "tensorboard" in config.train.loggers:
        loggers.append(TensorBoardLogger(folder, name="tensorboard", version="", default_hp_metric=False))
    if "wandb" in config.train.loggers:
        # Mode, project and key come from the user's environment (WANDB_MODE=offline, WANDB_PROJECT ...).
        wandb = WandbLog(
            name=folder.resolve().name,
            save_dir=folder,
            project=os.environ.get("WANDB_PROJECT", "prism"),
            config=to_plain(config),
            offline=os.environ.get("WANDB_MODE") == "offline",
        )
        loggers.append(wandb)
    return loggers


class WandbLog(WandbLogger):  # type: ignore[misc]
    """Weights & Biases, whose run ends with the training: the next one of this process, of another seed, has its own.

    A run that the user began before is written to as it is, and left open.
    """

    def __init__(self, **options: Any) -> None:
        import wandb

        super().__init__(**options)
        self._own = wandb.run is None

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """End the run; all that was logged is then on disk or sent."""
        super().finalize(status)
        if self._own and self._experiment is not None:
            self._experiment.finish(exit_code=0 if status == "success" else 1)


class CsvLog(Logger):  # type: ignore[misc]
    """One CSV file of a run: a row a logged step, the same columns throughout, rows after a resumed step removed.

    Parameters
    ----------
    folder
        Of the run.
    columns
        Names of the numbers that will be logged, in order.
    """

    def __init__(self, folder: Path, columns: list[str]) -> None:
        super().__init__()
        self.path = folder / LOG
        self.columns = ["epoch", "step", *columns]

    @property
    def name(self) -> str:
        """Of the logger."""
        return "csv"

    @property
    def version(self) -> str:
        """Of the log; there is one a run."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The configuration is a file of its own."""

    @rank_zero_only
    def rewind(self, step: int) -> None:
        """Start the log, or keep its rows from before a step."""
        rows: list[dict[str, str]] = []
        if step and self.path.is_file():
            with self.path.open(newline="") as file:
                rows = [row for row in csv.DictReader(file) if int(row["step"]) < step]
        with self.path.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns, extrasaction="ignore", restval="")
            writer.writeheader()
            writer.writerows(rows)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append a row."""
        row = {key: f"{value:.8g}" for key, value in metrics.items() if key != "epoch"}
        if not set(row) & set(self.columns):
            return
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, self.columns, extrasaction="ignore", restval="")
            writer.writerow({"epoch": int(metrics.get("epoch", 0)), "step": step, **row})
