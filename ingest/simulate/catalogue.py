"""The catalogue that ingests a simulated world."""

from __future__ import annotations

from ingest.simulate.settings import MRNA_FEATURES, SPLITS
from ingest.simulate.world import World

UNIT = "fold over background"


def catalogue_text(world: World) -> str:
    """``catalog.yaml``, version 1, with paths relative to itself."""
    cells, shift = world.settings.cell_type_names, world.settings.shift
    first = cells[0]
    lines = [
        f"# Simulated: {world.settings.genes} genes, {len(cells)} cell types, seed {world.settings.seed}"
        + (", the background shifted on held-out contigs." if shift else "."),
        "# What causes expression here is in truth.tsv and truth.json; neither is ingested.",
        "version: 1",
        "assembly: {name: simulated, fasta: genome.fa}",
        "genes: {source: genes.gtf, biotypes: [protein_coding], tss: gene}",
        "features:",
        "  - source: features.csv",
        "    gene_id: gene_id",
        f"    columns: [{', '.join(MRNA_FEATURES)}]",
        *(_promoter_activity(cell) for cell in cells if world.settings.promoter_activity),
        "splits: {" + ", ".join(f"{name}: [{', '.join(on)}]" for name, on in SPLITS.items()) + "}",
        "tracks:",
    ]
    for cell in cells:
        for assay, role in (("H3K27ac", "foreground"), ("DNase", "background")):
            source = f"tracks/{cell}.{assay}.bw"
            entry = f'cell_type: {cell}, assay: {assay}, source: {source}, role: {role}, unit: "{UNIT}"'
            lines.append(f"  - {{{entry}}}")
    for strand, label in (("+", "plus"), ("-", "minus")):
        entry = f'cell_type: {first}, assay: RNA, strand: "{strand}", source: tracks/{first}.RNA.{label}.bw'
        lines.append(f'  - {{{entry}, unit: reads, description: "follows from expression; no input for a model"}}')
    lines.append("contacts:")
    lines += [
        f"  - {{cell_type: {cell}, assay: hic, source: contacts/{cell}.mcool, bin_size: 5000, role: background, "
        "weights: [weight, VC], max_distance: 1_000_000}"
        for cell in cells
    ]
    columns = ", ".join(f"{cell}: {cell}" for cell in cells)
    expression = f"source: expression.tsv, gene_id: gene_id, columns: {{{columns}}}"
    lines += [
        "expression:",
        f"  - {{assay: CAGE, {expression}, transform: log10p1}}",
        "regions:",
        "  - {name: blacklist, source: blacklist.bed}",
    ]
    return "\n".join(lines) + "\n"


def _promoter_activity(cell: str) -> str:
    columns = f"columns: {{promoter_activity: {cell}}}"
    return f"  - {{source: promoter_activity.csv, gene_id: gene_id, cell_type: {cell}, {columns}}}"
