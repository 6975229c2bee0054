"""Checkpoints of the official Prism release: read without executing a pickle, mapped by name, and written back.

A Lightning checkpoint is a zip whose ``data.pkl`` says how to rebuild objects by calling functions, any functions.
Here it is run through an unpickler that knows tensors and plain containers only; every other object (the release
pickles OmegaConf configurations) becomes an inert placeholder, and nothing named in the file is imported or called.
"""

from __future__ import annotations

import math
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genostore.errors import QueryError, SourceError
from prism_model.prism import PrismConfig

LIGHTNING_VERSION = "1.8.6"
"""The version that the release wrote its checkpoints with."""

_DANGEROUS = re.compile(
    r"^(os|posix|nt|sys|subprocess|shutil|socket|ctypes|importlib|runpy|pty|commands|webbrowser)\."
    r"|^(builtins|__builtin__)\.(eval|exec|compile|open|__import__|breakpoint|input)$"
)
_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}

_LAYER = re.compile(r"^backbone\.layers\.(\d+)\.(.*)$")
_DIRECTIONS = ("mamba_fwd", "mamba_rev")
_TOP = {
    "sequence_in.": "seq_input_layer.",
    "signal_in.": "signal_input_layer.",
    "encoder.convolutions.": "weight_generator.cnn_encoder.",
    "encoder.projection.": "weight_generator.weight_projector.0.",
    "backbone.norm.": "caduceus.backbone.norm_f.",
    "head.": "pToExpr.",
}


def official_names(name: str) -> tuple[str, ...]:
    """The official names of one of our state's entries; two for a projection that both directions share.

    Parameters
    ----------
    name
        A key of ``Prism.state_dict()``.

    Returns
    -------
    tuple of str
        Keys of the official ``state_dict``, leading ``model.`` included.
    """
    if match := _LAYER.match(name):
        layer, rest = match.groups()
        stem = f"model.caduceus.backbone.layers.{layer}."
        if rest.startswith("norm."):
            return (stem + rest,)
        rest = rest.removeprefix("mixer.")
        if direction := re.match(r"^directions\.([01])\.(.*)$", rest):
            return (f"{stem}mixer.{_DIRECTIONS[int(direction[1])]}.{direction[2]}",)
        return tuple(f"{stem}mixer.{side}.{rest}" for side in _DIRECTIONS)
    for ours, theirs in _TOP.items():
        if name.startswith(ours):
            return ("model." + theirs + name.removeprefix(ours),)
    raise KeyError(name)


def infer_config(weights: Mapping[str, Tensor], source: str = "the checkpoint") -> PrismConfig:
    """Read the sizes of a model off the shapes of its official weights.

    Parameters
    ----------
    weights
        The official ``state_dict``.
    source
        What to call it in errors.

    Returns
    -------
    PrismConfig
        With default ``center_length`` and ``context_activation``, which the weights do not tell.

    Raises
    ------
    genostore.errors.SourceError
        When a weight that tells a size is missing, or cannot tell it.
    """

    def shape(name: str, dimensions: int) -> tuple[int, ...]:
        weight = weights.get("model." + name)
        if weight is None:
            raise SourceError(
                f"{source} has no weight 'model.{name}'; it holds {len(weights)} others "
                f"({', '.join(list(weights)[:2])} ...), and is no checkpoint of the official Prism"
            )
        if weight.ndim != dimensions or 0 in weight.shape:
            raise SourceError(
                f"{source} does not fit the official Prism: model.{name} is {tuple(weight.shape)}, expected "
                f"{dimensions} dimensions, none of them 0"
            )
        return tuple(weight.shape)

    mixer = "caduceus.backbone.layers.0.mixer.mamba_fwd."
    inner, d_state = shape(mixer + "A_log", 2)
    d_model, signal_size = shape("signal_input_layer.weight", 2)
    joined = shape("pToExpr.0.weight", 2)[1]
    if joined < d_model or inner % d_model:
        raise SourceError(
            f"{source} does not fit the official Prism: with a width of {d_model} (of model.signal_input_layer.weight) "
            f"the head takes {d_model} numbers and the features, not {joined} (model.pToExpr.0.weight), and the inner "
            f"width is a multiple, not {inner} (model.{mixer}A_log)"
        )
    rank = shape(mixer + "dt_proj.weight", 2)[1]
    if rank != math.ceil(d_model / 16):
        raise SourceError(
            f"{source}: the step-size rank is {rank}; a width of {d_model} has {math.ceil(d_model / 16)} in this model"
        )
    layers = {int(m[1]) for key in weights if (m := re.search(r"backbone\.layers\.(\d+)\.", key))}
    has_encoder = any(key.startswith("model.weight_generator.") for key in weights)
    config = PrismConfig(
        signal_size=signal_size,
        feature_size=joined - d_model,
        d_model=d_model,
        n_layer=len(layers),
        d_state=d_state,
        d_conv=shape(mixer + "conv1d.weight", 3)[-1],
        expand=inner // d_model,
        n_context=0,
    )
    if not has_encoder:
        return config
    return replace(
        config,
        encoder_width=shape("weight_generator.cnn_encoder.0.weight", 3)[0],
        n_context=shape("weight_generator.weight_projector.0.weight", 2)[0] // d_model,
    )


