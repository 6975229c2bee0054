"""Whether a model fits into the memory of a machine, told before the first step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genostore.errors import QueryError

SHORTEST = 1_024
"""Least length that is tried, in bases."""
WORKING = 1.3
"""Buffers that live beside what the backward pass keeps, as a share of it."""


def kept_bytes(model: nn.Module, length: int) -> int:
    """Bytes that a forward pass of one sample keeps for its backward pass, counted in one.

    Parameters
    ----------
    model
        Of the registry; it is left as it was.
    length
        Of the window, in bases.
    """
    config: Any = model.config
    at = next(iter([*model.parameters(), *model.buffers()])).device
    shapes = [(1, length, 4), (1, length, config.signal_size), (1, config.feature_size)]
    inputs = [torch.zeros(shape, device=at) if shape[-1] else None for shape in shapes]
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    seen: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = max(seen.get(storage.data_ptr(), 0), storage.nbytes())
        return tensor

    training = model.training
    model.eval()  # batch normalisation must not learn from this
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out = model(*inputs)
        del out
    model.train(training)
    return sum(seen.values())


def needed_bytes(model: nn.Module, width: int, batch_size: int, *, training: bool = True) -> int:
    """About what a step takes: it grows with the length and the samples, so a short window of one sample tells.

    Parameters
    ----------
    model
        Of the registry.
    width
        Of the windows, in bases.
    batch_size
        Samples at once.
    training
        Prediction keeps about one layer's share.
    """
    config: Any = model.config
    tried = min(width, max(SHORTEST, config.center_length))
    kept = kept_bytes(model, tried) * width / tried * batch_size
    if not training:
        return int(WORKING * kept / getattr(config, "n_layer", 1))
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    return int(WORKING * kept + 4 * weights)


def available_bytes() -> int | None:
    """Memory that this process may still take; None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    free = {key: int(value.split()[0]) * 1024 for key, _, value in (line.partition(":") for line in lines)}
    return free.get("MemAvailable")


def check(model: nn.Module, width: int, batch_size: int, *, training: bool = True) -> None:
    """Raise QueryError when a step on a processor would not fit into memory.

    A model whose forward pass takes the whole batch cannot be tried before there is one, and is not.
    """
    free = available_bytes()
    if free is None or "batch" in getattr(model, "takes", ()):
        return
    needed = needed_bytes(model, width, batch_size, training=training)
    if needed <= free:
        return
    fit = int(batch_size * free / needed)
    advice = (
        f"a batch of {fit} would fit: {'train.batch_size' if training else 'batch_size'}={fit}"
        if fit
        else f"not even one sample fits: windows of about {int(width * batch_size * free / needed):,} bases would"
    )
    raise QueryError(
        f"{'a training step' if training else 'predicting a batch'} of {batch_size} windows of {width:,} bases takes "
        f"about {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free; {advice}"
    )
