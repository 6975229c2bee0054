"""Our checkpoints: a folder of ``model.safetensors`` and ``model.json``, readable without executing anything.

The weights carry the card that ``model.json`` spells out for people, so that the two are always of one checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from genostore.errors import FormatError, NotFoundError, QueryError
from prism_model.settings import from_plain, to_plain

if TYPE_CHECKING:
    from prism_model.models.base import ModelConfig
    from prism_model.prism import Prism

    P = TypeVar("P", bound=Prism)

VERSION = 1
CARD = "prism"  # among the metadata of the weights
BEST = "checkpoints/best"
"""Where a run keeps its best checkpoint."""


def save(folder: str | Path, model: nn.Module, info: Mapping[str, Any] | None = None) -> None:
    """Write a checkpoint; it is replaced in one step.

    Parameters
    ----------
    folder
        Made when it is not there; a checkpoint in it is replaced.
    model
        Its weights and its ``config`` are written.
    info
        Whatever else belongs beside them (step, scores, source), plain data.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config: Any = model.config
    card = {"version": VERSION, "model": config.name, "config": to_plain(config), "info": dict(info or {})}
    weights, text = folder / ".model.safetensors.part", folder / ".model.json.part"
    # Copies, since tensors that share memory (tied weights) cannot be written.
    state = {key: value.detach().cpu().contiguous().clone() for key, value in model.state_dict().items()}
    content = json.dumps(card, indent=1) + "\n"
    save_file(state, weights, metadata={CARD: content})
    text.write_text(content)
    weights.chmod(text.stat().st_mode)  # safetensors leaves files to their owner alone
    weights.replace(folder / "model.safetensors")
    text.replace(folder / "model.json")


def load(path: str | Path, cls: type[P], *, scan: str = "auto") -> P:
    """Load a checkpoint of Prism (or of a state space model without contexts, which is a Prism without them).

    Parameters
    ----------
    path
        A checkpoint's folder, or a run's (whose best checkpoint is meant).
    cls
        ``Prism`` or a subclass.
    scan
        Backend of the selective scan.

    Returns
    -------
    Prism
        In evaluation mode, on the CPU.

    Raises
    ------
    genostore.errors.NotFoundError
        When there is no checkpoint.
    genostore.errors.FormatError
        When it is damaged, of another version, or not of this model.
    """
    from prism_model.prism import PrismConfig

    folder = find(path)
    config = read_config(folder)
    if not isinstance(config, PrismConfig):
        raise FormatError(f"{folder} holds a model of kind {config.name!r}, not Prism")
    model = cls(config, scan=scan)
    _fill(model, folder)
    return model.eval()


def load_any(path: str | Path, *, scan: str = "auto", model: nn.Module | None = None) -> nn.Module:
    """Load a checkpoint of any architecture.

    Parameters
    ----------
    path
        A checkpoint's folder, or a run's (whose best checkpoint is meant).
    scan
        Backend of the selective scan.
    model
        For a module of the user's own: one like it, whose weights are replaced.

    Returns
    -------
    torch.nn.Module
        In evaluation mode, on the CPU.

    Raises
    ------
    genostore.errors.NotFoundError
        When there is no checkpoint, or its architecture is not in the registry.
    genostore.errors.FormatError
        When it is damaged, or of another version.
    genostore.errors.QueryError
        When the weights are those of a module that was not given.
    """
    from prism_model.models.own import Own, OwnConfig
    from prism_model.models.registry import build

    folder = find(path)
    config = read_config(folder)
    if isinstance(config, OwnConfig) and model is not None:
        made: nn.Module = Own(model, config)
    elif model is not None:
        raise QueryError(f"{folder} holds a model of kind {config.name!r}; no other module can take its weights")
    else:
        made = build(config, scan=scan)
    _fill(made, folder)
    return made.eval()


def read_config(folder: Path) -> ModelConfig:
    """The settings of a checkpoint's architecture, from a folder that :func:`find` gave."""
    from prism_model.models.base import ModelConfig

    card = read_card(folder)
    try:
        return from_plain(ModelConfig, {"name": card["model"], **card["config"]}, "config")
    except QueryError as error:
        raise FormatError(f"the card of {folder / 'model.safetensors'}: {error}") from error


def _fill(model: nn.Module, folder: Path) -> None:
    try:
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except (SafetensorError, OSError, RuntimeError) as error:
        raise FormatError(f"the weights of {folder} do not load: {error}") from error


def find(path: str | Path) -> Path:
    """The folder of a checkpoint: the path itself, or the best of the run there."""
    path = Path(path)
    for folder in (path, path / BEST):
        if (folder / "model.safetensors").is_file():
            return folder
    if path.is_file():
        raise NotFoundError(
            f"{path} is a file; expected the folder of a run or a checkpoint. A checkpoint of the official release "
            f"becomes one by `prism convert {path}`"
        )
    raise NotFoundError(f"{path} holds no model: there is neither model.safetensors nor {BEST}/model.safetensors in it")


def read_card(folder: Path) -> dict[str, Any]:
    """Read what a checkpoint is, from its weights: version, model, config, info."""
    path = folder / "model.safetensors"
    try:
        with safe_open(path, "pt") as weights:
            card = json.loads((weights.metadata() or {}).get(CARD, "null"))
    except (SafetensorError, OSError, ValueError) as error:
        raise FormatError(f"{path} cannot be read: {error}") from error
    if not isinstance(card, dict) or card.get("version") != VERSION:
        got = card.get("version") if isinstance(card, dict) else card
        raise FormatError(f"{path} has a card of version {got!r}; this prism reads version {VERSION}")
    return card
