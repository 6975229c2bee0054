"""Which architectures there are: names, the settings of each, and what builds it.

Other packages add theirs with :func:`register`, which runs when their module is imported; the entry-point group
``prism_model.models`` lets the command ``prism`` import it by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, NamedTuple

from torch import nn

from genostore.errors import ConflictError, NotFoundError, QueryError, nearest
from prism_model.models.attention import Attention, AttentionConfig
from prism_model.models.base import ModelConfig
from prism_model.models.cnn import Cnn, CnnConfig
from prism_model.models.mamba import CaduceusConfig, CaduceusSignalsConfig, MambaConfig
from prism_model.models.own import Own, OwnConfig
from prism_model.models.ridge import Ridge, RidgeConfig
from prism_model.prism import Prism, PrismConfig

GROUP = "prism_model.models"


class Entry(NamedTuple):
    """An architecture."""

    config: type[ModelConfig]
    build: Callable[..., nn.Module]
    """Called with the settings, and with ``scan`` where it scans."""
    scans: bool = False


_MODELS: dict[str, Entry] = {}


def register(config: type[ModelConfig], build: Callable[[Any], nn.Module]) -> None:
    """Add an architecture.

    Parameters
    ----------
    config
        A frozen dataclass derived from ``ModelConfig``; the default of its ``name`` is the name.
    build
        Makes the module from an instance of it. Inputs and output of the module: see
        :class:`prism_model.models.own.Own`.

    Raises
    ------
    genostore.errors.ConflictError
        When another architecture has the name.
    """
    known = _MODELS.get(config.name)
    if known is not None and known.config is not config:
        raise ConflictError(f"there is a model {config.name!r} already: {known.config.__qualname__}")
    _MODELS[config.name] = Entry(config, lambda settings: Own(build(settings), settings))


def names() -> list[str]:
    """Names of all architectures, those of other installed packages included."""
    return [name for name in dict.fromkeys([*_MODELS, *sorted(entry_points(group=GROUP).names)]) if name != "own"]


def find(name: str) -> Entry:
    """Look an architecture up.

    Raises
    ------
    genostore.errors.NotFoundError
        When there is none of this name.
    """
    if name not in _MODELS:
        for point in entry_points(group=GROUP, name=name):
            point.load()  # importing it registers it
    if name not in _MODELS:
        raise NotFoundError(f"there is no model {name!r}: {nearest(name, names(), limit=len(names()))}")
    return _MODELS[name]


def config_class(name: str) -> type[ModelConfig]:
    """The settings of an architecture; see :func:`find`."""
    return find(name).config


def build(config: ModelConfig, *, scan: str = "auto") -> nn.Module:
    """Make a model, with fresh weights from torch's random state.

    Parameters
    ----------
    config
        Its settings, complete.
    scan
        Backend of the selective scan, for those that scan.

    Raises
    ------
    genostore.errors.QueryError
        When the settings are of another class than their name says.
    """
    entry = find(config.name)
    if not isinstance(config, entry.config):
        raise QueryError(f"model {config.name!r} takes {entry.config.__name__}, not {type(config).__name__}")
    options: dict[str, Any] = {"scan": scan} if entry.scans else {}
    return entry.build(config, **options)


def _own(config: OwnConfig) -> nn.Module:
    raise QueryError(
        f"the model is {config.module or 'a module'} of the user's own, which no name can build: give it "
        f"(model={config.module or 'MyNet'}()), or register it"
    )


for _config in (PrismConfig, CaduceusConfig, CaduceusSignalsConfig, MambaConfig):
    _MODELS[_config.name] = Entry(_config, Prism, scans=True)
_MODELS |= {
    "cnn": Entry(CnnConfig, Cnn),
    "attention": Entry(AttentionConfig, Attention),
    "ridge": Entry(RidgeConfig, Ridge),
    "own": Entry(OwnConfig, _own),
}
