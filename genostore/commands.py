"""The commands that read, pack, draw and tend a store."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd

from genostore import index
from genostore.contacts import Contacts
from genostore.errors import NotFoundError, nearest
from genostore.schema import check_node
from genostore.store import Store, open

STORE = click.argument("store", type=click.Path())


@click.command()
@STORE
@click.option("--tracks/--no-tracks", default=True, help="List the tracks.")
def info(store: str, tracks: bool) -> None:
    """Say what a store holds."""
    from rich.console import Console
    from rich.table import Table

    opened = open(store)
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(f"[bold]{opened.path}[/bold]")
    bases = sum(opened.contigs.values())
    console.print(f"assembly {opened.genome.name}: {len(opened.contigs)} contigs, {bases:,} bases")
    kinds = {e["kind"] for e in opened.entries.values()}
    if "genes" in kinds:
        splits = f"; splits {', '.join(opened.splits)}" if opened.splits else ""
        console.print(f"genes: {len(opened.genes):,}{splits}; features: {', '.join(opened.features) or 'none'}")
    for kind, label in (("contacts", "contacts"), ("expression", "expression"), ("regions", "regions")):
        nodes = [n.split("/", 1)[1] for n, e in opened.entries.items() if e["kind"] == kind]
        if nodes:
            console.print(f"{label}: {', '.join(nodes)}")
    if tracks:
        table = Table(title=f"{len(opened.tracks)} tracks", title_justify="left")
        for column in ("cell type", "assay", "role", "unit", "coverage", "mean", "max", "source"):
            table.add_column(column, justify="right" if column in ("coverage", "mean", "max") else "left")
        for _, row in opened.tracks.iterrows():
            numbers = (f"{row['coverage']:.1%}", f"{row['mean']:.4g}", f"{row['max']:.4g}")
            text = ["" if pd.isna(row[c]) else str(row[c]) for c in ("cell_type", "assay", "role", "unit", "source")]
            table.add_row(*text[:4], *numbers, text[4])
        console.print(table)


def names(value: str | None) -> list[str] | None:
    """Split a comma-separated option."""
    return [v.strip() for v in value.split(",") if v.strip()] if value is not None else None


def window_options(command: Any) -> Any:
    """Add the options that make up a windows query."""
    for option in (
        click.option("--genes", help="Ids or names, separated by commas; all when left out."),
        click.option("--regions", type=click.Path(exists=True), help="A BED file, instead of genes."),
        click.option("--split", help="Keep the genes of this split."),
        click.option("--fold", help="Column that holds the split."),
        click.option("--exclude", help="Leave out windows that overlap these regions."),
        click.option("--cell-types", help="Names, separated by commas; all when left out."),
        click.option("--assays", help="Names, separated by commas; all when left out."),
        click.option("--contacts", help="ASSAY, ASSAY:BIN_SIZE or ASSAY:BIN_SIZE:WEIGHT."),
        click.option("--expression", help="Assay of the target."),
        click.option("--features", help="Gene features, separated by commas, or 'all'."),
        click.option("--width", default=2_000, show_default=True, help="Bases of a window."),
        click.option("--missing-tracks", type=click.Choice(["error", "nan"]), default="error", show_default=True),
    ):
        command = option(command)
    return command


def cut(store: Store, options: dict[str, Any], **more: Any) -> Any:
    """Make windows from the options of :func:`window_options`."""
    contacts = None
    if options["contacts"]:
        assay, *rest = options["contacts"].split(":")
        contacts = Contacts(assay, int(rest[0]) if rest else None, rest[1] if len(rest) > 1 else None)
    features = names(options["features"])
    return store.windows(
        **{
            **options,
            "genes": names(options["genes"]),
            "cell_types": names(options["cell_types"]),
            "assays": names(options["assays"]),
            "features": "all" if features == ["all"] else features,
            "contacts": contacts,
            **more,
        }
    )


@click.command("slice")
@STORE
@click.argument("out", type=click.Path(path_type=Path))
@window_options
@click.option("--resolution", default=1, show_default=True, help="Bases a bin of the signal.")
@click.option("--aggregate", type=click.Choice(["mean", "sum"]), default="mean", show_default=True)
def slice_(store: str, out: Path, **options: Any) -> None:
    """Write windows to OUT as .npz: one array a part, with the samples' genes and cell types."""
    windows = cut(open(store), options)
    batch = windows.read(np.arange(len(windows)))
    chosen = ("sequence", "signal", "contacts", "features", "target", "anchor", "left_pad", "right_pad")
    arrays = {name: getattr(batch, name) for name in chosen if getattr(batch, name) is not None}
    label = windows.genes.get("id", windows.genes.index)
    arrays["gene"] = np.asarray(label, dtype=str)[batch.gene]
    arrays["cell_type"] = np.asarray(windows.cell_types, dtype=str)[batch.cell_type]
    arrays["assay"] = np.asarray(windows.assays, dtype=str)
    np.savez_compressed(out, **arrays)
    click.echo(f"{out}: {windows!r}")


