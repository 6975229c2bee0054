"""Contacts of .cool and .mcool files.

The layout is that of cooler's schema (Abdennur & Mirny, Bioinformatics 36:311, 2020), versions 1 to 3, and of the
older .mcool whose levels are called ``/0``, ``/1``, ...
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genostore.contained import note
from genostore.errors import SourceError
from ingest.sources.base import Band, Weight, check_band, refuse_twice
from ingest.sources.reading import naming

if TYPE_CHECKING:
    import h5py

# cooler's convention for columns that do not state theirs, and the names that hictk gives those of a .hic.
_DIVISIVE = re.compile(r"(GW_|INTER_)?(KR|VC|VC_SQRT|SCALE)")
_MULTIPLICATIVE = re.compile(r"weight|(GW_|INTER_)?ICE")
_PIXELS = 1 << 22  # read at once
_REMEDY = (
    "cooler 0.8.3 wrote such .mcool files, so make it again from its finest level with 'cooler zoomify' or "
    "'hictk fix-mcool'"
)


@dataclass(frozen=True)
class _Layout:
    """What the head of one matrix says."""

    group: str
    bin_size: int
    contigs: dict[str, int]
    first_bin: dict[str, int]
    n_bins: int
    dtype: np.dtype[Any]
    columns: dict[str, bool | None]  # balancing vectors: divisive, or not known


class CoolerSource:
    """The matrix of a .cool file, or of one level of an .mcool.

    Parameters
    ----------
    path
        The file; ``file.mcool::/resolutions/5000`` names a group of it.
    bin_size
        The level of an .mcool, in bases; of a .cool it is checked. None takes the only one there is.

    Raises
    ------
    SourceError
        On first use: not such a file or truncated, a bin size that is not there, bins of variable size or that do
        not start at 0, a matrix stored square, single cells.
    """

    def __init__(self, path: str | PathLike[str], bin_size: int | None = None) -> None:
        file, _, group = str(path).partition("::")
        self.path = Path(file)
        self._group = "/" + group.strip("/") if group else None
        self._bin_size = bin_size

    @property
    def bin_size(self) -> int:
        """Width of a bin in bases."""
        return self._layout.bin_size

    @property
    def contigs(self) -> dict[str, int]:
        """Lengths by name in the order in which the bins are numbered."""
        return self._layout.contigs

    @property
    def extents(self) -> dict[str, int]:
        """The lengths, which the file states."""
        return self.contigs

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the counts, as the file has them."""
        return self._layout.dtype

    @property
    def weight_names(self) -> list[str]:
        """Balancing vectors whose convention the file states, or cooler and hictk fix for their name."""
        return [name for name, divisive in self._layout.columns.items() if divisive is not None]

    def weights(
        self, names: Iterable[str] | None = None, divisive: Mapping[str, bool] | None = None
    ) -> dict[str, Weight]:
        """Balancing vectors by name; see :class:`~ingest.sources.base.ContactSource`."""
        stated = divisive or {}
        columns = self._layout.columns
        chosen = list(dict.fromkeys([*self.weight_names, *stated])) if names is None else list(names)
        found = {}
        with self._open() as file:
            for name in chosen:
                if name not in columns:
                    there = f"it has {', '.join(map(repr, columns))}" if columns else "it has none"
                    raise SourceError(f"{self._where}: has no weights {name!r}; {there}")
                convention = stated.get(name, columns[name])
                if convention is None:
                    raise SourceError(
                        f"{self._where}: does not say whether the weights {name!r} multiply or divide the counts; "
                        f"state it: divisive: {{{name}: true}} or false"
                    )
                values = file[self._layout.group]["bins"][name][:].astype(np.float64)
                found[name] = Weight(values, convention)
        return found

    def band(self, contig: str, bin_start: int, bin_end: int, n_offsets: int) -> Band:
        """Raw contacts near the diagonal; see :class:`~ingest.sources.base.ContactSource`."""
        layout = self._layout
        check_band(self._where, layout.contigs, contig, bin_start, bin_end, n_offsets)
        first = layout.first_bin[contig]
        stop = first + -(-layout.contigs[contig] // layout.bin_size)
        lo, hi = min(first + bin_start, stop), min(first + bin_end, stop)
        values = np.zeros((bin_end - bin_start, n_offsets), dtype=layout.dtype)
        flat = values.reshape(-1)
        beyond_pixels, beyond_sum = 0, 0.0
        with self._open() as file:
            for rows, columns, counts in self._pixels(file[layout.group], lo, hi):
                offset = columns - rows
                if offset.size and offset.min() < 0:
                    at = int(np.argmin(offset))
                    raise SourceError(
                        f"{self._where}: stores the pixel of bins {rows[at]} and {columns[at]} below the diagonal of "
                        "a matrix that says it stores the upper triangle; build the file again"
                    )
                near = (offset < n_offsets) & (columns < stop)
                target = (rows[near] - lo) * n_offsets + offset[near]
                refuse_twice(self._where, target, rows[near], columns[near], _REMEDY)
                flat[target] = counts[near]
                beyond = counts[(offset >= n_offsets) & (columns < stop)]
                beyond_pixels += int(np.count_nonzero(beyond))
                beyond_sum += float(beyond.sum(dtype=np.float64))
        return Band(values, beyond_pixels, beyond_sum)

    def validate(self) -> None:
        """Check the layout, and the index against every pixel, a few million at a time.

        Raises
        ------
        SourceError
            See the class; and if ``indexes/bin1_offset`` does not say where the rows are, or a pixel is stored
            twice, as in .mcool files that cooler 0.8.3 coarsened.
        """
        layout = self._layout
        with self._open() as file:
            group = file[layout.group]
            index = group["indexes/bin1_offset"][:].astype(np.int64)
            n_pixels = len(group["pixels/bin1_id"])
            if len(index) != layout.n_bins + 1 or index[0] != 0 or index[-1] != n_pixels:
                raise self._corrupt(
                    f"has {len(index):,} entries and ends at {index[-1] if len(index) else 0:,} for {layout.n_bins:,} "
                    f"bins and {n_pixels:,} pixels"
                )
            for rows, columns, _ in self._pixels(group, 0, layout.n_bins, counts=False):
                if columns.size and (columns.max() >= layout.n_bins or columns.min() < 0):
                    raise self._corrupt(f"belongs to {layout.n_bins:,} bins, but a pixel is of bin {columns.max():,}")
                refuse_twice(self._where, rows * layout.n_bins + columns, rows, columns, _REMEDY)

    @cached_property
    def _layout(self) -> _Layout:
        with self._open() as file:
            group = file[self._choose(file)]
            return self._read_layout(group)

    @property
    def _where(self) -> str:
        group = self.__dict__["_layout"].group if "_layout" in self.__dict__ else self._group or "/"
        return str(self.path) if group == "/" else f"{self.path}::{group}"

    @contextmanager
    def _open(self) -> Iterator[h5py.File]:
        """Open the file for one piece of work; HDF5's errors come out as ours."""
        import h5py

        with naming(self.path):
            self.path.stat()
            try:
                note(str(self.path))
                with h5py.File(self.path, "r") as file:
                    yield file
            except (FileNotFoundError, PermissionError):
                raise
            except (OSError, RuntimeError) as error:
                truncated = re.search(r"truncated file: eof = (\d+).*stored_eof = (\d+)", str(error))
                if truncated:
                    why = f"is truncated: it has {int(truncated[1]):,} of {int(truncated[2]):,} bytes"
                else:
                    why = f"cannot be read as HDF5, so it is damaged or no .cool ({error})"
                raise SourceError(f"{self.path}: {why}; fetch it again") from None
            except (TypeError, AttributeError) as error:  # a part is of another kind than a .cool has there
                raise SourceError(f"{self.path}: is damaged, or no .cool ({error}); fetch it again") from None
            except KeyError as error:
                raise SourceError(f"{self._where}: lacks a part of a .cool ({error}); fetch it again") from None

    def _choose(self, file: h5py.File) -> str:
        """Find the group of the matrix that was asked for."""
        if self._group is not None:
            if self._group not in file or not _is_matrix(file[self._group]):
                there = ", ".join(_matrices(file)) or "none"
                raise SourceError(f"{self.path}: holds no contact matrix at {self._group}; it has {there}")
            levels = [self._group]
        elif "cells" in file:
            cells = list(file["cells"])
            raise SourceError(
                f"{self.path}: is a .scool of {len(cells)} single cells, not one matrix; name one as "
                f"'{self.path.name}::/cells/NAME', NAME being one of {', '.join(cells[:6])}"
                + (f" and {len(cells) - 6} more" if len(cells) > 6 else "")
            )
        else:
            levels = _matrices(file)
        if not levels:
            raise SourceError(f"{self.path}: is HDF5, but holds no contact matrix in cooler's layout")
        sizes = {level: _bin_size(file[level]) for level in levels}
        listed = ", ".join("variable" if s is None else f"{s:,}" for s in sorted(sizes.values(), key=lambda s: s or 0))
        if self._bin_size is None:
            if len(levels) > 1:
                raise SourceError(f"{self.path}: has several bin sizes; ask for one of them: {listed}")
            return levels[0]
        for level, size in sizes.items():
            if size == self._bin_size:
                return level
        if list(sizes.values()) == [None]:
            return levels[0]  # refused for its variable bins, which says more
        raise SourceError(f"{self.path}: has no bins of {self._bin_size:,} bases; it has {listed}")

    def _read_layout(self, group: h5py.Group) -> _Layout:
        import cooler

        where = str(self.path) if group.name == "/" else f"{self.path}::{group.name}"
        matrix = cooler.Cooler(group)
        size = _bin_size(group)
        if size is None:
            raise SourceError(
                f"{where}: has bins of variable size (restriction fragments?); a store needs fixed bins, so bin the "
                "pairs again with a fixed size"
            )
        if matrix.storage_mode != "symmetric-upper":
            raise SourceError(
                f"{where}: stores a {matrix.storage_mode} matrix; a store needs a symmetric one, stored as its "
                "upper triangle (storage-mode symmetric-upper)"
            )
        contigs = {str(name): int(length) for name, length in matrix.chromsizes.items()}
        if len(contigs) < len(matrix.chromsizes):
            raise SourceError(f"{where}: names a contig twice: {', '.join(matrix.chromsizes.index)}")
        firsts = np.cumsum([0, *(-(-length // size) for length in contigs.values())])
        self._check_bins(where, group, size, list(contigs), firsts)
        own = {"chrom", "start", "end"}
        columns = {
            name: _convention(name, column)
            for name, column in group["bins"].items()
            if name not in own and column.dtype.kind == "f"
        }
        return _Layout(
            group.name,
            size,
            contigs,
            dict(zip(contigs, map(int, firsts), strict=False)),
            int(firsts[-1]),
            group["pixels/count"].dtype.newbyteorder("="),
            columns,
        )

    @staticmethod
    def _check_bins(where: str, group: h5py.Group, size: int, names: list[str], firsts: NDArray[np.int64]) -> None:
        """Check that each contig's bins are 0, size, 2 size, ... up to its length."""
        starts = group["bins/start"][:].astype(np.int64)
        offsets = group["indexes/chrom_offset"][:].astype(np.int64)
        for i, name in enumerate(names):
            own = starts[offsets[i] : offsets[i + 1]]
            if own.size and own[0] != 0:
                raise SourceError(
                    f"{where}: bins of {name!r} start at {own[0]:,}, so this is a cut-out of a matrix; a store needs "
                    "the bins of whole contigs, from 0"
                )
            expected = np.arange(firsts[i + 1] - firsts[i]) * size
            if not np.array_equal(own, expected):
                raise SourceError(
                    f"{where}: {name!r} has {own.size:,} bins, where its length and bins of {size:,} make "
                    f"{expected.size:,}, evenly spaced; build the file again"
                )

    def _pixels(
        self, group: h5py.Group, lo: int, hi: int, counts: bool = True
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[Any]]]:
        """Yield (bin1, bin2, count) of the rows ``[lo, hi)``, whole rows, some millions of pixels at a time."""
        index = group["indexes/bin1_offset"][lo : hi + 1].astype(np.int64)
        if (np.diff(index) < 0).any():
            raise self._corrupt(f"decreases after bin {lo + int(np.argmax(np.diff(index) < 0))}")
        pixels = group["pixels"]
        for first, last in _row_groups(index):
            part = slice(int(index[first]), int(index[last]))
            rows = pixels["bin1_id"][part].astype(np.int64)
            expected = np.repeat(np.arange(lo + first, lo + last), np.diff(index[first : last + 1]))
            if len(rows) < len(expected):
                raise self._corrupt(f"points to pixel {part.stop:,} of {len(pixels['bin1_id']):,}")
            if not np.array_equal(rows, expected):
                at = int(np.argmax(rows != expected))
                raise self._corrupt(
                    f"puts pixel {part.start + at:,} in the row of bin {expected[at]}, but it is of bin {rows[at]}"
                )
            yield rows, pixels["bin2_id"][part].astype(np.int64), pixels["count"][part] if counts else np.empty(0)

    def _corrupt(self, how: str) -> SourceError:
        return SourceError(
            f"{self._where}: the index of rows (indexes/bin1_offset) is corrupt: it {how}; build the file again, or "
            "an .mcool from its finest level with 'cooler zoomify' or 'hictk fix-mcool'"
        )


def _row_groups(index: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Split rows, of which ``index`` has the first pixels and the end, into runs of about ``_PIXELS`` pixels."""
    first, end = 0, len(index) - 1
    while first < end:
        last = int(np.searchsorted(index, index[first] + _PIXELS, side="right")) - 1
        last = min(max(last, first + 1), end)
        yield first, last
        first = last


def _is_matrix(group: Any) -> bool:
    return all(key in group for key in ("chroms", "bins", "pixels", "indexes"))


def _matrices(file: h5py.File) -> list[str]:
    """Groups that hold a matrix: the root, or the levels of an .mcool of either layout."""
    if _is_matrix(file):
        return ["/"]
    parent = file.get("resolutions", file)
    found = [str(group.name) for group in parent.values() if hasattr(group, "keys") and _is_matrix(group)]
    return sorted(found, key=lambda name: (len(name), name))


def _bin_size(group: h5py.Group) -> int | None:
    """Width of the fixed bins, None if they vary."""
    import cooler

    size = cooler.Cooler(group).binsize
    return None if size is None else int(size)


def _convention(name: str, column: h5py.Dataset) -> bool | None:
    """Whether a balancing vector divides: as the file states it, else as its name implies, else None."""
    if "divisive_weights" in column.attrs:
        return bool(np.ravel(column.attrs["divisive_weights"])[0])
    if _DIVISIVE.fullmatch(name):
        return True
    return False if _MULTIPLICATIVE.fullmatch(name) else None
