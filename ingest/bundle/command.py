"""``genostore bundle``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(name="bundle")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--tss-of", metavar="CELL", help="Cell type whose gene list places the windows.  [default: K562]")
@click.option(
    "--hic",
    type=click.Choice(["profiles", "4dn", "none"]),
    default="profiles",
    show_default=True,
    help="Contacts from the bundle's profiles of TSSs, or from the .hic in the 4DN portal.",
)
def bundle_command(folder: Path, out: Path, tss_of: str | None, hic: str) -> None:
    """Write a catalogue of FOLDER, a copy of Prism's published data set, to OUT, for `genostore ingest`."""
    from ingest.bundle.catalogue import bundle

    for note in bundle(folder, out, tss_of=tss_of, hic=hic):
        click.echo(f"note: {note}", err=True)
    click.echo(f"written: {out / 'catalog.yaml'}; next: genostore ingest {out / 'catalog.yaml'} STORE")
