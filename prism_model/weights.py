"""Our checkpoints: a folder of ``model.safetensors`` and ``model.json``, readable without executing anything."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from genostore.errors import FormatError, NotFoundError
from prism_model.settings import from_plain, to_plain

if TYPE_CHECKING:
    from prism_model.prism import Prism

    P = TypeVar("P", bound=Prism)

VERSION = 1
BEST = "checkpoints/best"
"""Where a run keeps its best checkpoint."""


def save(folder: str | Path, model: Prism, info: Mapping[str, Any] | None = None) -> None:
    """Write a checkpoint; each of its files appears whole.

    Parameters
    ----------
    folder
        Made when it is not there; a checkpoint in it is replaced.
    model
        Its weights and architecture are written.
    info
        Whatever else belongs beside them (step, scores, source), plain data.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    card = {"version": VERSION, "model": "prism", "config": to_plain(model.config), "info": dict(info or {})}
    weights, text = folder / ".model.safetensors.part", folder / ".model.json.part"
    save_file({key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}, weights)
    text.write_text(json.dumps(card, indent=1) + "\n")
    text.replace(folder / "model.json")
    weights.replace(folder / "model.safetensors")


def load(path: str | Path, cls: type[P], *, scan: str = "auto") -> P:
    """Load a checkpoint's model.

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
    card = read_card(folder)
    if card["model"] != "prism":
        raise FormatError(f"{folder} holds a model of kind {card['model']!r}, not Prism")
    model = cls(from_plain(PrismConfig, card["config"], "config"), scan=scan)
    try:
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except (SafetensorError, OSError, RuntimeError) as error:
        raise FormatError(f"the weights of {folder} do not load: {error}") from error
    return model.eval()


def find(path: str | Path) -> Path:
    """The folder of a checkpoint: the path itself, or the best of the run there."""
    path = Path(path)
    for folder in (path, path / BEST):
        if (folder / "model.json").is_file():
            return folder
    if path.is_file():
        raise NotFoundError(
            f"{path} is a file; expected the folder of a run or a checkpoint. A checkpoint of the official release "
            f"becomes one by `prism convert {path}`"
        )
    raise NotFoundError(f"{path} holds no model: there is neither model.json nor {BEST}/model.json in it")


def read_card(folder: Path) -> dict[str, Any]:
    """Read ``model.json``: version, model, config, info."""
    try:
        card = json.loads((folder / "model.json").read_text())
    except (OSError, ValueError) as error:
        raise FormatError(f"{folder / 'model.json'} cannot be read: {error}") from error
    if not isinstance(card, dict) or card.get("version") != VERSION:
        got = card.get("version") if isinstance(card, dict) else card
        raise FormatError(f"{folder / 'model.json'} has version {got!r}; this prism reads version {VERSION}")
    return card
