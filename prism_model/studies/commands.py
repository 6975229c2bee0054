"""``prism study length | background | adjustment | shift``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from prism_model.options import Seeds

SIZES = ("quick", "laptop", "paper")


def options(command: Any) -> Any:
    """What all studies take."""
    for option in (
        click.argument("store"),
        click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder; gone on with if there."),
        click.option("--seeds", type=Seeds(), default="2,22,222", show_default=True, help="A run each."),
        click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes."),
        click.option("--size", type=click.Choice(SIZES), default="laptop", show_default=True, help="Of runs and grid."),
        click.option("--quick", is_flag=True, help="Short for --size quick: to see that it runs."),
        click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="A setting of every run."),
        click.option("--design", "design", multiple=True, metavar="KEY=VALUE", help="A setting of the design."),
        click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True),
    ):
        command = option(command)
    return command


@click.group()
def study() -> None:
    """Test a claim on STORE: a designed grid of runs over seeds, with intervals. Finished runs are not run again."""


@study.command()
@options
def length(**given: Any) -> None:
    """Does longer input help? Windows of many lengths, each model also tested on shorter ones."""
    from prism_model.studies.length import LengthStudy

    _run(LengthStudy, **given)


@study.command()
@options
def background(**given: Any) -> None:
    """Do background signals confound? Training on every subset against removing signals at test."""
    from prism_model.studies.background import BackgroundStudy

    _run(BackgroundStudy, **given)


@study.command()
@options
def adjustment(**given: Any) -> None:
    """Does the adjustment help? Numbers of contexts, weights of the loss, both branches, the contexts learned."""
    from prism_model.studies.adjustment import AdjustmentStudy

    _run(AdjustmentStudy, **given)


@study.command()
@options
@click.option("--truth", required=True, type=click.Path(), help="The truth.tsv of STORE's simulation.")
@click.option(
    "--environment",
    "environments",
    nargs=3,
    multiple=True,
    required=True,
    metavar="NAME STORE TRUTH",
    help="Another environment of the same simulation (`genostore simulate --shift`).",
)
def shift(truth: str, environments: tuple[tuple[str, str, str], ...], **given: Any) -> None:
    """How far do models lean on the background? On simulated data, in and out of the training environment."""
    from prism_model.studies.shift import HOME, Environment, ShiftStudy

    home = Environment(HOME, given["store"], truth)
    others = [Environment(name, str(Path(store).resolve()), table) for name, store, table in environments]
    _run(ShiftStudy, more=((home, *others),), **given)


def _run(kind: Any, **given: Any) -> None:
    from prism_model.settings import from_plain, merge, parse_overrides
    from prism_model.studies.base import base_config, resolved
    from prism_model.studies.run import run_study

    size = "quick" if given["quick"] else given["size"]
    store = given["store"]
    base = base_config(store if "://" in store else str(Path(store).resolve()), size, given["overrides"])
    base, data = resolved(base)
    plain = merge(kind.sizes.get(size, {}), parse_overrides(given["design"]))
    made = kind(from_plain(kind.design_type, plain), base, given["seeds"], *given.get("more", ()))
    command = shlex.join(["prism", *sys.argv[1:]])
    page = run_study(
        made,
        data,
        given["out"],
        workers=given["workers"],
        device=given["device"],
        command=command,
        say=click.echo,
    )
    click.echo(f"written: {page}, {page.parent / 'summary.csv'}")
