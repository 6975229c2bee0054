"""What a long run shows: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from ingest.wording import duration

_TELLING = 0.02  # share of the bytes after which a remaining time means something
_EVERY = 20.0  # seconds between plain lines


class Display(Protocol):
    """What a run tells as it goes on; sizes are bytes of values, uncompressed."""

    def __enter__(self) -> Display:
        """Begin to show."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the show."""

    def start(self, nodes: int, size: int) -> None:
        """Say how much there is to do."""

    def begin(self, node: str) -> None:
        """Say that a node is begun."""

    def advance(self, size: int) -> None:
        """Say that values are durable, or need not be written any more."""

    def finish(self, node: str, what: str) -> None:
        """Say that a node is done: ``written`` or ``already there``."""


class Silent:
    """Shows nothing."""

    def __enter__(self) -> Display:
        """Show nothing."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to end."""

    def start(self, nodes: int, size: int) -> None:
        """Show nothing."""

    def begin(self, node: str) -> None:
        """Show nothing."""

    def advance(self, size: int) -> None:
        """Show nothing."""

    def finish(self, node: str, what: str) -> None:
        """Show nothing."""


class Lines(Silent):
    """Plain lines: one a node, and one every so often in between.

    Parameters
    ----------
    stream
        Where they go; standard error by default.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._nodes = self._size = self._done = self._finished = 0
        self._began = self._told = time.monotonic()

    def start(self, nodes: int, size: int) -> None:
        """Note how much there is to do."""
        self._nodes, self._size = nodes, size
        self._began = self._told = time.monotonic()

    def advance(self, size: int) -> None:
        """Count, and say how it goes from time to time."""
        self._done += size
        now = time.monotonic()
        if now - self._told >= _EVERY:
            self._told = now
            self._say(f"[{self._finished}/{self._nodes}] {self._rate()}")

    def finish(self, node: str, what: str) -> None:
        """Say so."""
        self._finished += 1
        self._told = time.monotonic()
        rate = f"; {self._rate()}" if self._done else ""
        self._say(f"[{self._finished}/{self._nodes}] {node} {what}{rate}")

    def _rate(self) -> str:
        seconds = max(time.monotonic() - self._began, 1e-3)
        share = self._done / self._size if self._size else 1.0
        rate = f"{share:.0%}, {self._done / seconds / 1e6:,.0f} MB/s"
        # Small nodes come first, and say nothing of how long the large ones will take.
        return rate if share < _TELLING else f"{rate}, {duration(seconds / share - seconds)} left"

    def _say(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


class Bar(Silent):
    """A bar with rate and remaining time, for a terminal."""

    def __init__(self, console: Console | None = None) -> None:
        self._progress = Progress(*_columns(), console=console or Console(stderr=True))
        self._task: TaskID | None = None

    def __enter__(self) -> Display:
        """Draw the bar."""
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the bar as it is."""
        self._progress.stop()

    def start(self, nodes: int, size: int) -> None:
        """Set the bar's length."""
        self._task = self._progress.add_task("ingest", total=size)

    def begin(self, node: str) -> None:
        """Name the node beside the bar."""
        if self._task is not None:
            self._progress.update(self._task, description=node)

    def advance(self, size: int) -> None:
        """Move the bar."""
        if self._task is not None:
            self._progress.advance(self._task, size)

    def finish(self, node: str, what: str) -> None:
        """Leave a line above the bar."""
        self._progress.console.print(f"{node} {what}", highlight=False)


class Watch:
    """What planning tells; this one shows nothing."""

    def __enter__(self) -> Watch:
        """Begin to show."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the show."""

    def look(self, what: str) -> None:
        """Say that a source is opened and checked."""

    def fetch(self, what: str, done: int, total: int | None) -> None:
        """Say how many bytes of a source are here; ``total`` is None where its server does not say."""


class WatchLines(Watch):
    """A plain line when a download begins, every so often, and when it is whole."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._told: dict[str, float] = {}

    def fetch(self, what: str, done: int, total: int | None) -> None:
        """Say so when it is time."""
        now = time.monotonic()
        if now - self._told.get(what, -_EVERY) >= _EVERY or done == total:
            self._told[what] = now
            share = f" of {total / 1e6:,.1f} MB ({done / total:.0%})" if total else ""
            print(f"fetching {what}: {done / 1e6:,.1f} MB{share}", file=self._stream, flush=True)


class WatchBar(Watch):
    """A line that changes in place, for a terminal; it is gone when planning ends."""

    def __init__(self, console: Console | None = None) -> None:
        self._progress = Progress(*_columns(), console=console or Console(stderr=True), transient=True)
        self._tasks: dict[str, TaskID] = {}
        self._looking: TaskID | None = None

    def __enter__(self) -> Watch:
        """Draw it."""
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove it."""
        self._progress.stop()

    def look(self, what: str) -> None:
        """Name the source."""
        if self._looking is None:
            self._looking = self._progress.add_task("", total=None)
        self._progress.update(self._looking, description=f"checking {what}")

    def fetch(self, what: str, done: int, total: int | None) -> None:
        """Move the bar of a download."""
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(f"fetching {what}", total=total)
        self._progress.update(self._tasks[what], completed=done, total=total)


def watch() -> Watch:
    """Choose a bar where standard error is a terminal, and plain lines elsewhere."""
    console = Console(stderr=True)
    return WatchBar(console) if console.is_terminal else WatchLines()


def display() -> Display:
    """Choose a bar where standard error is a terminal, and plain lines elsewhere."""
    console = Console(stderr=True)
    return Bar(console) if console.is_terminal else Lines()


def _columns() -> list[ProgressColumn]:
    return [
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    ]
