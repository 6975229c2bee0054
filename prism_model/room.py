"""Whether a model fits into the memory of a machine, told before the first step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genostore.errors import QueryError

SHORTEST = 1_024
"""Least length that is tried, in bases."""
WORKING = 1.3
"""Buffers that live beside what the backward pass keeps, as a share of it."""
_beside = 1


class RoomError(QueryError, MemoryError):
    """What was asked for does not fit into the memory there is."""


def share(among: int) -> None:
    """Let this process count on its part of the free memory: it is one of ``among`` at work beside each other."""
    global _beside
    _beside = among


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
    """Memory that this process may still take; None where the system does not tell.

    The least of what the machine has free, what the limits of this process leave (``ulimit -v``, ``ulimit -d``) and
    what those of its control groups leave, which are a container's or a batch job's.
    """
    free = [_machine(), *_process_limits(), *group_limits(Path("/"))]
    return min((max(0, n) for n in free if n is not None), default=None)


def _machine() -> int | None:
    return _fields("/proc/meminfo").get("MemAvailable")


def _process_limits() -> list[int]:
    try:
        import resource
    except ImportError:  # not a Unix
        return []
    used = _fields("/proc/self/status")
    limits = {"VmSize": resource.RLIMIT_AS, "VmData": resource.RLIMIT_DATA}
    soft = {key: resource.getrlimit(limit)[0] for key, limit in limits.items()}
    return [n - used[key] for key, n in soft.items() if n != resource.RLIM_INFINITY and key in used]


def _fields(path: str) -> dict[str, int]:
    """The lines ``Name:  123 kB`` of a file, in bytes; none where there is no such file."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return {}
    pairs = [(key, value.split()) for key, _, value in (line.partition(":") for line in lines)]
    return {key: int(words[0]) * 1024 for key, words in pairs if words[1:] == ["kB"]}


def group_limits(root: Path) -> list[int]:
    """What each control group of this process, and each that it is part of, leaves free.

    Parameters
    ----------
    root
        Of the file system; memory of files that the kernel can give back counts as free.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    left = []
    for number, controllers, path in (line.split(":", 2) for line in lines):
        if number == "0":  # version 2, which some systems mount beside version 1
            bases = [root / "sys/fs/cgroup", root / "sys/fs/cgroup/unified"]
            names = ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            bases = [root / "sys/fs/cgroup/memory"]
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        for base in bases:
            group = base / path.lstrip("/")
            # A container sees its own group as the root, whatever it is called outside.
            left += [n for at in {group, *group.parents} if at.is_relative_to(base) for n in _left(at, *names)]
    return left


def _left(group: Path, limit: str, usage: str, cache: str) -> list[int]:
    try:
        most, used = ((group / name).read_text().strip() for name in (limit, usage))
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except OSError:  # no such group here, or a root, which has no limit
        return []
    return [] if most == "max" else [int(most) - int(used) + int(stat.get(cache, 0))]


def check(model: nn.Module, width: int, batch_size: int, *, training: bool = True) -> None:
    """Raise RoomError when a step on a processor would not fit into memory.

    A model whose forward pass takes the whole batch cannot be tried before there is one, and is not.
    """
    free = available_bytes()
    if free is None or "batch" in getattr(model, "takes", ()):
        return
    free //= _beside
    needed = needed_bytes(model, width, batch_size, training=training)
    if needed <= free:
        return
    fit = int(batch_size * free / needed)
    advice = (
        f"a batch of {fit} would fit: {'train.batch_size' if training else 'batch_size'}={fit}"
        if fit
        else f"not even one sample fits: windows of about {int(width * batch_size * free / needed):,} bases would"
    )
    raise RoomError(
        f"{'a training step' if training else 'predicting a batch'} of {batch_size} windows of {width:,} bases takes "
        f"about {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free"
        f"{f' to each of {_beside} processes' if _beside > 1 else ''}; {advice}"
    )


@contextmanager
def told() -> Iterator[None]:
    """Turn what an allocation that fails raises, on a GPU or under a limit, into RoomError."""
    try:
        yield
    except RoomError:
        raise
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise RoomError(_spelled(error)) from error
    except RuntimeError as error:
        if "DefaultCPUAllocator" not in str(error):  # the only sign by which torch tells it from other errors
            raise
        raise RoomError(_spelled(error)) from error


def _spelled(error: BaseException) -> str:
    # Of torch's text what it tried and what there is; the rest is for those who tune its allocator.
    text = str(error).partition(" Including ")[0].partition("DefaultCPUAllocator: ")
    why = text[2] or text[0] or "no more could be had"
    return f"memory is used up: {why}; a smaller train.batch_size or data.width takes less"
