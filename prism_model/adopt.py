"""A run of weights that were trained elsewhere, so that they can be evaluated, predicted with and explained."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from genostore.errors import QueryError
from prism_model import runs, weights
from prism_model.card import write_card
from prism_model.config import make_config
from prism_model.data import Data
from prism_model.prism import Prism, PrismConfig


def adopt(
    model: Prism, out: str | Path, store: str | Path, overrides: Iterable[str] = (), source: str | None = None
) -> Path:
    """Make the folder of a run around a model.

    Parameters
    ----------
    model
        Such as ``Prism.from_official`` gives.
    out
        Folder of the run.
    store
        Where its inputs come from: by the recipe ``paper``, in its order of signals and features.
    overrides
        Texts like ``"data.cell_types=[K562]"`` over that recipe: of ``data``, ``model.averaging`` and ``seed``, the one
        that the weights were trained from. The weights settle all else.
    source
        What to record as the weights' origin.

    Returns
    -------
    pathlib.Path
        The folder.

    Raises
    ------
    genostore.errors.QueryError
        When the store gives other signals or features than the model takes, or the weights settle an override.
    """
    overrides = list(overrides)
    settled = [o for o in overrides if not re.match(r"\s*(data\.|model\.averaging\s*=|seed\s*=)", o)]
    if settled:
        raise QueryError(
            f"{', '.join(settled)}: the weights settle this; of their run data.*, model.averaging and seed can be set"
        )
    config = make_config("paper", None, [f"data.store={store}", *overrides])
    data = Data(config.data)
    given = {"signals": data.channels, "features": data.features}
    takes = {"signals": model.config.signal_size, "features": model.config.feature_size}
    for name, size in takes.items():
        if len(given[name]) != size:
            raise QueryError(
                f"the model takes {size} {name}, and {store} gives {len(given[name])}: "
                f"{', '.join(given[name]) or 'none'}; choose them with data.assays, data.contacts and data.features"
            )
    if model.config.center_length > data.config.width:
        raise QueryError(
            f"the model averages {model.config.center_length} positions; data.width is {data.config.width}"
        )
    assert isinstance(config.model, PrismConfig)  # of the recipe
    model.config = replace(model.config, averaging=config.model.averaging)
    out = Path(out)
    info: dict[str, Any] = {"source": source, "trained": "elsewhere"}
    runs.create(
        out,
        replace(config, data=data.config, model=model.config),
        data.digest() | {"feature_means": data.feature_means(data.windows("train"))},
    )
    weights.save(out / weights.BEST, model, info)
    runs.finish(out, 0, None, None)
    write_card(out)
    return out
