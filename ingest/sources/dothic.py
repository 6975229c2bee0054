"""Contacts of .hic files, versions 8 and 9, read with hictkpy.

hictkpy does not notice a file cut off within its last part, so every offset that the footer names is compared with
the file's size first. The layout is that of the hic-format description of the Aiden lab, versions 8 and 9.
"""

from __future__ import annotations

import atexit
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, cached_property
from os import PathLike
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

import numpy as np

from genostore.contained import note
from genostore.errors import SourceError
from ingest.sources.base import Band, Weight, check_band, refuse_twice
from ingest.sources.reading import HIC, PerThread, describe, head, naming

_IMPORTING = Lock()
_ROWS = 4096  # bins fetched at once: fewer cost time, more cost memory (8 million pixels if all are full)


@cache
def hictkpy() -> Any:
    """Import hictkpy, and end the thread that its release 1.4.0 starts then.

    That one looks for messages to log without a pause, which keeps a core busy for as long as the process lives. What
    ends it is left with ``atexit`` alone, by the import.
    """
    ends: list[Any] = []

    def overhear(function: Any, *args: Any, **kwargs: Any) -> Any:
        ends.append(function)
        return register(function, *args, **kwargs)

    with _IMPORTING:
        register = atexit.register
        atexit.register = overhear  # type: ignore[assignment]
        try:
            import hictkpy
        finally:
            atexit.register = register
    for end in ends:
        if type(end).__module__ == "nanobind":  # not of the packages that it imports
            end()
    return hictkpy