@click.command()
@STORE
@click.argument("out", type=click.Path())
@window_options
@click.option("--jitter", default=0, show_default=True, help="Margin for shifts, in bases either way.")
@click.option("--dtype", type=click.Choice(["float32", "float16"]), default="float32", show_default=True)
@click.option("--compress", is_flag=True, help="Compress: smaller, and slower to read.")
@click.option("--workers", type=int, help="Shards written at once; as many as there are processors when left out.")
@click.option("--overwrite", is_flag=True, help="Replace another pack that is there.")
def pack(
    store: str, out: str, dtype: str, compress: bool, workers: int | None, overwrite: bool, **options: Any
) -> None:
    """Materialise windows as the pack OUT, to read faster than from the store; resumable."""
    from rich.progress import Progress

    windows = cut(open(store), options)
    with Progress(disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("shards", total=None)
        windows.pack(
            out,
            dtype=dtype,
            compress=compress,
            workers=workers,
            overwrite=overwrite,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    click.echo(f"{out}: {windows!r}")


@click.command()
@STORE
@click.argument("gene")
@click.option("--out", type=click.Path(path_type=Path), help="Picture to write; GENE.png when left out.")
@click.option("--cell-types", help="Names, separated by commas; all when left out.")
@click.option("--assays", help="Names, separated by commas; all when left out.")
@click.option("--width", default=200_000, show_default=True, help="Bases shown about the TSS.")
def plot(store: str, gene: str, out: Path | None, cell_types: str | None, assays: str | None, width: int) -> None:
    """Draw the window of a gene: sequence, every signal, contacts."""
    from genostore.plot import plot_window

    path = out or Path(f"{gene}.png")
    plot_window(open(store), gene, cell_types=names(cell_types), assays=names(assays), width=width, path=path)
    click.echo(str(path))


@click.command()
@STORE
@click.argument("node")
def rm(store: str, node: str) -> None:
    """Remove a node, such as tracks/K562/DNase; `genostore gc` frees its space."""
    from genostore.staging import remove

    opened = open(store)
    if node not in opened.entries and index.node_attributes(opened.storage, check_node(node)) is None:
        raise NotFoundError(f"{opened.path} has no node {node!r}; {nearest(node, opened.entries)}")
    remove(opened.storage, node)
    click.echo(f"removed {node}")


@click.command()
@STORE
@click.option("--grace", default=24.0, show_default=True, help="Keep what was retired in the last so many hours.")
def gc(store: str, grace: float) -> None:
    """Delete what killed runs left behind and what was retired."""
    from genostore.staging import collect

    freed = collect(open(store).storage, grace * 3600)
    click.echo(f"deleted {len(freed)}: {', '.join(freed)}" if freed else "nothing to delete")


@click.command()
@STORE
def reindex(store: str) -> None:
    """Make index.json anew from the store's own metadata."""
    click.echo(f"{len(index.rebuild(open(store).storage))} nodes")
