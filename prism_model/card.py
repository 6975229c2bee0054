"""A run's README.md: what it was trained on, what it scores, and what to beware of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prism_model import runs, weights
from prism_model.config import RunConfig
from prism_model.metrics import SCORES
from prism_model.settings import to_plain

EPIGENOMIC = "promoter_activity"


def write_card(run: str | Path) -> Path:
    """Write ``README.md`` of a run from what is in its folder; the scores are those of the splits evaluated so far.

    Returns
    -------
    pathlib.Path
        The file.
    """
    run = Path(run)
    config = runs.read_config(run)
    about = json.loads((run / "run.json").read_text())
    digest = runs.read_digest(run)
    card = weights.read_card(weights.find(run)) if (run / weights.BEST / "model.safetensors").is_file() else None
    metrics = {path.stem: json.loads(path.read_text()) for path in sorted((run / "metrics").glob("*.json"))}
    ended = runs.is_finished(run)
    parts = [
        f"# {run.resolve().name}",
        f"A model of kind `{config.model.name}` that predicts {config.data.expression} of "
        f"{', '.join(config.data.cell_types or ())} from windows of {config.data.width:,} bases around the TSS.",
        *_data(config, digest),
        *_training(config, about, card),
        *_scores(metrics),
        "## Beware",
        *[f"- {line}" for line in caveats(config, metrics, ended)],
        "## Use",
        f"```\nprism predict {run} --genes GENE1,GENE2 --out predictions.tsv\n```",
    ]
    path = run / "README.md"
    path.write_text("\n\n".join(parts) + "\n")
    return path


def caveats(config: RunConfig, metrics: dict[str, Any], ended: bool = True) -> list[str]:
    """What a reader of the scores must know."""
    cells, features = ", ".join(config.data.cell_types or ()), config.data.features or ()
    lines = [f"Trained on {cells} of one assembly; for any other cell type its scores say nothing."]
    if EPIGENOMIC in features:
        lines.append(
            f"The feature `{EPIGENOMIC}` is computed from H3K27ac and DNase around the TSS: it lets the epigenome in "
            "even where the signals are left out."
        )
    if config.model.takes_signals and (config.data.assays or config.data.contacts):
        lines.append("Background signals (DNase, Hi-C) may confound it: `prism study background` shows how far.")
    if config.model.adjusts:
        lines.append(
            f"Two branches: the original one, and the one adjusted over contexts. The checkpoint was picked by the "
            f"{config.select} branch; say which one a number is of."
        )
    if not ended:
        lines.append("Its training had not reached its end when this was written: `prism train --resume` goes on.")
    if "test" not in metrics:
        lines.append("Not evaluated on the test split.")
    lines.append(
        "It predicts what is measured beside these signals; it does not say what would happen to a changed cell."
    )
    return lines


def _data(config: RunConfig, digest: dict[str, Any]) -> list[str]:
    rows = [
        f"| `{node}` | {_of(entry, 'source')} | {_of(entry, 'accession')} | `{_of(entry, 'sha256')[:16]}` |"
        for node, entry in digest["nodes"].items()
    ]
    c = config.data
    signals = ", ".join([*(c.assays or ()), *([c.contacts] if c.contacts else [])]) or "none"
    return [
        "## Data",
        f"Store `{Path(digest['store']).name}`, assembly {digest['assembly']}, split by `{c.fold}`. "
        f"Signals: {signals}. Gene features: {', '.join(c.features or ()) or 'none'}. "
        f"Digest `{digest['sha256'][:16]}`.",
        "\n".join(["| node | source | accession | sha256 |", "|---|---|---|---|", *rows]),
    ]


def _of(entry: dict[str, Any], key: str) -> str:
    return str((entry.get("provenance") or {}).get(key) or "")


def _training(config: RunConfig, about: dict[str, Any], card: dict[str, Any] | None) -> list[str]:
    settings = ", ".join(f"{key} {value}" for key, value in to_plain(config.model).items() if key != "name")
    info = card["info"] if card else {}
    when = f" The best checkpoint is of step {info['step']:,}." if "step" in info else ""
    if info.get("trained") == "elsewhere":
        return ["## Model", f"Weights of `{info['source']}`, trained elsewhere. {settings}."]
    return [
        "## Model",
        f"{settings}. Recipe `{config.recipe}`, seed {about['seed']}, code {about['code'].get('version')} "
        f"({about['code'].get('commit', 'no checkout')}).{when} All settings are in `config.yaml`.",
    ]


def _scores(metrics: dict[str, Any]) -> list[str]:
    if not metrics:
        return []
    rows = [
        f"| {split} | {predictor} | {group} | {values['n']:,} | "
        + " | ".join(_number(values[s]) for s in SCORES)
        + " |"
        for split, result in metrics.items()
        for predictor, groups in result["scores"].items()
        for group, values in groups.items()
    ]
    names = " | ".join(SCORES)
    head = [f"| split | predictor | samples | n | {names} |", "|---|---|---|---|" + "---|" * len(SCORES)]
    return ["## Scores", "\n".join([*head, *rows])]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
