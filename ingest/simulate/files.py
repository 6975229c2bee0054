"""Writers of the file formats of the field. Equal input gives equal bytes, for the same library versions."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from ingest.simulate.genome import SimulatedGenome, Transcript
from ingest.simulate.signals import bin_table

LINE = 60
LETTERS = np.frombuffer(b"ACGTNNNNacgtnnnn", np.uint8)


def write_fasta(path: Path, sequence: dict[str, np.ndarray]) -> None:
    """Write codes (0-3 = A C G T, 4 = N, 8 added where soft-masked) as FASTA, 60 bases a line."""
    with path.open("wb") as out:
        for name, codes in sequence.items():
            letters = LETTERS[codes]
            whole = len(letters) // LINE * LINE
            lines = np.full((whole // LINE, LINE + 1), ord("\n"), np.uint8)
            lines[:, :LINE] = letters[:whole].reshape(-1, LINE)
            rest = letters[whole:].tobytes() + b"\n" if whole < len(letters) else b""
            out.write(f">{name}\n".encode() + lines.tobytes() + rest)


def write_bigwig(path: Path, contigs: dict[str, int], values: Iterator[tuple[str, np.ndarray]]) -> None:
    """Write ``(contig, (length,) float32)`` as a bigWig of runs; NaN is left out and so uncovered."""
    import pyBigWig

    with pyBigWig.open(str(path), "w") as out:
        out.addHeader(list(contigs.items()))
        for name, track in values:
            starts, ends, runs = run_lengths(track)
            if len(runs):
                out.addEntries(np.full(len(runs), name), starts, ends=ends, values=runs)


def run_lengths(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Runs of equal values: starts, ends (int64) and values, without those of NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    starts = np.concatenate([[0], np.flatnonzero(bits[1:] != bits[:-1]) + 1])
    ends = np.append(starts[1:], len(values))
    covered = ~np.isnan(values[starts])
    return starts[covered], ends[covered], values[starts][covered]


def write_mcool(path: Path, contigs: dict[str, int], pixels: pd.DataFrame, bin_sizes: list[int]) -> None:
    """Write contact counts as a multi-resolution cooler with ``weight`` (ICE) and ``VC`` columns.

    Parameters
    ----------
    path
        Of the .mcool file.
    contigs
        Name to length in bp.
    pixels
        ``bin1_id, bin2_id, count`` at ``bin_sizes[0]``, upper triangle, sorted.
    bin_sizes
        In bp, each a multiple of the first.

    Notes
    -----
    ``weight`` is multiplicative, by cooler's own balancing within contigs. ``VC`` is divisive, as cooler
    takes that name: the marginal of each bin within its contig, scaled so that the balanced contacts of a
    contig sum to what the raw ones do; NaN where ``weight`` is.
    """
    import h5py

    with tempfile.TemporaryDirectory(dir=path.parent) as scratch, h5py.File(path, "w") as out:
        out.attrs["format"], out.attrs["format-version"] = "HDF5::MCOOL", 2
        for bin_size in bin_sizes:
            single = Path(scratch) / f"{bin_size}.cool"
            _write_cool(single, contigs, pixels, bin_sizes[0], bin_size)
            group = out.create_group(f"resolutions/{bin_size}")
            # Copied, because cooler stamps the time into its own file and HDF5 keeps what is overwritten.
            with h5py.File(single) as source:
                for name in source:
                    source.copy(name, group)
                attributes = {**source.attrs, "creation-date": "2000-01-01T00:00:00.000000"}
            for key, value in attributes.items():
                group.attrs[key] = value


def _write_cool(path: Path, contigs: dict[str, int], pixels: pd.DataFrame, base: int, bin_size: int) -> None:
    import cooler

    bins = bin_table(contigs, bin_size)
    if bin_size != base:
        pixels = coarsen(pixels, bin_table(contigs, base), bins, bin_size)
    cooler.create_cooler(str(path), bins, pixels, dtypes={"count": np.int32}, ordered=True, assembly="simulated")
    weight, _ = cooler.balance_cooler(cooler.Cooler(str(path)), cis_only=True, store=True)
    vc = _vanilla_coverage(bins, pixels)
    vc[np.isnan(weight)] = np.nan
    import h5py

    with h5py.File(path, "r+") as file:
        file["bins"].create_dataset("VC", data=vc)


def coarsen(pixels: pd.DataFrame, fine: pd.DataFrame, coarse: pd.DataFrame, bin_size: int) -> pd.DataFrame:
    """Sum the pixels of ``fine`` bins into ``coarse`` ones; both number each contig's bins from its start."""
    first = coarse.groupby("chrom", sort=False).size().cumsum().shift(fill_value=0)
    of_bin = (fine.chrom.map(first) + fine.start // bin_size).to_numpy()
    keys = of_bin[pixels.bin1_id] * len(coarse) + of_bin[pixels.bin2_id]
    unique, inverse = np.unique(keys, return_inverse=True)
    counts = np.bincount(inverse, weights=pixels["count"]).astype(np.int32)
    return pd.DataFrame({"bin1_id": unique // len(coarse), "bin2_id": unique % len(coarse), "count": counts})


def _vanilla_coverage(bins: pd.DataFrame, pixels: pd.DataFrame) -> np.ndarray:
    contig = pd.factorize(bins.chrom)[0]
    i, j, count = (pixels[name].to_numpy() for name in ("bin1_id", "bin2_id", "count"))
    cis = contig[i] == contig[j]
    i, j, count = i[cis], j[cis], count[cis]
    twice = np.where(i == j, 1, 2)
    vc = np.bincount(i, count, len(bins)) + np.bincount(j, np.where(i == j, 0, count), len(bins))
    vc[vc == 0] = np.nan
    raw = np.bincount(contig[i], twice * count)
    balanced = np.bincount(contig[i], twice * count / (vc[i] * vc[j]))
    scaled: np.ndarray = vc * np.sqrt(balanced / raw)[contig]
    return scaled


def write_gtf(path: Path, genome: SimulatedGenome) -> None:
    """Write the gene models as GENCODE does: 1-based, closed, sorted by position, one transcript a gene."""
    rows: list[tuple[str, int, str]] = []
    for gene, transcript in zip(genome.genes.to_dict("records"), genome.transcripts, strict=True):
        rows.append((gene["contig"], gene["start"], _gene_lines(gene, _parts(gene["strand"], transcript))))
    for gene in genome.noncoding.to_dict("records"):
        rows.append((gene["contig"], gene["start"], _gene_lines(gene, [("exon", gene["start"], gene["end"], 1)])))
    order = list(genome.contigs)
    rows.sort(key=lambda row: (order.index(row[0]), row[1]))
    header = "##description: simulated gene models\n##provider: genostore simulate\n##format: gtf\n"
    path.write_text(header + "".join(lines for _, _, lines in rows), encoding="utf-8")


def _parts(strand: str, t: Transcript) -> list[tuple[str, int, int, int]]:
    """Feature, start, end, exon number."""
    parts = []
    for number, (exon, cds) in enumerate(zip(t.exons, t.cds, strict=True), start=1):
        parts += [("exon", *exon, number), ("CDS", *cds, number)]
    first, last = (t.cds[0], t.cds[-1])
    start = (first[0], first[0] + 3) if strand == "+" else (first[1] - 3, first[1])
    stop = (last[1] - 3, last[1]) if strand == "+" else (last[0], last[0] + 3)
    parts += [("start_codon", *start, 1), ("stop_codon", *stop, len(t.exons))]
    return [*parts, ("UTR", *t.utr5, 1), ("UTR", *t.utr3, len(t.exons))]


def _gene_lines(gene: dict, parts: list[tuple[str, int, int, int]]) -> str:
    identity, name, biotype = gene["id"], gene["name"], gene["biotype"]
    transcript = identity.replace("SIMG", "SIMT")
    of_gene = f'gene_id "{identity}"; gene_type "{biotype}"; gene_name "{name}"; level 1;'
    of_transcript = (
        f'gene_id "{identity}"; transcript_id "{transcript}"; gene_type "{biotype}"; gene_name "{name}"; '
        f'transcript_type "{biotype}"; transcript_name "{name}-201"; level 1; '
        'tag "basic"; tag "Ensembl_canonical";'
    )

    def line(feature: str, start: int, end: int, attributes: str) -> str:
        fields = gene["contig"], "SIM", feature, start + 1, end, ".", gene["strand"], ".", attributes
        return "\t".join(map(str, fields)) + "\n"

    text = line("gene", gene["start"], gene["end"], of_gene)
    text += line("transcript", gene["start"], gene["end"], of_transcript)
    for feature, start, end, number in parts:
        exon = f' exon_number {number}; exon_id "{transcript.replace("SIMT", "SIME")}.{number}";'
        text += line(feature, start, end, of_transcript + exon)
    return text
