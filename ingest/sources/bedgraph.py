"""bedGraph, plain or gzip: parsed once into columns on disk, so that memory does not grow with the file."""

from __future__ import annotations

import io
import json
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genostore.errors import SourceError, nearest
from ingest.sources.reading import blocks, expect_text, shorten
from ingest.sources.scratch import derived

_COMMENTS = (b"#", b"track ", b"track\t", b"browser ", b"browser\t")
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_COLUMNS: dict[str, np.dtype[Any]] = {
    "start": np.dtype("<i8"),
    "end": np.dtype("<i8"),
    "value": np.dtype("<f4"),
}


class BedGraph:
    """The values of a bedGraph, one a base.

    Parameters
    ----------
    path
        The file, plain or gzip (told by content), with lines ``contig start end value`` separated by tabs
        or spaces, 0-based and half-open, sorted within each contig and without overlap; track, browser and
        comment lines are skipped.
    scratch
        Folder for the parsed columns, shared by the processes that are given the same one. Without it each
        process parses for itself.

    Raises
    ------
    SourceError
        On first use: a line that is no interval with a number, is out of order, overlaps the one before, or
        returns to a contig; the line is named.
    """

    contigs = None  # a bedGraph states no lengths

    def __init__(self, path: str | PathLike[str], scratch: str | PathLike[str] | None = None) -> None:
        self.path = Path(path)
        self._scratch = Path(scratch) if scratch is not None else None

    @property
    def extents(self) -> dict[str, int]:
        """End of the last interval of each contig, in the order of the file."""
        return {contig: extent for contig, (_, _, extent) in self._parsed[1].items()}

    def values(self, contig: str, start: int, end: int) -> NDArray[np.float32]:
        """Values of ``[start, end)`` of a contig, as the file has them: inf, nan and -0 are kept.

        Returns
        -------
        numpy.ndarray
            ``(end - start,)`` float32; NaN between intervals.

        Raises
        ------
        SourceError
            If no line names the contig.
        """
        folder, runs = self._parsed
        if contig not in runs:
            raise SourceError(f"{self.path}: has no contig {contig!r}; {nearest(contig, runs)}")
        first, count, _ = runs[contig]
        columns = {
            name: np.memmap(folder / name, dtype, "r", first * dtype.itemsize, (count,))
            for name, dtype in _COLUMNS.items()
        }
        lo = int(np.searchsorted(columns["end"], start, side="right"))
        hi = int(np.searchsorted(columns["start"], end, side="left"))
        edges = np.stack([columns["start"][lo:hi], columns["end"][lo:hi]], axis=1).ravel().clip(start, end)
        steps = np.diff(edges, prepend=start, append=end)  # gap, interval, gap, interval, ..., gap
        filled = np.full(len(steps), np.nan, dtype=np.float32)
        filled[1::2] = columns["value"][lo:hi]
        return np.repeat(filled, steps)

    def validate(self) -> None:
        """Parse the whole file; see the class for errors."""
        _ = self._parsed

    @cached_property
    def _parsed(self) -> tuple[Path, dict[str, tuple[int, int, int]]]:
        """The folder of columns, and (first row, rows, last end) by contig."""
        folder = derived(self.path, "bedgraph", self._parse, self._scratch)
        return folder, {k: tuple(v) for k, v in json.loads((folder / "contigs.json").read_text()).items()}

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_parsed"}

    def _parse(self, folder: Path) -> None:
        expect_text(self.path, "a bedGraph")
        runs: dict[str, tuple[int, int, int]] = {}
        files = [(folder / name).open("wb") for name in _COLUMNS]
        try:
            for number, block in blocks(self.path):
                rows = _Rows(self.path, number, block)
                rows.add_to(runs)
                for file, column, dtype in zip(files, rows.columns, _COLUMNS.values(), strict=True):
                    column.astype(dtype, copy=False).tofile(file)
        finally:
            for file in files:
                file.close()
        if not runs:
            raise SourceError(f"{self.path}: is a bedGraph without intervals")
        (folder / "contigs.json").write_text(json.dumps(runs))


