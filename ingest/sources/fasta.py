"""FASTA: plain, gzip or bgzip, soft-masked or not."""

from __future__ import annotations

import os
import re
import string
from contextlib import closing
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genostore.errors import SourceError, nearest
from ingest.sources.reading import GZIP, PerThread, describe, head, naming, opened
from ingest.sources.scratch import derived

if TYPE_CHECKING:
    from pyfaidx import Faidx

OTHER = 4  # any base but A, C, G, T
SOFT_MASKED = 8  # added to the code of a lower-case base
_INVALID = 255
_BLOCK = 1 << 24  # bases, or bytes, at a time


def _code_table() -> NDArray[np.uint8]:
    """Map each byte to its code; the letters are those of IUPAC and X, which some maskers write."""
    table = np.full(256, _INVALID, dtype=np.uint8)
    for letter in "ACGTURYSWKMBDHVNX":
        code = "ACGT".find(letter)
        table[ord(letter)] = code if code >= 0 else OTHER
        table[ord(letter.lower())] = table[ord(letter)] + SOFT_MASKED
    return table


_CODES = _code_table()


class Fasta:
    """The sequences of a FASTA file, read at random.

    The index, and for gzip and bgzip a decompressed copy, are made once in a scratch folder, never
    beside the source. Memory is bounded by what is asked for, not by the file.

    Parameters
    ----------
    path
        The file; compression is told by content.
    scratch
        Folder for what is derived from it, shared by the processes that are given the same one. Without
        it each process makes its own, for its life.

    Raises
    ------
    SourceError
        On first use: text that is not FASTA, a name given twice, an empty sequence, lines of unequal
        length within a sequence, a truncated gzip stream.
    """

    def __init__(self, path: str | PathLike[str], scratch: str | PathLike[str] | None = None) -> None:
        self.path = Path(path)
        self._scratch = Path(scratch) if scratch is not None else None

    @property
    def _handle(self) -> PerThread[Faidx]:
        held: PerThread[Faidx] | None = self.__dict__.get("_held")
        if held is None:
            folder = derived(self.path, "fasta", self._prepare, self._scratch)
            held = self.__dict__["_held"] = PerThread(folder / "sequence.fa", _open)
        return held

    def __getstate__(self) -> dict[str, Any]:
        # Another process without a common scratch folder derives its own.
        return {k: v for k, v in self.__dict__.items() if k != "_held"}

    @cached_property
    def contigs(self) -> dict[str, int]:
        """Lengths by name, in the order of the file."""
        return {name: record.rlen for name, record in self._handle().index.items()}

    def codes(self, contig: str, start: int, end: int) -> NDArray[np.uint8]:
        """Codes of ``[start, end)`` of a contig.

        Returns
        -------
        numpy.ndarray
            ``(end - start,)`` uint8: 0-3 = A C G T, 4 = any other letter of IUPAC; 8 added where soft-masked.

        Raises
        ------
        SourceError
            If there is no such contig, the range passes its ends, or a character is no nucleotide code.
        """
        raw = self._bases(contig, start, end)
        codes = _CODES[raw]
        if codes.size and codes.max() == _INVALID:
            at = int(np.argmax(codes == _INVALID))
            raise SourceError(
                f"{self.path}: record {contig!r} has {chr(raw[at])!r} at position {start + at:,}, which is "
                "no nucleotide code of IUPAC; is this a file of proteins?"
            )
        return codes

    @cached_property
    def counts(self) -> dict[str, int]:
        """How often each letter but A, C, G and T occurs, upper-cased; all of them are stored as 4.

        The first time, this reads the whole file.
        """
        total: dict[str, int] = {}
        for contig, length in self.contigs.items():
            for start in range(0, length, _BLOCK):
                for letter, n in self.others(contig, start, min(start + _BLOCK, length)).items():
                    total[letter] = total.get(letter, 0) + n
        return dict(sorted(total.items()))

    def others(self, contig: str, start: int, end: int) -> dict[str, int]:
        """How often each letter but A, C, G and T occurs in ``[start, end)`` of a contig, upper-cased."""
        seen = np.bincount(self._bases(contig, start, end), minlength=256)
        letters = (letter for letter in string.ascii_uppercase if letter not in "ACGT")
        both = {letter: int(seen[ord(letter)] + seen[ord(letter.lower())]) for letter in letters}
        return {letter: n for letter, n in both.items() if n}

    def validate(self) -> None:
        """Check the file's layout, and every character of it.

        Raises
        ------
        SourceError
            See the class and :meth:`codes`.
        """
        for contig, length in self.contigs.items():
            for start in range(0, length, _BLOCK):
                self.codes(contig, start, min(start + _BLOCK, length))

    def _bases(self, contig: str, start: int, end: int) -> NDArray[np.uint8]:
        length = self.contigs.get(contig)
        if length is None:
            raise SourceError(f"{self.path}: has no record {contig!r}; {nearest(contig, self.contigs)}")
        if not 0 <= start <= end <= length:
            raise SourceError(
                f"{self.path}: {contig}:{start}-{end} passes an end of the record, which has {length:,} bases"
            )
        if start == end:
            return np.empty(0, dtype=np.uint8)
        text: str = self._handle().fetch(contig, start + 1, end)  # counts from 1, ends inclusive
        raw = np.frombuffer(text.encode("latin-1"), dtype=np.uint8)
        if len(raw) != end - start:
            raise SourceError(f"{self.path}: gave {len(raw):,} bases for {contig}:{start}-{end}; did the file change?")
        return raw

    def _prepare(self, folder: Path) -> None:
        """Fill the scratch folder: ``sequence.fa``, a link or a decompressed copy, and its index."""
        first = head(self.path)
        plain = folder / "sequence.fa"
        if first.startswith(GZIP):
            self._decompress(plain)
            first = head(plain)
        else:
            plain.symlink_to(self.path.resolve())
        if not first.lstrip().startswith((b">", b";")):
            raise SourceError(
                f"{self.path}: is not FASTA: a record begins with '>' and its name, but {describe(first)}"
            )
        records = _build_index(self.path, plain)
        empty = [name for name, record in records.items() if record.rlen == 0]
        if empty:
            more = f" ({len(empty)} records have none)" if len(empty) > 1 else ""
            raise SourceError(
                f"{self.path}: record {empty[0]!r} has no sequence{more}; remove such records, or fetch "
                "the file again if they should have one"
            )
        _check_layout(self.path, plain, records)

    def _decompress(self, target: Path) -> None:
        record = b""
        try:
            with opened(self.path) as stream, target.open("wb") as out:
                while block := stream.read1(1 << 20):  # not read(), which loses what comes before an error
                    out.write(block)
                    at = block.rfind(b">")
                    record = block[at + 1 : at + 200] if at >= 0 else record
        except SourceError as error:
            name = record.split(maxsplit=1)[0].decode("utf-8", "replace") if record.strip() else None
            where = f"; the last record that begins before that is {name!r}" if name else ""
            raise SourceError(f"{error}{where}") from None