class HicSource:
    """One resolution of a .hic file: observed counts, raw.

    Counts are float32, as the file stores them. All normalisation vectors of a .hic divide the counts.

    Parameters
    ----------
    path
        The file.
    bin_size
        The resolution, in bases. None takes the only one there is.

    Raises
    ------
    SourceError
        On first use: not a .hic, of another version than 8 and 9, truncated, or without the bin size.
    """

    dtype: np.dtype[Any] = np.dtype(np.float32)

    def __init__(self, path: str | PathLike[str], bin_size: int | None = None) -> None:
        self.path = Path(path)
        self._bin_size = bin_size

    @cached_property
    def bin_size(self) -> int:
        """Width of a bin in bases."""
        check_structure(self.path)
        with _reading(self.path):
            sizes = [int(size) for size in hictkpy().MultiResFile(str(self.path)).resolutions()]
        listed = ", ".join(f"{size:,}" for size in sorted(sizes))
        if self._bin_size is None and len(sizes) == 1:
            return sizes[0]
        if self._bin_size is None:
            raise SourceError(f"{self.path}: has several bin sizes; ask for one of them: {listed}")
        if self._bin_size not in sizes:
            raise SourceError(f"{self.path}: has no bins of {self._bin_size:,} bases; it has {listed}")
        return self._bin_size

    @cached_property
    def contigs(self) -> dict[str, int]:
        """Lengths by name in the order in which the bins are numbered."""
        with _reading(self.path):
            return {name: int(length) for name, length in self._handle().chromosomes().items()}

    @property
    def extents(self) -> dict[str, int]:
        """The lengths, which the file states."""
        return self.contigs

    @cached_property
    def weight_names(self) -> list[str]:
        """Normalisations of this resolution, such as KR, SCALE, VC and VC_SQRT."""
        with _reading(self.path):
            return sorted(self._handle().avail_normalizations())

    def weights(
        self, names: Iterable[str] | None = None, divisive: Mapping[str, bool] | None = None
    ) -> dict[str, Weight]:
        """Normalisation vectors by name; see :class:`~ingest.sources.base.ContactSource`.

        Contigs without a vector have NaN. A bin whose VC is 0, as the file says of empty ones, stays 0.
        """
        stated = divisive or {}
        found = {}
        for name in self.weight_names if names is None else names:
            if name not in self.weight_names:
                there = f"it has {', '.join(self.weight_names)}" if self.weight_names else "it has none"
                raise SourceError(f"{self.path}: has no normalisation {name!r} at {self.bin_size:,} bases; {there}")
            if stated.get(name) is False:
                raise SourceError(f"{self.path}: {name} divides the counts, as every normalisation of a .hic does")
            with _reading(self.path):
                found[name] = Weight(np.array(self._handle().weights(name, divisive=True), dtype=np.float64), True)
        return found

    def band(self, contig: str, bin_start: int, bin_end: int, n_offsets: int) -> Band:
        """Raw contacts near the diagonal; see :class:`~ingest.sources.base.ContactSource`."""
        check_band(str(self.path), self.contigs, contig, bin_start, bin_end, n_offsets)
        values = np.zeros((bin_end - bin_start, n_offsets), dtype=self.dtype)
        n_bins = -(-self.contigs[contig] // self.bin_size)
        beyond_pixels, beyond_sum = 0, 0.0
        for lo in range(bin_start, min(bin_end, n_bins), _ROWS):
            hi = min(lo + _ROWS, bin_end, n_bins)
            part = self._rows(contig, lo, hi, n_offsets)
            values[lo - bin_start : hi - bin_start] = part.values
            beyond_pixels += part.beyond_pixels
            beyond_sum += part.beyond_sum
        return Band(values, beyond_pixels, beyond_sum)

    def validate(self) -> None:
        """Check the structure of the file; see the class for errors."""
        self.__dict__.pop("bin_size", None)
        _ = self.bin_size, self.contigs, self.weight_names

    @cached_property
    def _handle(self) -> PerThread[Any]:
        return PerThread(self.path, _Opener(self.bin_size))

    @cached_property
    def _first_bin(self) -> dict[str, int]:
        counts = [-(-length // self.bin_size) for length in self.contigs.values()]
        return dict(zip(self.contigs, map(int, np.cumsum([0, *counts])), strict=False))

    def _rows(self, contig: str, lo: int, hi: int, n_offsets: int) -> Band:
        """Fetch the upper triangle of a few rows: the square on the diagonal, and what is right of it.

        Only the band is fetched as pixels; the rest, which may be large, as a count and a sum.
        """
        size, length, first = self.bin_size, self.contigs[contig], self._first_bin[contig]
        rows, right = (
            f"{contig}\t{start * size}\t{end}" for start, end in ((lo, min(hi * size, length)), (hi, length))
        )
        values = np.zeros((hi - lo, n_offsets), dtype=self.dtype)
        beyond_pixels, beyond_sum = 0, 0.0
        with _reading(self.path):
            fetch = self._handle().fetch
            tables = [fetch(rows, count_type="float32", query_type="BED").to_arrow()]
            if hi * size < length:
                near = fetch(rows, right, count_type="float32", query_type="BED", diagonal_band_width=n_offsets)
                tables.append(near.to_arrow())
                all_right = fetch(rows, right, count_type="float64", query_type="BED").describe(["nnz", "sum"])
                counts = tables[1].column("count").to_numpy()
                beyond_pixels = int(all_right["nnz"]) - int(np.count_nonzero(counts))
                beyond_sum = float(all_right["sum"]) - float(counts.sum(dtype=np.float64))
        for table in tables:
            bin1, bin2, counts = (table.column(name).to_numpy() for name in ("bin1_id", "bin2_id", "count"))
            offset = bin2 - bin1
            inside = (offset >= 0) & (offset < n_offsets)  # some writers repeat the lower triangle
            places = ((bin1 - first - lo) * n_offsets + offset)[inside]
            remedy = "make the file again with juicer_tools or hictk"
            refuse_twice(str(self.path), places, bin1[inside], bin2[inside], remedy)
            values.reshape(-1)[places] = counts[inside]
            beyond = counts[offset >= n_offsets]
            beyond_pixels += int(np.count_nonzero(beyond))
            beyond_sum += float(beyond.sum(dtype=np.float64))
        return Band(values, beyond_pixels, beyond_sum)


class _Opener:
    """Opens one resolution; a class so that it pickles."""

    def __init__(self, bin_size: int) -> None:
        self.bin_size = bin_size

    def __call__(self, path: str) -> Any:
        return hictkpy().File(path, self.bin_size)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what hictkpy raises into a :class:`SourceError` that names the file; a count may ask for any memory."""
    note(str(path))
    try:
        yield
    except (RuntimeError, MemoryError, ValueError, IndexError, OverflowError) as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(f"{path}: cannot be decoded as .hic, so it is damaged ({error}); fetch it again") from None


def check_structure(path: Path) -> None:
    """Check a .hic file's magic and version, and that all its footer points to lies within the file.

    Raises
    ------
    SourceError
        If the file is no .hic of version 8 or 9, or is truncated or damaged.
    """
    first = head(path, 16)
    if not first.startswith(HIC):
        raise SourceError(f"{path}: is not a .hic file: {describe(first)}")
    with naming(path), path.open("rb") as file:
        footer = _Footer(file, path)
        footer.skip(len(HIC))
        version, position = footer.integer(4), footer.integer(8)
        if version not in (8, 9):
            raise SourceError(
                f"{path}: is a .hic of version {version}; versions 8 and 9 can be read, so make it again with a "
                "newer juicer_tools"
            )
        footer.jump(position)
        footer.check(wide=version == 9)


class _Footer:
    """The last part of a .hic, which says where everything else is."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path, self._size = file, path, path.stat().st_size

    def check(self, wide: bool) -> None:
        """Walk it; ``wide`` is version 9, whose counts are 8 bytes and whose floats are 4."""
        count, real = (8, 4) if wide else (4, 8)
        self.skip(count)  # its own length
        for _ in range(self._number_of("matrices")):
            self._text()
            self._reaches(self.integer(8), self.integer(4))
        for normalised in (False, True):
            if normalised and self._file.tell() == self._size:
                return  # a file without normalisations may end here
            for _ in range(self._number_of("expected vectors")):
                for _ in range(2 if normalised else 1):
                    self._text()  # the normalisation's name, the unit
                self.skip(4)  # the bin size
                self.skip(self.integer(count) * real)
                self.skip(self.integer(4) * (4 + real))  # a factor a contig
        for _ in range(self._number_of("normalisation vectors")):
            self._text()
            self.skip(4)  # the contig
            self._text()
            self.skip(4)  # the bin size
            self._reaches(self.integer(8), self.integer(count))

    def integer(self, width: int) -> int:
        """Read a little-endian signed integer."""
        data = self._file.read(width)
        if len(data) < width:
            raise self._truncated(self._size + 1)
        return int.from_bytes(data, "little", signed=True)

    def skip(self, size: int) -> None:
        """Pass over some bytes."""
        self.jump(self._file.tell() + size)

    def jump(self, position: int) -> None:
        """Go to a position of the file."""
        if position < 0:
            raise SourceError(f"{self._path}: its footer points before its start, so it is damaged; fetch it again")
        self._reaches(position, 0)
        self._file.seek(position)

    def _number_of(self, what: str) -> int:
        number = self.integer(4)
        if not 0 <= number <= self._size:
            raise SourceError(f"{self._path}: its footer counts {number:,} {what}, so it is damaged; fetch it again")
        return number

    def _text(self) -> None:
        while (byte := self._file.read(1)) != b"\0":
            if not byte:
                raise self._truncated(self._size + 1)

    def _reaches(self, position: int, size: int) -> None:
        if position + size > self._size:
            raise self._truncated(position + size)

    def _truncated(self, needed: int) -> SourceError:
        return SourceError(
            f"{self._path}: is truncated: it has {self._size:,} bytes, while its footer needs at least {needed:,}; "
            "fetch it again"
        )
