"""A simulated genome, epigenome and expression table, in real formats, with the truth beside them.

`simulate` writes a directory that ``genostore ingest`` takes as it takes real data. What causes expression
in it, and what only goes along with it, is known: see ``docs/simulation.md``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from genostore.errors import ConflictError, WriteError
from ingest.simulate import files, signals
from ingest.simulate.catalogue import catalogue_text
from ingest.simulate.command import simulate_command
from ingest.simulate.settings import MRNA_FEATURES, Effects, Motif, Settings
from ingest.simulate.truth import summary, table
from ingest.simulate.world import World, draw_world

__all__ = ["Effects", "Motif", "Settings", "World", "draw_world", "simulate", "simulate_command"]


def simulate(
    directory: str | Path,
    genes: int = 300,
    cell_types: int = 2,
    seed: int = 0,
    shift: bool = False,
    *,
    shift_agreement: float = 0.5,
    promoter_activity: bool = False,
    settings: Settings | None = None,
    overwrite: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Simulate a genome with epigenome, contacts and expression, and write it as files of real formats.

    Parameters
    ----------
    directory
        Where to write; made where absent.
    genes
        How many protein-coding genes, at least 40. The genome is 30 kb a gene long, on five contigs.
    cell_types
        How many cell types, 1 to 26: ``cellA``, ``cellB`` ...
    seed
        Equal seeds, arguments and library versions give equal bytes.
    shift
        A second environment: deal the background state of the held-out contigs (chr4 and chr5) with
        ``shift_agreement``. With the same seed nothing else changes: only DNase and Hi-C there.
    shift_agreement
        The share of shifted neighbourhoods whose state follows their activity: 0.5 breaks the correlation of
        the background with expression, 0.1 reverses that of the training contigs.
    promoter_activity
        Write the feature of that name too, from H3K27ac and DNase at the TSS.
    settings
        All of the settings, effect sizes included; the arguments before are then not looked at.
    overwrite
        Write over the files of an earlier simulation in ``directory``. Without it a directory that holds
        anything is refused.
    progress
        Called with a short line as each part is begun.

    Returns
    -------
    Path
        Of ``catalog.yaml``, which is written last: where it is, the directory is complete.

    Raises
    ------
    QueryError
        If an argument is out of range.
    ConflictError
        If the directory holds something already and ``overwrite`` is not set.
    WriteError
        If the directory cannot be written.
    """
    settings = settings or Settings(
        genes, cell_types, seed, shift, shift_agreement=shift_agreement, promoter_activity=promoter_activity
    )
    say = progress or (lambda _: None)
    directory = Path(directory)
    catalogue = directory / "catalog.yaml"
    try:
        _prepare(directory, catalogue, overwrite)
        say("drawing the world")
        world = draw_world(settings)
        _write_shared(directory, world)
        for index, name in enumerate(settings.cell_type_names):
            say(f"{name}: signals")
            _write_signals(directory, world, index, name)
            say(f"{name}: contacts")
            _, pixels = signals.contacts(world, index)
            path = directory / "contacts" / f"{name}.mcool"
            files.write_mcool(path, world.genome.contigs, pixels, [signals.BIN_SIZE, 2 * signals.BIN_SIZE])
        if settings.promoter_activity:
            say("promoter activity")
            _write_promoter_activity(directory, world)
        _write_truth(directory, world)
        catalogue.write_text(catalogue_text(world), encoding="utf-8")
    except OSError as error:
        if isinstance(error, ConflictError):
            raise
        raise WriteError(
            f"could not write the simulation to {directory}: {error}. Free space or name another directory."
        ) from error
    return catalogue


def _prepare(directory: Path, catalogue: Path, overwrite: bool) -> None:
    if directory.exists() and not directory.is_dir():
        raise ConflictError(f"{directory} is a file; a simulation is written to a directory. Name another one.")
    if directory.is_dir() and any(directory.iterdir()) and not overwrite:
        raise ConflictError(
            f"{directory} is not empty. Name a new directory, or ask to overwrite the simulation in it."
        )
    for folder in ("tracks", "contacts"):
        (directory / folder).mkdir(parents=True, exist_ok=True)
    catalogue.unlink(missing_ok=True)
    # An index of another sequence would be believed by those who read the FASTA through it.
    (directory / "genome.fa.fai").unlink(missing_ok=True)


def _write_shared(directory: Path, world: World) -> None:
    """Write what does not belong to one cell type: sequence, genes, features, expression, blacklist."""
    genome = world.genome
    files.write_fasta(directory / "genome.fa", genome.sequence)
    files.write_gtf(directory / "genes.gtf", genome)
    named = genome.genes[["id", "name"]].rename(columns={"id": "gene_id", "name": "gene_name"})
    features = pd.concat([named, genome.features[list(MRNA_FEATURES)].round(6)], axis=1)
    features.to_csv(directory / "features.csv", index=False)
    value = np.where(world.measured, 10**world.expression - 1, np.nan)
    table = pd.DataFrame(value, columns=world.settings.cell_type_names).round(5)
    pd.concat([named, table], axis=1).to_csv(directory / "expression.tsv", sep="\t", index=False)
    with (directory / "blacklist.bed").open("w", encoding="utf-8") as out:
        for contig in genome.contigs:
            out.writelines(
                f"{contig}\t{a}\t{b}\t{'Low Mappability' if b - a < 9_000 else 'Assembly Gap'}\n"
                for a, b in genome.unmappable[contig]
                if b - a > 1_000
            )


def _write_signals(directory: Path, world: World, index: int, name: str) -> None:
    makers = {
        "H3K27ac": partial(signals.acetylation, world, cell_type=index),
        "DNase": partial(signals.accessibility, world, cell_type=index),
    }
    if index == 0:
        for strand, label in (("+", "plus"), ("-", "minus")):
            makers[f"RNA.{label}"] = partial(signals.transcription, world, cell_type=index, strand=strand)
    for assay, make in makers.items():
        values = ((contig, make(contig=contig)) for contig in world.genome.contigs)
        files.write_bigwig(directory / "tracks" / f"{name}.{assay}.bw", world.genome.contigs, values)


def _write_promoter_activity(directory: Path, world: World) -> None:
    values = {name: signals.promoter_activity(world, i) for i, name in enumerate(world.settings.cell_type_names)}
    table = pd.DataFrame({"gene_id": world.genome.genes.id, **values}).round(5)
    table.to_csv(directory / "promoter_activity.csv", index=False)


def _write_truth(directory: Path, world: World) -> None:
    table(world).round(6).to_csv(directory / "truth.tsv", sep="\t", index=False)
    (directory / "truth.json").write_text(_json(summary(world)), encoding="utf-8")


def _json(values: dict) -> str:
    """JSON with one line a key, or one a row where the value is a list of rows."""

    def text(value: object) -> str:
        if isinstance(value, list) and value and isinstance(value[0], list):
            return "[\n  " + ",\n  ".join(json.dumps(row) for row in value) + "\n ]"
        return json.dumps(value)

    return "{\n" + ",\n".join(f" {json.dumps(k)}: {text(v)}" for k, v in values.items()) + "\n}\n"
