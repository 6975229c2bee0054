"""The commands that fill a store, check it, and give its content back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from genostore.errors import CatalogueError

_WORKERS = click.option("--workers", default=1, show_default=True, help="Processes that write.")


@click.command()
@click.argument("catalog", type=click.Path(path_type=Path))
@click.argument("store", type=click.Path())
@_WORKERS
@click.option("--scheduler", metavar="ADDR", help="Dask scheduler whose workers write instead (tcp://host:8786).")
@click.option("--dry-run", is_flag=True, help="Say what would be done, with sizes; fetch and write nothing.")
@click.option("--overwrite", is_flag=True, help="Replace what is there with other content, or is damaged.")
def ingest(catalog: Path, store: str, workers: int, scheduler: str | None, dry_run: bool, overwrite: bool) -> None:
    """Put all that CATALOG names into STORE: plan, then fetch, convert and publish.

    What an interrupted run has done is kept: the same command goes on where it stopped.
    """
    from ingest.plan import plan
    from ingest.progress import display, watch
    from ingest.run import run

    planned = plan(catalog, store, download=not dry_run, progress=watch())
    for note in planned.notes:
        click.echo(f"note: {note}", err=True)
    if dry_run:
        from ingest.summary import summarise

        click.echo(summarise(planned, workers))
        planned.clean()
        return
    try:
        outcome = run(planned, workers=workers, scheduler=scheduler, overwrite=overwrite, progress=display())
    except KeyboardInterrupt:
        click.echo("interrupted; what is done is kept, and the same command goes on from there", err=True)
        raise click.Abort from None
    click.echo(f"{store}: {_told(outcome.written, outcome.kept)}")


@click.command()
@click.argument("store", type=click.Path())
@click.argument("file")
@click.option("--cell-type", required=True, help="Whose signal or contacts.")
@click.option("--assay", required=True, help="Of what, such as DNase.")
@click.option("--role", type=click.Choice(["foreground", "background"]))
@click.option("--unit", help="Of the values.")
@click.option("--strand", type=click.Choice(["+", "-"]), help="Of a stranded track.")
@click.option("--replicate", type=int, help="Of a track, from 1.")
@click.option("--dtype", type=click.Choice(["float32", "float16"]), help="Of a track; float16 is lossy.")
@click.option("--bitround", type=int, help="Bits of the mantissa to keep of a track; lossy.")
@click.option("--bin-size", type=int, help="Of contacts, in bases; may be left out where the file has one.")
@click.option("--weight", "weights", multiple=True, help="Balancing weights of contacts to keep; all when left out.")
@click.option("--max-distance", type=int, help="Keep contacts up to so many bases apart.  [default: 2,000,000]")
@click.option("--accession", help="Of the file in its archive.")
@click.option("--description", help="Free text.")
@click.option("--sha256", help="Of the file; checked.")
@click.option("--md5", help="Of the file; checked.")
@click.option("--alias", "aliases", multiple=True, metavar="NAME=CONTIG", help="A contig's name in the file.")
@click.option("--allow-length-mismatch", is_flag=True, help="Accept contigs of another length.")
@click.option("--overwrite", is_flag=True, help="Replace the dataset that is there.")
@_WORKERS
def add(store: str, file: str, aliases: tuple[str, ...], weights: tuple[str, ...], **options: Any) -> None:
    """Add one dataset to STORE: FILE is a bigWig, bedGraph, .cool, .mcool or .hic, a path, URL or accession."""
    from ingest.add import add as add_file
    from ingest.progress import display

    pairs = [text.partition("=") for text in aliases]
    wrong = [name for name, mark, contig in pairs if not (name and mark and contig)]
    if wrong:
        raise CatalogueError(f"--alias {wrong[0]!r} is not NAME=CONTIG")
    outcome = add_file(
        store,
        file,
        aliases={name: contig for name, _, contig in pairs},
        weights=weights or None,
        progress=display(),
        **options,
    )
    click.echo(f"{store}: {_told(outcome.written, outcome.kept)}")


@click.command()
@click.argument("store", type=click.Path())
@click.option("--against", type=click.Path(path_type=Path), metavar="CATALOG", help="Compare values with the sources.")
@click.option("--deep", is_flag=True, help="Compare every value, not a sample.")
@click.option("--sample", default=200, show_default=True, help="Windows of each array that are compared.")
@click.option("--seed", default=0, show_default=True, help="Of the sample.")
def verify(store: str, against: Path | None, deep: bool, sample: int, seed: int) -> None:
    """Check STORE: schema, index, every shard and checksum; with --against, its values too.

    Exits with 1 if anything is wrong, and says what and where.
    """
    from ingest.progress import watch
    from ingest.verify import verify as check

    found = check(store, deep=deep, against=against, sample=sample, seed=seed, progress=watch())
    click.echo(str(found))
    if not found.ok:
        raise SystemExit(1)


@click.command()
@click.argument("store", type=click.Path())
@click.argument("node")
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--region", help="What to keep, such as chr22:17,000,000-17,002,000; all when left out.")
@click.option(
    "--format", "format_", type=click.Choice(["bigwig", "bedgraph", "bed", "npz"]), help="Told from the name."
)
@click.option("--weight", help="Of contacts: balancing weights to apply.")
@click.option("--overwrite", is_flag=True, help="Replace a file that is there.")
def export(
    store: str, node: str, output: Path, region: str | None, format_: Any, weight: str | None, overwrite: bool
) -> None:
    """Write NODE of STORE, such as tracks/K562/DNase, to OUTPUT: bigWig, bedGraph, BED or npz."""
    from ingest.export import export as write

    click.echo(str(write(store, node, output, region=region, format=format_, weight=weight, overwrite=overwrite)))


def _told(written: tuple[str, ...], kept: tuple[str, ...]) -> str:
    parts = [f"{len(written)} written" if written else "", f"{len(kept)} there already" if kept else ""]
    return ", ".join(p for p in parts if p) or "nothing to do"
