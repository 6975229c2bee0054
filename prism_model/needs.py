"""Which signals a model takes that a store, or a user's own files, do not give."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prism_model.config import DataConfig


def absent_signals(config: DataConfig, cell_types: Sequence[str], nodes: Iterable[str]) -> list[tuple[str, str]]:
    """(cell type, assay) of the signals of a run's query that are not among the nodes of a store.

    Parameters
    ----------
    config
        Of the run, its open ends resolved.
    cell_types
        To predict for.
    nodes
        Such as ``tracks/K562/DNase`` and ``contacts/K562/hic/5000``.
    """
    there = set(nodes)

    def has(cell: str, assay: str) -> bool:
        track = f"tracks/{cell}/{assay}"
        return track in there or {f"{track}+", f"{track}-"} <= there  # a stranded pair goes by one name

    absent = [(cell, assay) for cell in cell_types for assay in config.assays or () if not has(cell, assay)]
    if config.contacts:
        at = f"{config.contacts}/{config.contact_bin_size}"
        absent += [(cell, config.contacts) for cell in cell_types if f"contacts/{cell}/{at}" not in there]
    return absent


def taken(config: DataConfig) -> str:
    """The signals of a run's query in words."""
    contacts = [f"{config.contacts} in bins of {config.contact_bin_size:,} bp"] if config.contacts else []
    return ", ".join([*(config.assays or ()), *contacts]) or "none"


def named(absent: Sequence[tuple[str, str]], limit: int = 8) -> str:
    """Missing signals as a message names them."""
    more = f" and {len(absent) - limit} more" if len(absent) > limit else ""
    return ", ".join(f"{cell}/{assay}" for cell, assay in absent[:limit]) + more