def from_official(
    weights: Mapping[str, Tensor], template: Mapping[str, Tensor], source: str = "the checkpoint"
) -> dict[str, Tensor]:
    """Rename official weights to ours, every key accounted for.

    Parameters
    ----------
    weights
        The official ``state_dict``.
    template
        Our ``state_dict``: names and shapes to fill.
    source
        What to call the weights in errors.

    Returns
    -------
    dict
        A state that loads into our model strictly.

    Raises
    ------
    genostore.errors.SourceError
        For missing or unknown keys, other shapes or types, values that are not finite, or projections of the two
        directions that differ.
    """
    left = dict(weights)
    missing: list[str] = []
    problems: list[str] = []
    state: dict[str, Tensor] = {}
    for name, ours in template.items():
        names = official_names(name)
        found = [left.pop(key) for key in names if key in left]
        missing += [key for key in names if key not in weights]
        if len(found) != len(names):
            continue
        if found[0].shape != ours.shape:
            problems.append(f"{names[0]} is {tuple(found[0].shape)}, expected {tuple(ours.shape)}")
        if not found[0].isfinite().all():
            problems.append(f"{names[0]} holds values that are not finite")
        if found[0].is_floating_point() != ours.is_floating_point() or found[0].itemsize > ours.itemsize:
            problems.append(f"{names[0]} is of {_spell(found[0])}, expected {_spell(ours)}")
        if len(found) == 2 and not torch.equal(found[0], found[1]):
            problems.append(f"{names[0]} and {names[1]} differ, and are tied in this model")
        state[name] = found[0].to(ours.dtype)
    problems += [f"{key} is missing" for key in missing]
    problems += [f"{key} is not part of the model" for key in left]
    if problems:
        shown = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise SourceError(f"{source} does not fit the official Prism: {shown}")
    return state


