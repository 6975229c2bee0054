"""What a sequencer would see of a simulated world: read pile-ups and contact counts."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ingest.simulate.genome import Transcript
from ingest.simulate.world import World

BIN_SIZE = 5_000
MAX_CONTACT_BINS = 600  # contacts are drawn up to 3 Mb
# From pile-up to fold over the nominal background. Constants, not one over the pile-up's mean, so that what
# happens on one contig (a shifted background, say) does not change the values of another.
ACETYL_SCALE, DNASE_SCALE = 0.62, 1.45


def acetylation(world: World, contig: str, cell_type: int) -> np.ndarray:
    """H3K27ac: fragments of 160 bp around every element, in proportion to its activity, on a flat background.

    Returns
    -------
    ndarray
        ``(length,)`` float32, fold over background; NaN where nothing can be mapped.
    """
    rng = _stream(world, "H3K27ac", cell_type, contig)
    length = world.genome.contigs[contig]
    centres, activity = _sites(world, contig, cell_type)
    count = rng.poisson(45 * activity)
    # The two flanking nucleosomes carry the mark, not the open site between them.
    side = rng.choice([-1, 1], count.sum()) * 260
    near = np.repeat(centres, count) + side + rng.normal(0, 170, count.sum())
    flat = rng.uniform(0, length, rng.poisson(length / 100))
    return _pile(world, contig, np.concatenate([near, flat]), 160, ACETYL_SCALE)


def accessibility(world: World, contig: str, cell_type: int) -> np.ndarray:
    """DNase: the background state sets the level, between sites and at them; element activity does not.

    Returns
    -------
    ndarray
        ``(length,)`` float32, fold over background; NaN where nothing can be mapped.
    """
    rng = _stream(world, "DNase", cell_type, contig)
    length = world.genome.contigs[contig]
    centres, _ = _sites(world, contig, cell_type)
    # What a site is like is drawn apart from its state, so that a shift changes the state's part alone.
    height = _stream(world, "DNase sites", cell_type, contig).gamma(6.0, 10.0, len(centres))
    at_sites = np.where(world.base_states(contig, cell_type, centres) == 1, 1.5, 0.6)
    count = rng.poisson(height * at_sites)
    near = np.repeat(centres, count) + rng.normal(0, 75, count.sum())
    flat = rng.uniform(0, length, rng.poisson(length / 45))
    kept = np.where(world.base_states(contig, cell_type, flat.astype(np.int64)) == 1, 1.0, 0.35)
    flat = flat[rng.random(len(flat)) < kept]
    return _pile(world, contig, np.concatenate([near, flat]), 50, DNASE_SCALE)


def promoter_activity(world: World, cell_type: int) -> np.ndarray:
    """The release's ninth feature: the square root of H3K27ac times DNase, of their means in the 1 kb around the TSS.

    It goes with the background state as DNase does, so a model that has it sees the state without any signal.

    Returns
    -------
    ndarray
        ``(gene,)`` float64; what cannot be mapped counts as 0.
    """
    genes = world.genome.genes
    values = np.zeros(len(genes))
    for contig in world.genome.contigs:
        marks = [np.nan_to_num(make(world, contig, cell_type)) for make in (acetylation, accessibility)]
        for row in np.flatnonzero(genes.contig == contig):
            near = slice(max(0, genes.tss[row] - 500), genes.tss[row] + 500)
            values[row] = np.sqrt(marks[0][near].mean() * marks[1][near].mean())
    return values


def transcription(world: World, contig: str, cell_type: int, strand: str) -> np.ndarray:
    """RNA-seq of one strand: reads of 75 bp over the exons, in proportion to expression.

    Expression is its cause and not the other way round; used as an input it gives the answer away.

    Returns
    -------
    ndarray
        ``(length,)`` float32 reads; NaN where there is none, as in many deposited files.
    """
    rng = _stream(world, "RNA", cell_type, contig, strand)
    genes = world.genome.genes
    starts = [np.empty(0)]
    for row in np.flatnonzero(genes.contig == contig):
        level = 10 ** world.expression[row, cell_type] - 1
        share = 1.0 if genes.strand[row] == strand else 0.01
        starts.append(_exonic(rng, world.genome.transcripts[row], rng.poisson(level * share * 12)))
    values = _pile(world, contig, np.concatenate(starts), 75, 1.0)
    values[values == 0] = np.nan
    return values


def _exonic(rng: np.random.Generator, transcript: Transcript, count: int) -> np.ndarray:
    """Read centres over the exons, uniform by length."""
    exons = np.array(transcript.exons, np.float64)
    lengths = exons[:, 1] - exons[:, 0]
    which = rng.choice(len(exons), count, p=lengths / lengths.sum())
    centres: np.ndarray = exons[which, 0] + rng.random(count) * np.maximum(lengths[which] - 75, 1) + 37
    return centres


def _stream(world: World, name: str, cell_type: int, *further: object) -> np.random.Generator:
    return world.settings.stream(name, world.settings.cell_type_names[cell_type], *further)


def _sites(world: World, contig: str, cell_type: int) -> tuple[np.ndarray, np.ndarray]:
    mine = (world.elements.contig == contig).to_numpy()
    return world.elements.position.to_numpy()[mine], world.element_activity[mine, cell_type]


def _pile(world: World, contig: str, centres: np.ndarray, fragment: int, scale: float) -> np.ndarray:
    """How many fragments cover each base, scaled; NaN where nothing can be mapped."""
    length = world.genome.contigs[contig]
    starts = np.clip(centres.astype(np.int64) - fragment // 2, 0, length - 1)
    steps = np.bincount(starts, minlength=length + 1)
    steps -= np.bincount(np.minimum(starts + fragment, length), minlength=length + 1)
    values = (np.cumsum(steps[:length]) * scale).astype(np.float32)
    for a, b in world.genome.unmappable[contig]:
        values[a:b] = np.nan
    return values


def contacts(world: World, cell_type: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Hi-C: bins and raw counts of one cell type at 5 kb.

    The expected count falls with distance as d^-0.87. Neighbourhoods are domains; those of one state prefer
    each other; and an open one concentrates its contacts at short range, a closed one spreads them over the
    domain, with about equal sums, so that balancing does not remove the difference.

    Returns
    -------
    bins : DataFrame
        ``chrom, start, end``.
    pixels : DataFrame
        ``bin1_id, bin2_id, count``, upper triangle, sorted.
    """
    bins = bin_table(world.genome.contigs, BIN_SIZE)
    first, parts = 0, []
    for contig in world.genome.contigs:
        n = int((bins.chrom == contig).sum())
        parts.append(_cis(world, cell_type, contig, n, first))
        first += n
    parts.append(_trans(world, cell_type, bins, 10 * len(bins)))
    pixels = pd.concat(parts)
    keys = pixels.bin1_id * len(bins) + pixels.bin2_id
    return bins, pixels.iloc[np.argsort(keys, kind="stable")].reset_index(drop=True)


