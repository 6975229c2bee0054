"""What the commands share: a kind of option, warnings and the errors of files."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

OURS = tuple(Path(__file__).resolve().parents[1] / name for name in ("genostore", "ingest", "prism_model"))


class Seeds(click.ParamType):
    """Whole numbers with commas between, each once."""

    name = "N,N,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Read the text of a command line."""
        if isinstance(value, tuple):
            return value
        try:
            seeds = tuple(int(part) for part in value.split(","))
        except ValueError:
            self.fail(f"seeds are whole numbers with commas between, not {value!r}", param, ctx)
        if len(set(seeds)) != len(seeds):
            self.fail(f"seeds repeat in {value!r}; each makes one run", param, ctx)
        if min(seeds) < 0:
            self.fail(f"seeds are 0 or more, not {min(seeds)}", param, ctx)
        return seeds


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Show our own warnings as one line, without the line of code that they come from."""
    before = warnings.formatwarning

    def format_one(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        if any(Path(filename).is_relative_to(folder) for folder in OURS):
            return f"Warning: {message}\n"
        return before(message, category, filename, lineno, line)

    warnings.formatwarning = format_one
    try:
        yield
    finally:
        warnings.formatwarning = before