def _spell(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def to_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state under the official names, shared projections written twice as the release does.

    Parameters
    ----------
    state
        ``Prism.state_dict()``.

    Returns
    -------
    dict
        A ``state_dict`` that the official code loads.
    """
    return {key: value for name, value in state.items() for key in official_names(name)}


def check_loadable(config: PrismConfig) -> None:
    """Refuse a model that the official code has no place for.

    Raises
    ------
    genostore.errors.QueryError
        For one direction, no signals, or an encoder that does not see all signals.
    """
    every = tuple(range(config.signal_size))
    lacking = {
        "reads in one direction": not config.bidirectional,
        "takes no signals": not config.signal_size,
        f"shows its confounder encoder the channels {config.encoder_signals} alone": (
            config.n_context and config.encoder_signals not in ("all", every)
        ),
        f"has an epsilon of {config.norm_eps:g} in its norms": config.norm_eps != PrismConfig.norm_eps,
    }
    problems = [what for what, true in lacking.items() if true]
    if problems:
        raise QueryError(
            f"the official code cannot load this model of kind {config.name!r}: it {', and '.join(problems)}"
        )


def write(path: str | Path, state: Mapping[str, Tensor]) -> None:
    """Write our state as a checkpoint that the official code loads.

    Parameters
    ----------
    path
        The file to write, whole or not at all.
    state
        ``Prism.state_dict()``, of a model that :func:`check_loadable` lets pass.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.part")
    tensors = {key: value.detach().cpu().clone() for key, value in to_official(state).items()}
    torch.save(
        {
            "state_dict": tensors,
            "epoch": 0,
            "global_step": 0,
            "pytorch-lightning_version": LIGHTNING_VERSION,
        },
        part,
    )
    part.replace(path)


def read(path: str | Path) -> dict[str, Tensor]:
    """Read the ``state_dict`` of a checkpoint; nothing in the file is executed.

    Parameters
    ----------
    path
        A file written by ``torch.save`` (zip format, torch 1.6 or later).

    Returns
    -------
    dict
        Tensors by their names in the file.

    Raises
    ------
    genostore.errors.SourceError
        When the file is no such checkpoint, is damaged, or names functions that only an attack would call.
    """
    path = Path(path)
    if not path.is_file():
        raise SourceError(f"there is no checkpoint at {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise SourceError(f"{path} is a zip without a data.pkl, not a checkpoint of torch.save")
            with archive.open(pickles[0]) as stream:
                checkpoint = _Unpickler(stream, archive, pickles[0].removesuffix("data.pkl"), path).load()
    except zipfile.BadZipFile as error:
        if zipfile.is_zipfile(path):
            raise SourceError(f"{path} is damaged: {error}; fetch it again") from error
        raise SourceError(
            f"{path} is not a zip archive, but {_looks_like(path)}; expected a checkpoint written by torch.save of "
            f"torch 1.6 or later"
        ) from error
    except SourceError:
        raise
    except Exception as error:  # whatever a malformed pickle makes the unpickler stumble over
        raise SourceError(f"{path} cannot be read as a checkpoint: {type(error).__name__}: {error}") from error
    weights = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(weights, dict) or not weights:
        raise SourceError(f"{path} has no state_dict; expected a Lightning checkpoint of the official release")
    strange = [key for key, value in weights.items() if not isinstance(key, str) or not isinstance(value, Tensor)]
    if strange:
        raise SourceError(f"{path}: entries of state_dict that are no tensors: {strange[:5]}")
    return dict(weights)


def _looks_like(path: Path) -> str:
    """What a file that is no zip archive may be."""
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        return "empty"
    if start.startswith(b"PK"):
        return "the beginning of one; fetch it again"
    if start.startswith(b"version https://git-lfs"):
        return "Git LFS's note of where the file lies; fetch it with `git lfs pull`"
    if start.startswith(b"\x80"):
        return "a bare pickle, which is not read"
    return f"begins with {start[:12]!r}"


class _Inert:
    """Stands for an object that is not rebuilt: takes whatever the pickle does to it, and does nothing."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __new__(cls, *args: object, **kwargs: object) -> _Inert:
        return object.__new__(cls)

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def append(self, item: object) -> None:
        """Ignore a list's item."""

    def extend(self, items: object) -> None:
        """Ignore a list's items."""

    def add(self, item: object) -> None:
        """Ignore a set's item."""

    def __call__(self, *args: object, **kwargs: object) -> _Inert:
        return self


class _Unpickler(pickle.Unpickler):
    """Rebuilds tensors and plain containers; see the module's docstring."""

    def __init__(self, stream: Any, archive: zipfile.ZipFile, prefix: str, path: Path) -> None:
        super().__init__(stream, encoding="utf-8")
        self._archive = archive
        self._prefix = prefix
        self._path = path
        self._storages: dict[str, Tensor] = {}
        if f"{prefix}byteorder" in archive.namelist() and archive.read(f"{prefix}byteorder") != b"little":
            raise SourceError(f"{path} holds big-endian data; save it again on a little-endian machine")

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda data, *_: data
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if _DANGEROUS.match(f"{module}.{name}"):
            raise SourceError(
                f"{self._path} asks to run {module}.{name}, which no model needs: refused, and nothing was executed. "
                f"Do not load this file with torch.load"
            )
        return _Inert

    def persistent_load(self, pid: Any) -> Tensor:
        kind, dtype, key, _, _ = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise SourceError(f"{self._path} holds a storage of an unknown kind: {pid!r}")
        if key not in self._storages:
            buffer = bytearray(self._archive.read(f"{self._prefix}data/{key}"))
            self._storages[key] = torch.frombuffer(buffer, dtype=dtype) if buffer else torch.empty(0, dtype=dtype)
        return self._storages[key]

    def _tensor(self, storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if offset < 0 or min((*size, *stride), default=0) < 0 or (0 not in size and last >= storage.numel()):
            raise SourceError(f"{self._path}: a tensor of shape {tuple(size)} reaches past its stored data")
        if math.prod(size) > storage.numel():  # a few bytes, repeated, may fill all memory
            raise SourceError(f"{self._path}: a tensor of shape {tuple(size)} is stored as {storage.numel()} numbers")
        return storage.as_strided(tuple(size), tuple(stride), offset).clone()
