"""``genostore simulate DIR``."""

from __future__ import annotations

from pathlib import Path

import click
from click.core import ParameterSource

from ingest.simulate.settings import MIN_GENES


@click.command("simulate")
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option("--genes", type=click.IntRange(MIN_GENES), default=300, show_default=True, help="How many genes.")
@click.option("--cell-types", type=click.IntRange(1, 26), default=2, show_default=True, help="How many cell types.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Equal seeds, equal files.")
@click.option("--shift", is_flag=True, help="A second environment: the background of held-out contigs dealt otherwise.")
@click.option(
    "--shift-agreement",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="Share of shifted neighbourhoods whose background follows their activity; 0.5 = broken, 0.1 = reversed.",
)
@click.option("--promoter-activity", is_flag=True, help="Write that feature too, as the paper's models have it.")
@click.option("--overwrite", is_flag=True, help="Write over an earlier simulation in DIRECTORY.")
def simulate_command(
    directory: Path,
    genes: int,
    cell_types: int,
    seed: int,
    shift: bool,
    shift_agreement: float,
    promoter_activity: bool,
    overwrite: bool,
) -> None:
    """Write simulated data in real formats to DIRECTORY, with a catalogue that ingests them and the truth."""
    from ingest.simulate import simulate

    given = click.get_current_context().get_parameter_source("shift_agreement")
    if given is not ParameterSource.DEFAULT and not shift:
        raise click.UsageError("--shift-agreement says how the shifted contigs are dealt; give --shift too")

    catalogue = simulate(
        directory,
        genes,
        cell_types,
        seed,
        shift,
        shift_agreement=shift_agreement,
        promoter_activity=promoter_activity,
        overwrite=overwrite,
        progress=lambda line: click.echo(line, err=True),
    )
    click.echo(f"wrote {catalogue}; next: genostore ingest {catalogue} STORE")
