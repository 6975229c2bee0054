"""Run a study: its grid, then its tables, figures and page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from genostore.draw import style
from genostore.errors import QueryError
from prism_model import runs
from prism_model.data import Data
from prism_model.models.registry import build
from prism_model.settings import to_plain
from prism_model.studies.base import Cell, Report, Study, StudyError, Tables
from prism_model.studies.grid import gather, run_grid
from prism_model.train import complete

DECIMALS = 5
SHOWN = ("width", "name", "d_model", "n_layer", "d_state", "n_context", "center_length")


def run_study(
    study: Study,
    data: Data,
    out: str | Path,
    *,
    workers: int = 1,
    device: str = "auto",
    command: str = "",
    say: Callable[[str], None] = print,
) -> Path:
    """Run what is not yet run of a study, and write what it found.

    Parameters
    ----------
    study
        With its base settings resolved.
    data
        Of these settings.
    out
        Folder of the study; one that is there is gone on with.
    workers
        Processes that train and measure.
    device
        ``cpu``, ``cuda`` or ``auto``.
    command
        That led here, to be named on the page.
    say
        Prints a line.

    Returns
    -------
    pathlib.Path
        Of the page, ``report.md``. Beside it ``summary.csv``, ``tables/*.parquet`` (tidy, one row a prediction) and
        ``*.csv`` (aggregated), ``figures/*.png`` and ``study.json``.

    Raises
    ------
    genostore.errors.ConflictError
        When the folder holds cells of other settings or data.
    genostore.errors.QueryError
        When the model takes whole batches, or the store lacks what the design needs.
    prism_model.studies.base.StudyError
        When a run failed, or so few fit into memory that nothing can be compared.
    """
    out = Path(out)
    cells = study.cells(data)
    _refuse_whole_batches(cells[0])
    digest = data.digest()["sha256"]
    unfit = run_grid(study, cells, out, digest, workers=workers, device=device, say=say)
    tables = gather(out, [cell for cell in cells if cell.name not in unfit])
    report = _report(study, tables, unfit)
    (out / "tables").mkdir(exist_ok=True)
    (out / "figures").mkdir(exist_ok=True)
    for name, table in tables.items():
        table.to_parquet(out / "tables" / f"{name}.parquet", index=False)
    for name, table in report.tables.items():
        table.round(DECIMALS).to_csv(out / "tables" / f"{name}.csv", index=False)
    report.summary.round(DECIMALS).to_csv(out / "summary.csv", index=False)
    with style():
        for name, picture in report.figures.items():
            picture.savefig(out / "figures" / f"{name}.png", dpi=110)
    about = {
        "study": study.name,
        "design": to_plain(study.design),
        "seeds": list(study.seeds),
        "base": to_plain(study.base),
        "data": digest,
        "cells": [cell.name for cell in cells],
        "not_run": unfit,
        "code": runs.code_version(),
        "command": command,
    }
    runs.write_json(out / "study.json", about)
    page = out / "report.md"
    page.write_text(_page(study, data, cells, report, unfit, command))
    return page


def _report(study: Study, tables: Tables, unfit: dict[str, str]) -> Report:
    try:
        if not tables:
            raise StudyError("no run fits into memory")
        return study.report(tables)
    except StudyError as error:
        if not unfit:
            raise
        name, why = next(iter(unfit.items()))
        raise StudyError(
            f"{error}: {len(unfit)} were not run ({name}: {why}). What is finished is kept, and the same command goes "
            f"on where there is more memory"
        ) from error


def _refuse_whole_batches(cell: Cell) -> None:
    config = complete(cell.config, Data(cell.config.data))
    if "batch" in getattr(build(config.model, scan=config.scan), "takes", ()):
        raise QueryError(
            f"the model {config.model.name} takes the whole batch, and a study changes what a model is given: let its "
            f"forward take sequence, signals and features instead"
        )


def _page(study: Study, data: Data, cells: list[Cell], report: Report, unfit: dict[str, str], command: str) -> str:
    c, t = study.base.data, study.base.train
    length = f"{t.epochs} epochs" if t.epochs else f"{t.steps:,} steps"
    lines = [f"# {study.title}", ""]
    if command:
        lines += ["```", command, "```", ""]
    sizes = {split: len(data.windows(split)) for split in ("train", "valid", "test")}
    count = f"{len(cells) - len(unfit)} of {len(cells)}" if unfit else str(len(cells))
    lines += [
        f"{count} runs, seeds {', '.join(map(str, study.seeds))}. {data.store.genome.name}, "
        f"{', '.join(c.cell_types or ())}; {sizes['train']:,} samples to train, {sizes['valid']:,} to choose the "
        f"checkpoint, {sizes['test']:,} to test; label {c.expression}; signals {', '.join(data.channels) or 'none'}; "
        f"features {', '.join(data.features) or 'none'}. The same in all runs: {_shared(cells)}, {length} of batch "
        f"{t.batch_size}.",
        "",
    ]
    if t.epochs == 1:
        lines += ["**Trained for one epoch: this shows that the study runs, and nothing of what it asks.**", ""]
    if unfit:
        lines += [
            f"**Not run: {len(unfit)} of the {len(cells)} runs, which do not fit into memory.** Figures are of the "
            "seeds that were run, differences of those that both sides have. The same command, where there is more "
            "memory, runs these alone.",
            "",
            *(f"- {name}: {why}." for name, why in unfit.items()),
            "",
        ]
    for paragraph in report.text:
        lines += [paragraph] if paragraph.startswith("- ") else ["", paragraph, ""]
    lines += ["", "## Summary", "", markdown(report.summary), ""]
    for name in report.figures:
        lines += [f"![{name}](figures/{name}.png)", "", report.captions.get(name, ""), ""]
    for name, table in report.tables.items():
        lines += [f"## {name.replace('_', ' ')}", "", markdown(table), ""]
    return "\n".join(lines)


def _shared(cells: list[Cell]) -> str:
    """The settings that all runs have in common, of those worth showing."""
    plain = [to_plain(cell.config) for cell in cells]
    values = [{k: (p["data"] | p["model"]).get(k) for k in SHOWN} for p in plain]
    first = {k: v for k, v in values[0].items() if v is not None and all(other[k] == v for other in values)}
    return ", ".join(f"{k} {v}" for k, v in first.items())


def markdown(table: pd.DataFrame, rows: int = 60) -> str:
    """A table in Markdown, its first rows."""

    def text(value: object) -> str:
        if isinstance(value, float):
            return "" if pd.isna(value) else f"{value:.4f}"
        return str(value)

    lines = ["| " + " | ".join(map(str, table.columns)) + " |", "|" + "---|" * len(table.columns)]
    lines += ["| " + " | ".join(map(text, row)) + " |" for row in table.head(rows).itertuples(index=False)]
    if len(table) > rows:
        lines.append(f"\nThe first {rows} of {len(table)} rows.")
    return "\n".join(lines)