def bin_table(contigs: dict[str, int], bin_size: int) -> pd.DataFrame:
    """Bins numbered as cooler does: ceil(length / bin_size) a contig."""
    tables = []
    for name, length in contigs.items():
        start = np.arange(0, length, bin_size)
        end = np.minimum(start + bin_size, length)
        tables.append(pd.DataFrame({"chrom": name, "start": start, "end": end}))
    return pd.concat(tables, ignore_index=True)


def _cis(world: World, cell_type: int, contig: str, n: int, first: int) -> pd.DataFrame:
    rng = _stream(world, "Hi-C", cell_type, contig)
    length = world.genome.contigs[contig]
    seen = _visibility(world, cell_type, contig, n)
    middles = np.minimum(np.arange(n) * BIN_SIZE + BIN_SIZE // 2, length - 1)
    state = world.base_states(contig, cell_type, middles)
    edges = world.genome.neighbourhoods.query("contig == @contig").start.to_numpy()
    domain = np.searchsorted(edges, middles, side="right")
    rows, columns, counts = [], [], []
    for offset in range(min(n, MAX_CONTACT_BINS)):
        i = np.arange(n - offset)
        j = i + offset
        same = domain[i] == domain[j]
        short, spread = (1.7, 1.15) if offset <= 1 else (0.8, 1.15)
        within = np.where(state[i] == 1, short, spread if offset > 1 else 0.75)
        between = np.where(state[i] == state[j], 0.75, 0.45)
        rate = 70.0 * (offset + 1) ** -0.87 * np.where(same, 1.5 * within, between) * seen[i] * seen[j]
        drawn = rng.poisson(rate)
        found = np.flatnonzero(drawn)
        rows.append(i[found] + first)
        columns.append(j[found] + first)
        counts.append(drawn[found])
    return _pixels(np.concatenate(rows), np.concatenate(columns), np.concatenate(counts))


def _trans(world: World, cell_type: int, bins: pd.DataFrame, count: int) -> pd.DataFrame:
    """A few contacts between contigs, as every experiment has."""
    rng = _stream(world, "Hi-C trans", cell_type)
    pair = np.sort(rng.integers(0, len(bins), (count, 2)), axis=1)
    contig = pd.factorize(bins.chrom)[0]
    seen = np.concatenate(
        [_visibility(world, cell_type, name, int((bins.chrom == name).sum())) > 0 for name in world.genome.contigs]
    )
    pair = pair[(contig[pair[:, 0]] != contig[pair[:, 1]]) & seen[pair].all(axis=1)]
    unique, counts = np.unique(pair, axis=0, return_counts=True)
    return _pixels(unique[:, 0], unique[:, 1], counts)


def _visibility(world: World, cell_type: int, contig: str, n: int) -> np.ndarray:
    """The bias of every bin: what of it can be mapped, times an experiment's own factor."""
    length = world.genome.contigs[contig]
    blind = np.zeros(n * BIN_SIZE, bool)
    for a, b in world.genome.unmappable[contig]:
        blind[a:b] = True
    blind[length:] = True
    mappable: np.ndarray = 1 - blind.reshape(n, BIN_SIZE).mean(axis=1)
    mappable[mappable < 0.2] = 0
    return mappable * _stream(world, "Hi-C bias", cell_type, contig).lognormal(0.0, 0.15, n)


def _pixels(rows: np.ndarray, columns: np.ndarray, counts: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"bin1_id": rows, "bin2_id": columns, "count": counts.astype(np.int32)})
