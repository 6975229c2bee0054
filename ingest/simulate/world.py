"""The causes of expression in a simulated world, the hidden background, and what follows from them.

The graph, for gene g in neighbourhood n and cell type c (``docs/simulation.md`` says it with figures)::

    H3K27ac elements (n, c) ------------> expression (g, c) <---- motifs (g), mRNA features (g)
                                               ^
    hidden activity (n, c) --------------------+
          |  (agreement; another one on shifted contigs)
          v
    background state (n, c) ---> DNase, Hi-C
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ingest.simulate.genome import SimulatedGenome, draw_genome
from ingest.simulate.settings import Settings

MEASURED = 0.99  # the share of values that the expression table gives


@dataclass(frozen=True)
class World:
    """A simulated world before any file is written.

    Attributes
    ----------
    settings, genome
        What it was drawn from, and what does not depend on the cell type.
    elements
        ``contig, position``: the centres of open sites; those without H3K27ac have activity 0.
    element_activity
        ``(element, cell_type)`` float64, 0 and up: the height of H3K27ac, and a true cause.
    activity
        ``(neighbourhood, cell_type)`` int8, +1 or -1: hidden, a true cause, in no file but the truth.
    state
        ``(neighbourhood, cell_type)`` int8, 1 = open, 0 = closed: shapes DNase and Hi-C, causes nothing else.
    contributions
        What each cause adds to log10(1 + expression), ``(gene, cell_type)`` float64 each, by name.
    expression
        ``(gene, cell_type)`` float64, log10(1 + x).
    measured
        ``(gene, cell_type)`` bool: whether the expression table gives the value.
    """

    settings: Settings
    genome: SimulatedGenome
    elements: pd.DataFrame
    element_activity: np.ndarray
    activity: np.ndarray
    state: np.ndarray
    contributions: dict[str, np.ndarray]
    expression: np.ndarray
    measured: np.ndarray

    def base_states(self, contig: str, cell_type: int, positions: np.ndarray) -> np.ndarray:
        """The background state of each of ``positions`` on a contig."""
        rows = self.genome.neighbourhoods[self.genome.neighbourhoods.contig == contig]
        at = np.searchsorted(rows.start.to_numpy(), positions, side="right") - 1
        states: np.ndarray = self.state[rows.index.to_numpy()[at], cell_type]
        return states


def draw_world(settings: Settings) -> World:
    """Draw a world: genome, elements, hidden activity, background state, expression."""
    genome = draw_genome(settings)
    elements, element_activity = _elements(settings, genome)
    activity, state = _background(settings, genome)
    contributions = _contributions(settings, genome, elements, element_activity, activity, state)
    expression = np.maximum(sum(contributions.values()), 0.0)
    measured = settings.stream("measured").random(expression.shape) < MEASURED
    return World(settings, genome, elements, element_activity, activity, state, contributions, expression, measured)


def _elements(settings: Settings, genome: SimulatedGenome) -> tuple[pd.DataFrame, np.ndarray]:
    """Open sites: one at every promoter, some near it, some farther off; a quarter carries no H3K27ac.

    An element's activity is a base level shared by the cell types times a factor of its own in each.
    """
    rows: list[tuple[str, int]] = []
    levels: list[np.ndarray] = []
    for gene in genome.genes.itertuples():
        rng = settings.stream("elements", gene.id)
        direction = 1 if gene.strand == "+" else -1
        near, far, silent = rng.poisson(0.7), rng.poisson(1.5), rng.poisson(1.0)
        offsets = np.concatenate(
            [
                [direction * rng.normal(120, 60)],
                rng.uniform(-1_200, 1_200, near),
                rng.uniform(2_000, 12_000, far + silent) * rng.choice([-1, 1], far + silent),
            ]
        )
        carries = np.arange(len(offsets)) < 1 + near + far
        base = carries * rng.gamma(2.0, 0.6, len(offsets))
        for offset, level in zip(offsets, base, strict=True):
            position = int(np.clip(gene.tss + offset, 0, genome.contigs[gene.contig] - 1))
            rows.append((gene.contig, position))
            levels.append(level)
    factors = [
        settings.stream("element factors", cell).lognormal(0.0, 0.5, len(rows))
        * (settings.stream("element off", cell).random(len(rows)) > 0.15)
        for cell in settings.cell_type_names
    ]
    table = pd.DataFrame(rows, columns=["contig", "position"])
    order = np.lexsort((table.position, table.contig))
    activity = np.array(levels)[:, None] * np.stack(factors, axis=1)
    return table.iloc[order].reset_index(drop=True), activity[order]


def _background(settings: Settings, genome: SimulatedGenome) -> tuple[np.ndarray, np.ndarray]:
    """Hidden activity and background state of every neighbourhood and cell type.

    Both are dealt rather than tossed: half of the neighbourhoods of the training contigs, and of each
    held-out contig, is active; ``agreement`` of each half (``shift_agreement`` where shifted) has the state that
    goes with its activity. So the correlation is what the settings say, not what chance makes of a few
    neighbourhoods.
    """
    table = genome.neighbourhoods
    shape = (len(table), settings.cell_types)
    activity, state = np.empty(shape, np.int8), np.empty(shape, np.int8)
    training = [c for c in genome.contigs if c not in settings.held_out]
    for group in (training, *([c] for c in settings.held_out)):
        rows = np.flatnonzero(table.contig.isin(group))
        shifted = settings.shift and group is not training
        agreement = settings.shift_agreement if shifted else settings.agreement
        for column, cell in enumerate(settings.cell_type_names):
            rng = settings.stream("activity", cell, *group)
            deal = rng.permutation(np.arange(len(rows)) % 2 * 2 - 1)
            activity[rows, column] = deal
            rng = settings.stream("state", cell, *group)
            for value in (-1, 1):
                mine = rng.permutation(rows[deal == value])
                follows = np.arange(len(mine)) < round(agreement * len(mine))
                state[mine, column] = np.where(follows, value > 0, value < 0)
    return activity, state


def _contributions(
    settings: Settings,
    genome: SimulatedGenome,
    elements: pd.DataFrame,
    element_activity: np.ndarray,
    activity: np.ndarray,
    state: np.ndarray,
) -> dict[str, np.ndarray]:
    """What each cause adds to log10(1 + x), ``(gene, cell_type)`` each."""
    effects, genes = settings.effects, genome.genes
    shape = (len(genes), settings.cell_types)
    where = genes.neighbourhood.to_numpy()
    stability = sum(genome.features[name].to_numpy() * size for name, size in effects.features.items())
    noise = np.stack([settings.stream("noise", cell).normal(size=shape[0]) for cell in settings.cell_type_names])
    return {
        "intercept": np.full(shape, effects.intercept),
        "elements": effects.element * element_input(genome, elements, element_activity, effects.reach),
        "motifs": genome.motif_counts @ settings.motif_effects(),
        "features": np.broadcast_to(np.asarray(stability)[:, None], shape),
        "activity": effects.activity * activity[where],
        "state": effects.state * state[where],
        "noise": effects.noise * noise.T,
    }


def element_input(genome: SimulatedGenome, elements: pd.DataFrame, activity: np.ndarray, reach: float) -> np.ndarray:
    """The element activity that arrives at every TSS: the sum over its contig of a exp(-d / reach).

    Returns
    -------
    ndarray
        ``(gene, cell_type)`` float64.
    """
    arriving = np.zeros((len(genome.genes), activity.shape[1]))
    for name in genome.contigs:
        rows = np.flatnonzero(genome.genes.contig == name)
        mine = np.flatnonzero(elements.contig == name)
        distance = np.abs(genome.genes.tss.to_numpy()[rows, None] - elements.position.to_numpy()[None, mine])
        arriving[rows] = np.exp(-distance / reach) @ activity[mine]
    return arriving