class _Rows:
    """The intervals of one block of lines."""

    def __init__(self, path: Path, number: int, block: bytes) -> None:
        self.path, self.number, self.block = path, number, block
        self.names: list[str] = []
        self.codes = np.empty(0, np.int64)
        self.columns = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
        commented = any(mark in block for mark in _COMMENTS)
        kept = b"\n".join(line for _, line in self._data()) if commented else block
        if kept.strip():
            self._read(kept)

    def _data(self) -> list[tuple[int, bytes]]:
        """Numbered lines that are neither blank nor comments."""
        numbered = enumerate(self.block.split(b"\n"), self.number)
        return [(n, line) for n, line in numbered if line.strip() and not line.startswith(_COMMENTS)]

    def _read(self, text: bytes) -> None:
        import pandas as pd

        columns = {0: "category", 1: np.int64, 2: np.int64, 3: np.float64}
        try:
            table = pd.read_csv(io.BytesIO(text), sep=r"\s+", header=None, dtype=columns, na_filter=False, quoting=3)
        except (ValueError, OverflowError):  # not all numbers, or not as many columns everywhere: find out which line
            self._read_by_line()
            return
        if table.shape[1] != len(columns):
            self._read_by_line()
            return
        self.names = [str(name) for name in table[0].cat.categories]
        self.codes = table[0].cat.codes.to_numpy().astype(np.int64)
        self.columns = (table[1].to_numpy(), table[2].to_numpy(), table[3].to_numpy())

    def _read_by_line(self) -> None:
        """Read line by line, as slowly as naming the bad one takes; ``nan`` as a value comes here too."""
        index: dict[str, int] = {}
        rows = []
        for number, line in self._data():
            fields = line.split()
            if fields[0] in (b"fixedStep", b"variableStep"):
                raise self._error(number, line, "is of a wiggle file; convert it with wigToBigWig")
            if len(fields) != 4:
                raise self._error(number, line, f"has {len(fields)} fields, where a bedGraph has 4")
            try:
                span, value = (int(fields[1]), int(fields[2])), float(fields[3])
            except ValueError:
                raise self._error(number, line, "has no number where one is expected") from None
            if b"_" in fields[1] + fields[2] + fields[3]:  # Python's int and float would take 1_000
                raise self._error(number, line, "has no number where one is expected")
            if max(map(abs, span)) >= 1 << 62:
                raise self._error(number, line, "has a position that no genome has")
            rows.append((index.setdefault(fields[0].decode("utf-8", "replace"), len(index)), *span, value))
        codes, starts, ends, values = zip(*rows, strict=True)
        self.names, self.codes = list(index), np.array(codes, np.int64)
        self.columns = (np.array(starts, np.int64), np.array(ends, np.int64), np.array(values, np.float64))

    def add_to(self, runs: dict[str, tuple[int, int, int]]) -> None:
        """Check the order of the rows and extend (first row, rows, last end) by contig."""
        if not len(self.codes):
            return
        starts, ends, values = self.columns
        self._refuse(starts < 0, "starts before 0")
        self._refuse(ends <= starts, "is empty or reversed (the end is not past the start)")
        self._refuse(np.isfinite(values) & (np.abs(values) > _FLOAT32_MAX), "has a value past what float32 holds")
        changes = np.flatnonzero(np.diff(self.codes)) + 1
        row = sum(count for _, count, _ in runs.values())
        for lo, hi in zip([0, *changes], [*changes, len(self.codes)], strict=True):
            contig = self.names[self.codes[lo]]
            last = next(reversed(runs)) if runs else None
            if contig in runs and contig != last:
                raise self._error_at(int(lo), f"returns to contig {contig!r} after {last!r}; sort the file")
            first, count, extent = runs.get(contig, (row + int(lo), 0, 0))
            before = np.concatenate([[extent], ends[lo : hi - 1]])
            unsorted = np.flatnonzero(starts[lo:hi] < before)
            if unsorted.size:
                at = int(unsorted[0])
                raise self._error_at(
                    int(lo) + at,
                    f"overlaps or precedes the interval before it, which ends at {before[at]:,}; sort the "
                    "file by contig and start, and give each base one value",
                )
            runs[contig] = (first, count + int(hi - lo), int(ends[hi - 1]))

    def _refuse(self, wrong: NDArray[np.bool_], why: str) -> None:
        if wrong.any():
            raise self._error_at(int(np.argmax(wrong)), why)

    def _error_at(self, row: int, why: str) -> SourceError:
        number, line = self._data()[row]
        return self._error(number, line, why)

    def _error(self, number: int, line: bytes, why: str) -> SourceError:
        return SourceError(f"{self.path}: line {number} {why}: {shorten(line)}")