def _open(path: str) -> Faidx:
    from pyfaidx import Faidx

    # The scratch folder's key settles whether the index is fresh.
    return Faidx(path, indexname=f"{path}.fai", as_raw=True, rebuild=False)


def _build_index(source: Path, plain: Path) -> dict[str, Any]:
    """Index ``plain`` and return pyfaidx's records; errors name ``source``."""
    from pyfaidx import FastaIndexingError

    try:
        with naming(source), closing(_open(str(plain))) as indexed:
            records: dict[str, Any] = indexed.index
    except UnicodeDecodeError:
        raise SourceError(f"{source}: is not FASTA: it holds bytes that are not text") from None
    except (FastaIndexingError, ValueError) as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(f"{source}: {_why(str(error))}") from None
    index = plain.with_name(f"{plain.name}.fai")
    newest = max(index.stat().st_mtime_ns, plain.stat().st_mtime_ns)
    os.utime(index, ns=(newest, newest))  # a source dated in the future would make pyfaidx warn
    return records


def _why(message: str) -> str:
    """Say in our words what pyfaidx found."""
    if twice := re.match(r'Duplicate key "(.*)"', message):
        return f"record {twice[1]!r} is given twice; contig names must be unique, so rename or remove one"
    if ragged := re.search(r"Inconsistent line found in >(.*?) at line (\d+)", message):
        return (
            f"record {ragged[1].split()[0]!r} has lines of unequal length (line {ragged[2]}), so it cannot "
            "be read at random; wrap its lines at one width"
        )
    if "Bad sequence name" in message:
        return "a record has no name after its '>'"
    return f"cannot be indexed as FASTA: {message}"


def _check_layout(source: Path, plain: Path, records: dict[str, Any]) -> None:
    """Check that each last line lies where the index puts it; pyfaidx misreads a longer one."""
    ordered = sorted(records.items(), key=lambda item: item[1].offset)
    ends = [record.offset for _, record in ordered[1:]] + [plain.stat().st_size]
    with plain.open("rb") as file:
        for (name, record), end in zip(ordered, ends, strict=True):
            full, last = divmod(record.rlen - 1, record.lenc)
            line = record.offset + full * record.lenb
            file.seek(line - 1)
            before = file.read(1)
            file.seek(line + last + 1)
            after = file.read(max(end - line - last - 1, 0))
            if before != b"\n" or not re.fullmatch(rb"\s*(>[^\n]*\n)?", after):
                raise SourceError(
                    f"{source}: the last line of record {name!r} is longer than those before it; wrap its "
                    "lines at one width"
                )
