"""What was tried and what was seen: rows of one table."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass
class Row:
    """One line of the table.

    Attributes
    ----------
    study
        Such as ``crash``.
    what
        Was done, in words.
    tried
        How many times.
    seen
        How often each outcome came.
    lost, wrong
        Cases in which something was lost, or differed without a word; both are to be 0.
    notes
        Of the cases that are not as they should be, or that want a reason.
    """

    study: str
    what: str
    tried: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    wrong: int = 0
    notes: list[str] = field(default_factory=list)

    def add(self, outcome: str) -> None:
        """Count a case."""
        self.tried += 1
        self.seen[outcome] += 1

    @property
    def good(self) -> bool:
        """Whether nothing was lost and nothing silently wrong."""
        return self.lost == self.wrong == 0

    def plain(self) -> dict[str, object]:
        """Give it as JSON has it."""
        return {**vars(self), "seen": dict(sorted(self.seen.items()))}


def run(module: str, counts: dict[str, int], seed: int, *options: str) -> list[Row]:
    """Let a module try each named thing so often, as a program of its own that ends in its rows as JSON."""
    command = [sys.executable, *options, "-m", module, json.dumps(counts), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    rows = []
    for plain in json.loads(done.stdout.splitlines()[-1]):
        row = Row(plain["study"], plain["what"])
        vars(row).update(plain)
        rows.append(row)
    return rows


def table(rows: Iterable[dict]) -> str:
    """Render rows as Markdown."""
    out = ["| study | what was tried | times | what was seen | lost | silently wrong |", "|---|---|---|---|---|---|"]
    for row in rows:
        seen = ", ".join(f"{n:,} {what}" if isinstance(n, int) else f"{what} {n}" for what, n in row["seen"].items())
        out.append(f"| {row['study']} | {row['what']} | {row['tried']:,} | {seen} | {row['lost']} | {row['wrong']} |")
    return "\n".join(out)
