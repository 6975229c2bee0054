"""A batch of windows: what every speed of reading gives, in numpy or on a device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any


@dataclass
class Batch:
    """Aligned windows of B samples; parts that were not asked for are None.

    Numpy arrays come from ``windows.read``, torch tensors from ``windows.loader``.

    Attributes
    ----------
    index
        ``(B,)`` int64, the numbers of the samples.
    gene, cell_type
        ``(B,)`` int64, rows of ``windows.genes`` (of ``windows.regions``) and of ``windows.cell_types``.
    anchor
        ``(B,)`` int64, where in the window the TSS (the middle of a region) lies.
    left_pad, right_pad
        ``(B,)`` int64, how many positions of the window lie off the contig on either side.
    start
        ``(B,)`` int64, where on its contig the window begins on the reference strand.
    reverse
        ``(B,)`` bool: the window is given on the reverse strand, stranded tracks swapped.
    sequence
        ``(B, W)`` uint8 codes, 0-3 = A C G T and 4 = other; or ``(B, W, 4)`` float32 one-hot, all zero for other.
    signal
        ``(B, W // resolution, assay)`` float32; NaN where the source is silent, until a loader fills it.
    mask
        Like ``signal``, True where there was a value; only from a loader with ``missing="mask"``.
    contacts
        ``(B, bins)`` profiles or ``(B, bins, bins)`` matrices, float32.
    contact_origin
        ``(B,)`` int64; base ``j`` of the window lies in bin ``(contact_origin + j) // bin_size`` of ``contacts``.
    bin_size
        Of the contacts, in bases.
    features
        ``(B, feature)`` float32.
    target
        ``(B,)`` float32, transformed as the store says.
    weight
        ``(B,)`` float32, of each sample; only from a loader that was given weights.
    """

    index: Any
    gene: Any
    cell_type: Any
    anchor: Any
    left_pad: Any
    right_pad: Any
    start: Any = None
    reverse: Any = None
    sequence: Any = None
    signal: Any = None
    mask: Any = None
    contacts: Any = None
    contact_origin: Any = None
    bin_size: int | None = None
    features: Any = None
    target: Any = None
    weight: Any = None

    def __len__(self) -> int:
        return len(self.index)

    @property
    def padded(self) -> Any:
        """``(B,)`` bool: the window passes an end of its contig."""
        return (self.left_pad + self.right_pad) > 0

    def _each(self, change: Callable[[Any], Any]) -> Batch:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: change(v) for name, v in values.items() if hasattr(v, "shape")})

    def __getitem__(self, some: slice) -> Batch:
        """Give some of the samples, as views."""
        return self._each(lambda value: value[some])

    def to(self, *args: Any, **kwargs: Any) -> Batch:
        """Move a batch of tensors, as ``torch.Tensor.to`` moves one."""
        return self._each(lambda value: value.to(*args, **kwargs))

    def pin_memory(self) -> Batch:
        """Copy a batch of tensors to pinned memory; ``DataLoader(pin_memory=True)`` calls it."""
        return self._each(lambda value: value.pin_memory())

    def __repr__(self) -> str:
        parts = [
            f"{f.name} {tuple(getattr(self, f.name).shape)}"
            for f in fields(self)
            if hasattr(getattr(self, f.name), "shape") and f.name in _SHOWN
        ]
        return f"<Batch of {len(self)}: {', '.join(parts)}>"


_SHOWN = ("sequence", "signal", "mask", "contacts", "features", "target")
