"""Numbers and names as messages give them."""

from __future__ import annotations

from collections.abc import Sequence

LISTED = 5  # names that a message gives


def counted(n: int, noun: str) -> str:
    """Write a count: ``1 contig``, ``1,204 genes``."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def listed(names: Sequence[str], most: int = LISTED) -> str:
    """List names, cut short."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def duration(seconds: float) -> str:
    """Write a length of time: ``42 s``, ``3:07 min``, ``2:15 h``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)}:{int(seconds % 60):02d} min"
    return f"{int(seconds // 3600)}:{int(seconds % 3600 // 60):02d} h"


def sized(size: float) -> str:
    """Write a number of bytes: ``812 B``, ``31.4 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"
