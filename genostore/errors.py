"""The errors of genostore: one hierarchy, each class also a builtin, so that either can be caught.

A message says what was got, what was expected, where (file, record) and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GenostoreError(Exception):
    """Any error that genostore raises on purpose."""


class FormatError(GenostoreError, ValueError):
    """Not a genostore store, one of an unknown version, or one whose metadata break the schema."""


class CorruptionError(GenostoreError, OSError):
    """Stored bytes that fail their checksum, or a shard that is listed but absent."""


class StaleError(GenostoreError, RuntimeError):
    """An array was overwritten or removed under an open reader."""


class NotFoundError(GenostoreError, LookupError):
    """A gene, contig, cell type, assay, track or column that the store does not have."""


class RegionError(GenostoreError, ValueError):
    """A genomic region that cannot be parsed or does not lie on its contig."""


class QueryError(GenostoreError, ValueError):
    """A windows query whose arguments are out of range or contradict each other."""


class ForkError(GenostoreError, RuntimeError):
    """A read in a process forked after its parent had used the store."""


class SourceError(GenostoreError, ValueError):
    """A source file that is truncated, malformed, or not what its entry says."""


class CatalogueError(GenostoreError, ValueError):
    """A catalogue with one or more problems, all of them listed."""


class ConflictError(GenostoreError, RuntimeError):
    """A node that exists already with other content, or that another writer is at work on."""


class WriteError(GenostoreError, OSError):
    """The store could not be written: read-only, no space, no permission."""


class RemoteError(GenostoreError, OSError):
    """An object store or server that refuses a request, or gives no answer however often it is asked."""


def nearest(name: str, known: Iterable[str], limit: int = 8) -> str:
    """Describe what could have been meant by an unknown name.

    Parameters
    ----------
    name
        The name that was not found.
    known
        The names there are.
    limit
        How many to list when none is close.

    Returns
    -------
    str
        A clause for the end of an error message.
    """
    names = list(known)
    if not names:
        return "there are none"
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return "there are " + ", ".join(repr(n) for n in names[:limit]) + more
