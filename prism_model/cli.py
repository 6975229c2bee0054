"""The command ``prism``: train, evaluate, predict, report, convert."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from genostore.errors import GenostoreError
from genostore.memory import collect_rarely, keep_freed_memory
from prism_model.idle import let_idle_threads_sleep
from prism_model.options import Seeds, plain_warnings
from prism_model.studies.commands import study

DEVICE = click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)


class Commands(click.Group):
    """Our errors end a command with their message, not with a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a subcommand."""
        try:
            with plain_warnings():
                return super().invoke(ctx)
        except GenostoreError as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:
            if not error.filename or not error.strerror:
                raise
            raise click.ClickException(f"{error.filename}: {error.strerror}") from error
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if package in ("", "genostore", "prism_model"):
                raise
            raise click.ClickException(
                f"this needs {package}, which is not installed: pip install 'genostore[all]'"
            ) from error


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="genostore", prog_name="prism")
def main() -> None:
    """Prism: gene expression from sequence and signals, adjusted for confounding by background chromatin."""
    let_idle_threads_sleep()
    keep_freed_memory()
    collect_rarely()


@main.command()
@click.argument("store", required=False)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the run.")
@click.option("--recipe", default="laptop", show_default=True, help="Settings to start from: tiny, laptop or paper.")
@click.option("--config", "file", type=click.Path(path_type=Path), help="Settings in YAML, over the recipe's.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="One setting, such as train.lr=0.001.")
@click.option("--seed", type=int, help="Of initialisation and order.")
@click.option("--seeds", type=Seeds(), help="Several, with commas between: a run each, in folders seed-N under --out.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out after its last finished epoch.")
@DEVICE
def train(
    store: str | None,
    out: Path,
    recipe: str,
    file: Path | None,
    overrides: tuple[str, ...],
    seed: int | None,
    seeds: tuple[int, ...] | None,
    resume: bool,
    device: str,
) -> None:
    """Train a model on STORE: Prism, or with --set model.name=... another one.

    With --seeds the same command, given again, goes on where it was broken off. `torchrun --nproc-per-node N -m
    prism_model train ...` trains in N processes.
    """
    from prism_model.config import RunConfig, make_config
    from prism_model.train import fit

    if resume:
        if store or file or overrides or seeds or seed is not None:
            raise click.UsageError("--resume goes on with the settings of the run; give --out alone with it")
        fit(RunConfig(), out, resume=True, device=device, say=click.echo)
        return
    if seed is not None:
        overrides += (f"seed={seed}",)
    if store is not None:
        overrides += (f"data.store={Path(store).resolve() if '://' not in store else store}",)
    config = make_config(recipe, file, overrides)
    if not config.data.store:
        raise click.UsageError("name the STORE to train on")
    if seeds is not None:
        from prism_model.seeds import fit_seeds

        if seed is not None:
            raise click.UsageError("give --seed or --seeds")
        fit_seeds(config, out, seeds, device=device, say=click.echo)
        return
    fit(config, out, device=device, say=click.echo)


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--split", type=click.Choice(["train", "valid", "test"]), default="test", show_default=True)
@click.option("--baselines/--no-baselines", default=True, show_default=True, help="Score mean and ridge too.")
@DEVICE
def evaluate(run: Path, split: str, baselines: bool, device: str) -> None:
    """Score the best model of RUN on a split, both branches; or all runs of --seeds under RUN, mean and sd."""
    from rich.console import Console

    from prism_model import distributed, seeds
    from prism_model.evaluate import as_table
    from prism_model.evaluate import evaluate as score

    metrics = run / "metrics" / f"{split}.json"
    screen = Console(width=None if sys.stdout.isatty() else 120)  # in a file numbers need not be broken
    if next(run.glob("seed-*/config.yaml"), None) is not None:
        summary = seeds.evaluate_seeds(run, split, device=device, baselines=baselines)
        if distributed.place().first:
            screen.print(seeds.as_table(summary))
            if summary["unfinished"]:
                click.echo(f"left out, not finished: {', '.join(summary['unfinished'])}")
            click.echo(f"written: {metrics}")
        return
    result = score(run, split, device=device, baselines=baselines)
    if distributed.place().first:
        screen.print(as_table(result))
        click.echo(f"written: {metrics}, {run / 'predictions' / f'{split}.parquet'}")


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--genes", help="Ids or names with commas between, or @FILE with one a line; all when left out.")
@click.option("--regions", type=click.Path(path_type=Path), help="A BED file instead: windows around their middles.")
@click.option("--store", help="Another store than the one trained on.")
@click.option("--fasta", type=click.Path(path_type=Path), help="Own files instead of a store, with --track, --regions.")
@click.option("--track", "tracks", multiple=True, metavar="CELL:ASSAY=FILE", help="A bigWig beside --fasta.")
@click.option("--contacts", multiple=True, metavar="CELL:ASSAY=FILE", help="Hi-C beside --fasta: .cool, .mcool, .hic.")
@click.option("--cell-types", help="With commas between; those of the training when left out.")
@click.option("--out", type=click.Path(path_type=Path), help=".tsv, .csv or .parquet; to the screen when left out.")
@DEVICE
def predict(
    run: Path,
    genes: str | None,
    regions: Path | None,
    store: str | None,
    fasta: Path | None,
    tracks: tuple[str, ...],
    contacts: tuple[str, ...],
    cell_types: str | None,
    out: Path | None,
    device: str,
) -> None:
    """Predict expression with the best model of RUN: of genes or regions of a store, or of regions of own files."""
    from contextlib import ExitStack

    from genostore.bed import read_bed
    from prism_model import files, runs
    from prism_model.predict import Predictor, write_table

    if genes is not None and regions is not None:
        raise click.UsageError("give --genes or --regions")
    if fasta is None and (tracks or contacts):
        raise click.UsageError("--track and --contacts go with --fasta")
    if fasta is not None and (store is not None or regions is None):
        raise click.UsageError("--fasta takes the place of a --store and needs --regions: it has no genes")
    names = None
    if genes is not None and genes.startswith("@"):
        names = [line.strip() for line in Path(genes[1:]).read_text().splitlines() if line.strip()]
    elif genes is not None:
        names = [name.strip() for name in genes.split(",") if name.strip()]
    cells = [c.strip() for c in cell_types.split(",")] if cell_types else None
    wanted = None if regions is None else read_bed(regions)
    with ExitStack() as stack:
        if fasta is not None:
            signals, maps = files.parse_files(tracks, "--track"), files.parse_files(contacts, "--contacts")
            config = runs.read_config(run).data
            cells = cells or list(dict.fromkeys(cell for cell, _ in (*signals, *maps))) or None
            files.check_given(config, cells, signals, maps)
            store = str(stack.enter_context(files.temporary_store(fasta, signals, maps, config.contact_bin_size)))
        predictor = Predictor(run, store=store, cell_types=cells, device=device)
        table = predictor(predictor.genes(names) if wanted is None else predictor.regions(wanted))
    if out is None:
        table.to_csv(sys.stdout, sep="\t", index=False, float_format="%.6g")
    else:
        write_table(table, out)
        click.echo(f"{len(table):,} predictions in {out}")


@main.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="A folder, or with --to-official a .ckpt file.")
@click.option("--center-length", type=int, default=2_000, show_default=True, help="Not told by the weights.")
@click.option(
    "--context-activation",
    type=click.Choice(["sigmoid", "softmax"]),
    default="sigmoid",
    show_default=True,
    help="Not told by the weights.",
)
@click.option("--store", help="Make a run of it on this store, for `prism evaluate` and `prism predict`.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Of that run: data.cell_types=[K562], other data, model.averaging, seed.",
)
@click.option("--to-official", is_flag=True, help="CHECKPOINT is a folder of ours; write the release's layout.")
def convert(
    checkpoint: Path,
    out: Path | None,
    center_length: int,
    context_activation: str,
    store: str | None,
    overrides: tuple[str, ...],
    to_official: bool,
) -> None:
    """Turn a CHECKPOINT of the official release into ours (or back); no pickle in it is executed."""
    from prism_model import official, runs, weights
    from prism_model.prism import Prism

    if overrides and store is None:
        raise click.UsageError("--set is of the run that --store makes of the checkpoint")
    if to_official:
        if store is not None:
            raise click.UsageError("give --store or --to-official")
        target = out or checkpoint.with_suffix(".ckpt")
        if target.exists():
            raise click.UsageError(f"{target} exists; name another file with --out")
        model = Prism.from_run(checkpoint)
        official.check_loadable(model.config)
        official.write(target, model.state_dict())
    else:
        target = out or checkpoint.with_suffix("")
        runs.refuse_existing(target)
        model = Prism.from_official(checkpoint, center_length=center_length, context_activation=context_activation)
        if store is not None:
            from prism_model.adopt import adopt

            adopt(model, target, store, overrides, checkpoint.name)
        else:
            weights.save(target, model, {"source": checkpoint.name})
        c = model.config
        click.echo(
            f"{sum(p.numel() for p in model.parameters()):,} parameters: d_model {c.d_model}, {c.n_layer} layers, "
            f"{c.n_context} contexts, {c.signal_size} signals, {c.feature_size} features"
        )
    click.echo(f"written: {target}")


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the page and its pictures.")
@click.option("--split", type=click.Choice(["train", "valid", "test"]), default="test", show_default=True)
@click.option("--gene", help="Whose window is drawn; when left out, one that differs between cell types.")
@click.option("--command", "commands", multiple=True, help="A command that led up to the run, to be listed.")
@DEVICE
def report(run: Path, out: Path, split: str, gene: str | None, commands: tuple[str, ...], device: str) -> None:
    """Write a page about RUN: its data, a gene's window, training, and predictions against observations."""
    from prism_model.report import report as write

    click.echo(f"written: {write(run, out, split=split, gene=gene, commands=commands, device=device)}")


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("target", metavar="GENE|REGION")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the picture and the tracks.")
@click.option("--store", help="Another store than the one trained on.")
@click.option("--cell-type", help="The run's first when left out; one it has not seen is warned of.")
@click.option("--branch", type=click.Choice(["original", "adjusted"]), default="original", show_default=True)
@click.option("--steps", type=click.IntRange(2), default=64, show_default=True, help="Of the integrated gradients.")
@click.option("--mutate", default="200", show_default=True, help="Region to mutate, or bases about the TSS; 0 = none.")
@click.option("--format", "form", type=click.Choice(["both", "bigwig", "bedgraph"]), default="both", show_default=True)
@DEVICE
def explain(
    run: Path,
    target: str,
    out: Path,
    store: str | None,
    cell_type: str | None,
    branch: Any,
    steps: int,
    mutate: str,
    form: str,
    device: str,
) -> None:
    """Attribute the prediction for a GENE or REGION to bases, signals and features, and mutate a part of it."""
    from prism_model import runs
    from prism_model.explain import explain as explained
    from prism_model.explain_files import write_explanation
    from prism_model.predict import Predictor

    # A cell type of the run is shown beside the others; one that the model has not seen stands alone, with a warning.
    seen = runs.read_config(run).data.cell_types or ()
    cells = [cell_type] if cell_type is not None and cell_type not in seen else None
    predictor = Predictor(run, store=store, cell_types=cells, device=device)
    found = explained(predictor, target, cell_type=cell_type, branch=branch, steps=steps, mutate=mutate)
    write_explanation(found, out, predictor.data.store.contigs, ["bigwig", "bedgraph"] if form == "both" else [form])
    click.echo(
        f"{found.name} in {found.cell_type}: predicted {found.prediction:.4f} ({branch} branch), reference "
        f"{found.reference:.4f}; the contributions lack {found.gap:+.1e} of the difference"
    )
    click.echo(f"written: {out / 'explanation.png'} and tracks beside it")


main.add_command(study)
