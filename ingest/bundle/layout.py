"""Where things lie in the published bundle (the Hugging Face data set ``xingyusu/GeneExp``)."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import h5py

from genostore.errors import SourceError

MRNA_FEATURES = (
    *(f"{part}_log10zscore" for part in ("UTR5LEN", "CDSLEN", "INTRONLEN", "UTR3LEN")),
    *("UTR5GC", "CDSGC", "UTR3GC", "ORFEXONDENSITY"),
)
PROMOTER = ("H3K27ac.RPM.TSS1Kb", "DHS.RPM.TSS1Kb")
FOLDS = tuple(f"fold_{k}" for k in range(1, 13))


@dataclass(frozen=True)
class Bundle:
    """A folder in the published layout; its pickles are never read."""

    root: Path

    @property
    def parts(self) -> Path:
        """Where all but the sequence lies."""
        return self.root / "promo_enhan_inter"

    @property
    def fasta(self) -> Path:
        """The sequence."""
        return self._file(self.root / "hg38" / "hg38.ml.fa")

    @property
    def expression(self) -> Path:
        """Expression and mRNA features of all genes."""
        return self._file(self.parts / "GM12878_K562_18377_gene_expr_fromXpresso.csv")

    @property
    def splits(self) -> Path:
        """The twelve folds."""
        return self._file(self.parts / "leave_chrom_out_crossvalidation_split_18377genes.csv")

    @cached_property
    def lengths(self) -> dict[str, int]:
        """Lengths of the contigs of hg38, from ``chr_length.json``."""
        path = self._file(self.root / "chr_length.json")
        try:
            return {str(name): int(length) for name, length in json.loads(path.read_text())["hg38"].items()}
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise SourceError(f'{path} is not {{"hg38": {{contig: length}}}}: {error!r}') from error

    @cached_property
    def cell_types(self) -> list[str]:
        """Those with both signals, in alphabetical order."""
        both = [self._folders(self.parts / assay) for assay in ("H3K27ac", "DNase-seq")]
        found = sorted(set.intersection(*both))
        if not found:
            raise SourceError(
                f"{self.root} has no cell type with H3K27ac and DNase-seq below {self.parts}; expected the layout of "
                f"xingyusu/GeneExp, such as promo_enhan_inter/DNase-seq/K562/ENCFF414OGC.bigWig"
            )
        return found

    def signal(self, assay: str, cell_type: str) -> Path:
        """The bigWig of ``H3K27ac`` or ``DNase-seq``; its name is the accession."""
        return self._one(self.parts / assay / cell_type, "*.bigWig")

    def gene_list(self, cell_type: str) -> Path | None:
        """The ABC pipeline's list of genes, with TSSs and promoter activity."""
        found = sorted(self.parts.glob(f"{cell_type}_*/*Neighborhoods/GeneList.txt"))
        if len(found) > 1:
            raise SourceError(f"{cell_type} has several gene lists: {', '.join(map(str, found))}; keep one")
        return found[0] if found else None

    def cage(self, cell_type: str) -> Path | None:
        """A CAGE signal, for a cell type that the table lacks."""
        found = sorted((self.parts / "CAGE" / cell_type).glob("*.b[wi]*"))
        return found[0] if found else None

    def profiles(self, cell_type: str) -> dict[str, Path]:
        """Files of Hi-C profiles by contig."""
        found = sorted((self.parts / "HiC" / cell_type).glob("hic_feat_*.h5"))
        return {path.stem.removeprefix("hic_feat_"): path for path in found}

    def hic_accession(self, cell_type: str) -> str | None:
        """Of the .hic that the profiles were cut from, as the name of the ABC folder has it."""
        listed = self.gene_list(cell_type)
        match = re.search(r"_(4DN[A-Z0-9]{9})_", str(listed)) if listed else None
        return match[1] if match else None

    def used_genes(self, cell_type: str) -> set[str] | None:
        """Ids that the release trains and tests on; None without the file that lists them."""
        found = sorted(self.parts.glob(f"{cell_type}_*encoding.h5"))
        if not found:
            return None
        with h5py.File(found[0], "r") as file:
            if "ensid" not in file:
                raise SourceError(f"{found[0]} has no data set 'ensid'; it holds {', '.join(file)}")
            return {value.decode() if isinstance(value, bytes) else str(value) for value in file["ensid"][:].ravel()}

    def _file(self, path: Path) -> Path:
        if not path.is_file():
            raise SourceError(f"{self.root} is not the published bundle, or not all of it: there is no {path}")
        return path

    def _one(self, folder: Path, pattern: str) -> Path:
        found = sorted(folder.glob(pattern))
        if len(found) != 1:
            raise SourceError(f"{folder} holds {len(found)} files {pattern}; expected one")
        return found[0]

    @staticmethod
    def _folders(folder: Path) -> set[str]:
        return {entry.name for entry in folder.iterdir() if entry.is_dir()} if folder.is_dir() else set()


def columns_of(path: Path, separator: str = ",") -> list[str]:
    """The header of a table."""
    with path.open(newline="") as file:
        return next(csv.reader(file, delimiter=separator), [])


def rows_of(path: Path, columns: tuple[str, ...], separator: str = "\t") -> list[tuple[str, ...]]:
    """Some columns of a table.

    Raises
    ------
    SourceError
        If it lacks one.
    """
    with path.open(newline="") as file:
        reader = csv.DictReader(file, delimiter=separator)
        lacking = [c for c in columns if c not in (reader.fieldnames or ())]
        if lacking:
            had = ", ".join(reader.fieldnames or ())
            raise SourceError(f"{path} lacks the columns {', '.join(lacking)}; it has {had}")
        return [tuple(row[c] for c in columns) for row in reader]
