"""Scripts in a process of their own: one that forks may hang where libraries of other tests have threads and locks."""

from __future__ import annotations

import subprocess
import sys
import textwrap


def alone(script: str, *arguments: object) -> str:
    """Run a script, and give what it prints."""
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script), *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=120).stdout
