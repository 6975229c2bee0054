"""The program ``genostore``: a group of commands that each package brings through an entry point."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points, version

import click

from genostore.contained import contained
from genostore.errors import GenostoreError
from genostore.memory import collect_rarely, keep_freed_memory

GROUP = "genostore.commands"


class Commands(click.Group):
    """A group whose commands are entry points, each imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name every command."""
        return sorted(entry_points(group=GROUP).names)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import a command."""
        points = entry_points(group=GROUP, name=name)
        if not points:
            return None
        try:
            command: click.Command = next(iter(points)).load()
        except ModuleNotFoundError as error:
            package = (error.name or "").split(".")[0]
            if package in ("", "genostore", "ingest", "prism_model"):
                raise
            return _unavailable(name, package)
        return command


def _unavailable(name: str, package: str) -> click.Command:
    """Stand in for a command that needs what is not installed, so that help still lists it."""
    why = f"needs {package}, which is not installed: pip install 'genostore[all]'"

    def refuse(**_: object) -> None:
        raise click.ClickException(f"`genostore {name}` {why}")

    anything: list[click.Parameter] = [click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED)]
    settings = {"ignore_unknown_options": True, "help_option_names": []}
    return click.Command(name, callback=refuse, params=anything, help=f"({why})", context_settings=settings)


def run(group: click.Group) -> None:
    """Run a program: errors that we raise on purpose are one message, not a traceback."""
    keep_freed_memory()
    collect_rarely()
    try:
        group.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.exceptions.Abort:
        click.echo("stopped", err=True)
        sys.exit(130)
    except GenostoreError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    except BrokenPipeError:
        sys.exit(0)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("genostore"), prog_name="genostore")
def genostore() -> None:
    """Keep a genome, its epigenome and its 3D contacts in one store."""


def main() -> None:
    """Run the program, in a child process, so that a crash of native code is told as any other error."""
    contained(lambda: run(genostore))
