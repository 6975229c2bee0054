"""The folder of a run: enough to repeat it, resume it, and trace a score back to source files.

::

    RUN/config.yaml              the complete configuration
        README.md                the model's card
        data.json                store, tracks and the hashes of their source files; means of the gene features
        run.json                 version and commit of the code, packages, seed
        log.csv                  losses, learning rate and validation scores by step; tensorboard/: the same
        checkpoints/best/        model.safetensors and model.json: the weights that count
        checkpoints/resume.ckpt  state of the training loop, for --resume
        finished.json            that training reached its end, and where the best checkpoint lies
        metrics/<split>.json     scores of both branches and the baselines
        predictions/<split>.parquet
"""

from __future__ import annotations

import json
import math
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from genostore.errors import ConflictError, FormatError, NotFoundError, QueryError
from prism_model.config import RunConfig
from prism_model.settings import from_plain, read_yaml, write_yaml

CONFIG = "config.yaml"
RESUME = "checkpoints/resume.ckpt"
LOG = "log.csv"
FINISHED = "finished.json"


def create(folder: str | Path, config: RunConfig, digest: Mapping[str, Any]) -> Path:
    """Make a run's folder and write what the run is.

    Raises
    ------
    genostore.errors.ConflictError
        When there is a run already.
    """
    folder = Path(folder)
    refuse_existing(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "data.json", digest)
    write_json(folder / "run.json", {"seed": config.seed, "code": code_version(), "packages": _packages()})
    write_yaml(folder / CONFIG, config)
    return folder


def refuse_existing(folder: Path) -> None:
    """Raise ConflictError when there is a run already."""
    if (folder / CONFIG).exists():
        raise ConflictError(
            f"{folder} holds a run already; choose another folder, or continue that one with `prism train --resume`"
        )


def read_config(folder: str | Path) -> RunConfig:
    """Read a run's configuration.

    Raises
    ------
    genostore.errors.NotFoundError
        When the folder is no run's.
    genostore.errors.FormatError
        When its settings are not those of a run.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        if Path(folder).is_file() or (Path(folder) / "model.safetensors").is_file():
            raise NotFoundError(
                f"{folder} holds weights alone, and which store and signals they take is not known; of a checkpoint "
                f"of the official release `prism convert CHECKPOINT --out RUN --store STORE` makes a run"
            )
        raise NotFoundError(f"{folder} is not the folder of a run: it has no {CONFIG}; `prism train` makes one")
    try:
        return from_plain(RunConfig, read_yaml(path))
    except QueryError as error:
        raise FormatError(f"{path}: {error}") from error


def read_digest(folder: str | Path) -> dict[str, Any]:
    """Read which data a run was trained on.

    Raises
    ------
    genostore.errors.FormatError
        When the file is missing or damaged.
    """
    path = Path(folder) / "data.json"
    try:
        digest = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise FormatError(f"{path} cannot be read, without which nobody knows what the run saw: {error}") from error
    if not isinstance(digest, dict) or not {"sha256", "nodes"} <= set(digest):
        raise FormatError(f"{path} is no record of data: expected sha256 and nodes")
    return digest


def finish(folder: Path, steps: int, best_step: int | None, best: float | None) -> None:
    """Note that a training reached its end."""
    write_json(folder / FINISHED, {"steps": steps, "best_step": best_step, "best": best})


def is_finished(folder: str | Path) -> bool:
    """Whether the training of a run reached its end."""
    return (Path(folder) / FINISHED).is_file()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write plain data, whole or not at all; NaN becomes null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(_plain(content), indent=1, allow_nan=False, default=str) + "\n")
    part.replace(path)


def code_version() -> dict[str, str]:
    """Version of this distribution, and the commit where it runs from a checkout."""
    code = {"version": version("genostore")}
    root = Path(__file__).resolve().parents[1]
    if (root / ".git").exists():
        try:
            done = subprocess.run(
                ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"],
                capture_output=True,
                text=True,
                timeout=10,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):  # no git, or one that hangs: the version must do
            return code
        if done.returncode == 0:
            code["commit"] = done.stdout.strip()
    return code


def _packages() -> dict[str, str]:
    """Versions that numbers may depend on."""
    found = {"python": platform.python_version()}
    for name in ("torch", "lightning", "numpy", "numba", "zarr", "tensorstore"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
