"""The truth of a simulated world: what was hidden, what caused expression, and by how much."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ingest.simulate.settings import SPLITS
from ingest.simulate.world import World, element_input

GRAPH = [
    ["H3K27ac elements", "expression"],
    ["motifs", "expression"],
    ["mRNA features", "expression"],
    ["hidden activity", "expression"],
    ["hidden activity", "background state"],
    ["background state", "DNase"],
    ["background state", "Hi-C"],
    ["expression", "RNA"],
]


def table(world: World) -> pd.DataFrame:
    """One row a gene and cell type, gene-major: hidden states, causes, and what each added to the expression.

    Columns ``add_<cause>`` sum to ``log10_expression``, but where the sum is below 0 and was cut there.
    """
    genome, settings = world.genome, world.settings
    cells = settings.cell_type_names
    genes = genome.genes
    each = genes.loc[genes.index.repeat(len(cells))].reset_index(drop=True)
    where = each.neighbourhood.to_numpy()
    column = np.tile(np.arange(len(cells)), len(genes))
    shifted = settings.shift & each.contig.isin(settings.held_out)
    arriving = element_input(genome, world.elements, world.element_activity, settings.effects.reach)
    counts = np.repeat(genome.motif_counts, len(cells), axis=0)
    return pd.DataFrame(
        {
            "gene_id": each.id,
            "cell_type": np.array(cells)[column],
            "contig": each.contig,
            "tss": each.tss,
            "strand": each.strand,
            "split": each.split,
            "environment": np.where(shifted, "shifted", "training"),
            "neighbourhood": where,
            "background_state": world.state[where, column],
            "hidden_activity": world.activity[where, column],
            "element_activity": arriving.ravel(),
            **{f"sites_{motif.name}": counts[:, i] for i, motif in enumerate(settings.motifs)},
            **{f"add_{cause}": added.ravel() for cause, added in world.contributions.items()},
            "log10_expression": world.expression.ravel(),
            "measured": world.measured.ravel(),
        }
    )


def summary(world: World) -> dict:
    """The settings, the graph, shares of variance, and every neighbourhood, element and motif site."""
    genome, settings = world.genome, world.settings
    total = world.expression.var()
    rows = table(world)
    return {
        "settings": settings.as_dict(),
        "cell_types": settings.cell_type_names,
        "splits": {name: list(contigs) for name, contigs in SPLITS.items()},
        "causal_graph": GRAPH,
        "causal_effect_of_background_state": settings.effects.state,
        "motif_effects": {
            motif.name: dict(zip(settings.cell_type_names, effects.tolist(), strict=True))
            for motif, effects in zip(settings.motifs, settings.motif_effects(), strict=True)
        },
        "variance_share": {name: round(float(a.var() / total), 4) for name, a in world.contributions.items()},
        "correlation_of_state_with_expression": {
            split: round(float(np.corrcoef(part.background_state, part.log10_expression)[0, 1]), 4)
            for split, part in rows.groupby("split")
        },
        "neighbourhoods": [
            [*row, state.tolist(), active.tolist()]
            for row, state, active in zip(
                genome.neighbourhoods.to_numpy().tolist(), world.state, world.activity, strict=True
            )
        ],
        "neighbourhoods_columns": ["contig", "start", "end", "background_state", "hidden_activity"],
        "elements": [
            [*row, np.round(activity, 4).tolist()]
            for row, activity in zip(world.elements.to_numpy().tolist(), world.element_activity, strict=True)
        ],
        "elements_columns": ["contig", "position", "activity"],
        "motif_sites": genome.motif_sites.assign(gene=genome.genes.id.to_numpy()[genome.motif_sites.gene])
        .to_numpy()
        .tolist(),
        "motif_sites_columns": list(genome.motif_sites.columns),
    }
