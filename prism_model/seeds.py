"""One configuration over several seeds: a run folder a seed under one parent, and their scores as mean +- sd."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genostore.errors import ConflictError, NotFoundError
from prism_model import runs
from prism_model.config import RunConfig
from prism_model.data import Data
from prism_model.evaluate import evaluate, label, score_table
from prism_model.metrics import SCORES
from prism_model.published import PUBLISHED, comparable
from prism_model.settings import to_plain
from prism_model.train import complete, fit, wanted

if TYPE_CHECKING:
    from rich.table import Table

PAPER_SEEDS = (2, 22, 222, 2222, 22222)


def fit_seeds(
    config: RunConfig,
    out: str | Path,
    seeds: Sequence[int],
    *,
    device: str = "auto",
    say: Callable[[str], None] = print,
) -> list[Path]:
    """Train one run a seed; asked again, go on where it was broken off.

    Parameters
    ----------
    config
        Of all runs, but for the seed.
    out
        The parent; the runs are ``seed-2``, ``seed-22`` ...
    seeds
        Each once.
    device
        ``cpu``, ``cuda`` or ``auto``.
    say
        Prints a line.

    Returns
    -------
    list of pathlib.Path
        The runs' folders.

    Raises
    ------
    genostore.errors.ConflictError
        When the parent holds runs of another configuration, or when seeds repeat.
    """
    if len(set(seeds)) != len(seeds):
        raise ConflictError(f"seeds repeat: {', '.join(map(str, seeds))}; each makes one run")
    out = Path(out)
    runs.refuse_existing(out)
    folders = [out / f"seed-{seed}" for seed in seeds]
    started = [folder for folder in folders if (folder / runs.CONFIG).is_file()]
    if started:
        plan = to_plain(complete(config, Data(wanted(config))))
        for folder in started:
            _check_same_settings(folder, plan)
    for seed, folder in zip(seeds, folders, strict=True):

        def tell(line: str, seed: int = seed) -> None:
            say(f"seed {seed}: {line}")

        if runs.is_finished(folder):
            tell("finished before")
        else:
            fit(replace(config, seed=seed), folder, resume=folder in started, device=device, say=tell)
            if not runs.is_finished(folder):
                say(f"stopped; the same command goes on with seed {seed}")
                break
    return folders


def _check_same_settings(folder: Path, plan: dict[str, Any]) -> None:
    before, now = _flat(to_plain(runs.read_config(folder))), _flat(plan)
    differing = sorted(key for key in {*before, *now} - {"seed"} if before.get(key) != now.get(key))
    if differing:
        raise ConflictError(f"{folder} was started with other settings ({', '.join(differing)}); use another --out")


def _flat(plain: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in plain.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def find_runs(parent: str | Path) -> list[Path]:
    """The runs under a folder, by seed.

    Raises
    ------
    genostore.errors.NotFoundError
        When there is none.
    """
    # Such as seed-2.old is a folder of the user's.
    found = [
        path.parent
        for path in Path(parent).glob(f"seed-*/{runs.CONFIG}")
        if re.fullmatch(r"seed-\d+", path.parent.name)
    ]
    if not found:
        raise NotFoundError(
            f"{parent} is neither a run nor a folder of runs seed-2, seed-22 ...; `prism train` makes one"
        )
    return sorted(found, key=lambda path: int(path.name.removeprefix("seed-")))


def evaluate_seeds(
    parent: str | Path, split: str = "test", *, device: str = "auto", baselines: bool = True
) -> dict[str, Any]:
    """Score all runs under a folder, both branches, by both ways of averaging.

    Parameters
    ----------
    parent
        What :func:`fit_seeds` made; runs that are not finished are left out, and named.
    split
        ``train``, ``valid`` or ``test``.
    device
        ``cpu``, ``cuda`` or ``auto``.
    baselines
        Whether to score the mean and ridge too, once: they depend on no seed.

    Returns
    -------
    dict
        ``seeds``, ``unfinished``, ``published`` and ``scores``: predictor to group to score to ``mean``, ``sd`` (None
        for one seed), and ``each``. The same is in ``metrics/<split>.json`` of the parent.
    """
    folders = find_runs(parent)
    finished = [folder for folder in folders if runs.is_finished(folder)]
    unfinished = [folder.name for folder in folders if folder not in finished]
    if not finished:
        raise NotFoundError(f"none of {', '.join(unfinished)} in {parent} is finished; `prism train` goes on with them")
    results = [
        evaluate(folder, split, device=device, baselines=baselines and i == 0, averaging="both")
        for i, folder in enumerate(finished)
    ]
    collected: dict[str, Any] = {}
    for result in results:
        for predictor, groups in result["scores"].items():
            for group, values in groups.items():
                place = collected.setdefault(predictor, {}).setdefault(group, {"n": values["n"]})
                for score in SCORES:
                    place.setdefault(score, []).append(values[score])
    first = results[0]
    cells = comparable(first["expression"], runs.read_config(finished[0]).data.fold, split, first["cell_types"])
    summary = {
        "runs": Path(parent).resolve().name,
        "split": split,
        "expression": first["expression"],
        "cell_types": first["cell_types"],
        "seeds": [runs.read_config(folder).seed for folder in finished],
        "unfinished": unfinished,
        "data": sorted({result["data"] for result in results}),
        "code": first["code"],
        "averaging": first["averaging"],
        "published": {name: {c: row[c] for c in cells} for name, row in PUBLISHED.items()} if cells else {},
        "scores": {
            predictor: {
                group: {"n": values["n"], **{score: _spread(values[score]) for score in SCORES}}
                for group, values in groups.items()
            }
            for predictor, groups in collected.items()
        },
    }
    runs.write_json(Path(parent) / "metrics" / f"{split}.json", summary)
    return summary


def _spread(values: list[float]) -> dict[str, Any]:
    sd = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "sd": sd, "each": values}


def as_table(summary: dict[str, Any]) -> Table:
    """The scores as a table for a terminal, the published ones below."""
    seeds = ", ".join(map(str, summary["seeds"]))
    table = score_table(f"{summary['runs']}, {summary['split']} split, {summary['expression']}, seeds {seeds}")
    for predictor, groups in summary["scores"].items():
        name = label(predictor, summary["averaging"])
        for group, values in groups.items():
            row = [_spell(values[score]) for score in SCORES]
            table.add_row(name, f"{group} ({values['n']:,})", *row)
            name = ""
        table.add_section()
    for model, cells in summary["published"].items():
        for cell, figures in cells.items():
            shown = ["-" if figure is None else f"{figure:.4f}" for figure in figures]
            table.add_row(f"published: {model}", cell, *shown, *["-"] * (len(SCORES) - len(shown)))
    return table


def _spell(spread: dict[str, Any]) -> str:
    if spread["sd"] is None or math.isnan(spread["sd"]):
        return f"{spread['mean']:.4f}"
    return f"{spread['mean']:.4f} ± {spread['sd']:.4f}"
