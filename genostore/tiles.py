"""The lean path of packs: windows straight from the local shards of a packed array, without the interpreter.

It stands to :mod:`genostore.gather` as :mod:`genostore.local` to its kernels. Values equal TensorStore's, which reads
packs in object stores, and local ones on a machine without what this path needs (a test compares them);
docs/decisions.md has the figures.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Hashable
from functools import cache, partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genostore import library, local
from genostore.opened import CLOSED, Shards
from genostore.schema import ArraySchema

Ints = NDArray[np.int64]
_BYTES_A_THREAD = 1 << 21  # about half a millisecond; less is not worth a second thread


class Tiles:
    """The shards of one local array of a pack, seen as ``(gene, cell_type, channel, position)``.

    Parameters
    ----------
    folder, schema, version, present
        As of :class:`genostore.local.LocalShards`.
    """

    def __init__(self, folder: str, schema: ArraySchema, version: Hashable, present: NDArray[np.bool_]) -> None:
        self.schema = schema
        self.dtype = np.dtype(schema.dtype)
        self.shape, self.tile, block = four(schema.shape), four(schema.chunk), four(schema.block)
        self.grid = block // self.tile
        self._block, self._columns = block[:2].tolist(), int(-(-self.shape[1] // block[1]))
        self.files = Shards(folder, schema.key, int(self.grid.prod()), version, present)
        self._tile_bytes = int(self.tile.prod()) * self.dtype.itemsize

    @staticmethod
    def supports(schema: ArraySchema) -> bool:
        """Tell whether an array is of the kind that this path reads, and this machine has what it needs."""
        return (
            2 <= len(schema.shape) <= 4
            and schema.dims[0] == "gene"
            and schema.shard is not None
            and schema.dtype in ("float32", "float16", "uint8")
            and bool((four(schema.block)[2:] >= four(schema.shape)[2:]).all())
            and available(schema.dtype)
        )

    def read(
        self,
        gene: Ints,
        cell: Ints,
        channel: Ints,
        low: Ints,
        out: NDArray[Any],
        fill: float = math.nan,
    ) -> list[Callable[[], None]]:
        """Plan the reading of windows into ``out``.

        Parameters
        ----------
        gene, cell, low
            ``(B,)``: which windows, and the first position wanted of each, 0 or more.
        channel
            ``(B, A)`` channels wanted of each.
        out
            ``(B, A, width)`` of the stored type, or float32 for float16; each row contiguous. What lies past the end
            of the array or in an empty shard is left as it is.
        fill
            What is written in the place of NaN.

        Returns
        -------
        list of callables
            As of :meth:`genostore.local.LocalShards.read`.
        """
        order = np.argsort(gene * self.shape[1] + cell, kind="stable")
        shard = (gene // self._block[0] * self._columns + cell // self._block[1])[order]
        kept = self.files.present[shard]
        if not kept.all():
            order, shard = order[kept], shard[kept]
        n = len(order)
        if not n:
            return []
        parts = min(local.threads(), n, max(1, out.nbytes // _BYTES_A_THREAD))
        edges = [n * k // parts for k in range(parts + 1)]
        return [
            partial(self._gather, order[a:b], shard[a:b], gene, cell, channel, low, np.float32(fill), out)
            for a, b in pairwise(edges)
        ]

    def _gather(
        self,
        order: Ints,
        shard: Ints,
        gene: Ints,
        cell: Ints,
        channel: Ints,
        low: Ints,
        fill: np.float32,
        out: NDArray[Any],
    ) -> None:
        from genostore.gather import gather

        opened = self.files.opened()  # held, so that they stay open
        if (opened.descriptor[shard] == CLOSED).any():
            opened = self.files.open(np.unique(shard).tolist())
        failed = gather(
            local.tools(self._tile_bytes),
            _crc32c(),
            self.schema.compressed,
            order,
            shard,
            opened.descriptor,
            opened.index,
            gene,
            cell,
            channel,
            low,
            self.shape,
            self.tile,
            self.grid,
            self.dtype.itemsize,
            self.dtype == np.float16,
            fill,
            out.ctypes.data,
            np.array(out.strides[:2]),
            out.shape[2],
        )
        if failed != -1:
            place = failed if failed >= 0 else -2 - failed
            where = f"of gene {gene[order[place]]} in shard {self.files.path(int(shard[place]))}"
            if failed < 0:
                raise ValueError(f"NOT_FOUND: a chunk {where} is absent")
            raise ValueError(f"DATA_LOSS: a chunk {where} does not match its checksum")


def four(extents: tuple[int, ...]) -> Ints:
    """See an extent as four: gene, cell type, channel, position.

    Sequence has no cell types and channels, a profile of contacts no channels, and the rows of a matrix are channels.
    """
    first, last = extents[:-1], extents[-1]
    return np.array([*first, *[1] * (3 - len(first)), last], dtype=np.int64)


@cache
def _crc32c() -> int:
    """Address of a CRC-32C of several lanes, in the C library that google_crc32c is linked to; 0 where it is not."""
    try:
        from google_crc32c import _crc32c as extension

        return library.address(ctypes.CDLL(extension.__file__).crc32c_extend)
    except (ImportError, AttributeError, OSError):
        return 0


@cache
def available(dtype: str) -> bool:
    """Tell whether this machine has the C functions, and the instructions to widen float16."""
    from llvmlite import binding

    try:
        features = binding.get_host_cpu_features()
        widens = dtype != "float16" or features.get("f16c") or "aarch64" in binding.get_process_triple()
        return bool(widens) and library.available()
    except (ImportError, RuntimeError):
        return False
