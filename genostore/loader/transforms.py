"""Transforms of signals, written as data and applied where the tensors are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from genostore.errors import NotFoundError, QueryError, nearest

if TYPE_CHECKING:
    from genostore.windows import Windows

STEPS = ("log1p", "arcsinh", "zscore", "clip")
Step = tuple[str, tuple[float, ...]]


@dataclass(frozen=True)
class Transform:
    """Steps for some channels of a signal.

    Attributes
    ----------
    channels
        Along the last axis, or None for all.
    steps
        Names with their numbers, applied in order.
    mean, sd
        ``(cell type, channel)`` of the stored values, where a step is ``zscore``.
    """

    channels: tuple[int, ...] | None
    steps: tuple[Step, ...]
    mean: Tensor | None = None
    sd: Tensor | None = None

    def to(self, device: torch.device) -> Transform:
        """Bring the statistics to a device."""
        if self.mean is None or self.sd is None:
            return self
        return Transform(self.channels, self.steps, self.mean.to(device), self.sd.to(device))

    def apply(self, signal: Tensor, cell_type: Tensor) -> None:
        """Change a signal in place; NaN stays NaN.

        Parameters
        ----------
        signal
            ``(B, bins, channel)`` float32.
        cell_type
            ``(B,)`` rows of the statistics.
        """
        if self.channels is None:
            self._apply(signal, cell_type)
            return
        for i, channel in enumerate(self.channels):
            self._apply(signal[..., channel : channel + 1], cell_type, slice(i, i + 1))

    def _apply(self, values: Tensor, cell_type: Tensor, mine: slice = slice(None)) -> None:
        for name, numbers in self.steps:
            if name == "arcsinh":
                values.arcsinh_()
            elif name == "clip":
                values.clamp_(*numbers)
            elif name == "log1p":
                values.copy_(values.sign() * values.abs().log1p_())
            else:
                assert self.mean is not None
                assert self.sd is not None
                values.sub_(self.mean[cell_type, mine][:, None]).div_(self.sd[cell_type, mine][:, None])


def parse(windows: Windows, transform: Any) -> list[Transform]:
    """Read the transforms of a loader; see :class:`genostore.loader.Loader`.

    Parameters
    ----------
    windows
        Whose channels they are for, and whose store has the statistics.
    transform
        A step, a list of steps, or either for each of some assays.

    Raises
    ------
    QueryError, NotFoundError
        For a step or an assay that there is not, or statistics that were not kept.
    """
    if transform is None:
        return []
    if not isinstance(transform, Mapping):
        return _transform(windows, None, transform)
    out = []
    for assay, steps in transform.items():
        names = [a for a in (assay, f"{assay}+", f"{assay}-") if a in windows.assays]
        if not names:
            raise NotFoundError(f"transform names the assay {assay!r}; {nearest(str(assay), windows.assays)}")
        if assay in names:
            names = [assay]
        out += _transform(windows, tuple(windows.assays.index(a) for a in names), steps)
    return out


def _transform(windows: Windows, channels: tuple[int, ...] | None, steps: Any) -> list[Transform]:
    single = isinstance(steps, str | Mapping)
    parsed = tuple(map(_step, [steps] if single else steps))
    names = [name for name, _ in parsed]
    if not windows.assays or not parsed:
        return []
    if "zscore" not in names:
        return [Transform(channels, parsed)]
    if names.index("zscore") > 0:
        raise QueryError(
            f"the steps {names} put zscore after {names[0]!r}; it takes the statistics of the values as they are "
            "stored, so it comes first"
        )
    if windows.query.resolution != 1 and windows.query.aggregate == "sum":
        raise QueryError("zscore takes the statistics of single bases, and these windows hold sums of bases")
    assays = windows.assays if channels is None else [windows.assays[c] for c in channels]
    table = torch.tensor(
        [[_statistics(windows, cell, assay) for assay in assays] for cell in windows.cell_types], dtype=torch.float32
    )
    return [Transform(channels, parsed, table[..., 0].clone(), table[..., 1].clone())]


def _step(step: Any) -> Step:
    if isinstance(step, str) and step in STEPS and step != "clip":
        return step, ()
    if isinstance(step, Mapping) and list(step) == ["clip"]:
        low, high = _numbers(step["clip"])
        return "clip", (low, high)
    raise QueryError(
        f"{step!r} is no step of a transform; steps are 'log1p' (of the absolute value, with its sign), 'arcsinh', "
        "'zscore' and {'clip': [low, high]}"
    )


def _numbers(bounds: Any) -> tuple[float, float]:
    if not isinstance(bounds, Sequence) or isinstance(bounds, str) or len(bounds) != 2:
        raise QueryError(f"clip is {bounds!r}; it takes [low, high], either of which may be null")
    low, high = (-math.inf if bounds[0] is None else float(bounds[0])), math.inf
    high = high if bounds[1] is None else float(bounds[1])
    if not low < high:
        raise QueryError(f"clip is [{low}, {high}]; the first is to be less than the second")
    return low, high


def _statistics(windows: Windows, cell_type: str, assay: str) -> tuple[float, float]:
    node = f"tracks/{cell_type}/{assay}"
    entry = windows.store.entries.get(node)
    if entry is None:  # missing_tracks="nan"
        return 0.0, 1.0
    found = entry.get("statistics", {})
    if "mean" not in found or "sd" not in found:
        raise QueryError(f"{node} has no statistics to take a z-score with; ingest it again, or leave out 'zscore'")
    return float(found["mean"]), float(found["sd"]) or 1.0
