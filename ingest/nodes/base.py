"""What a node of the store is to ingest: where it goes, what decides its values, and how to read them."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from genostore.genome import Genome
from genostore.schema import FORMAT_VERSION, ArraySchema, dumps
from ingest.hashing import Fingerprint, fingerprint
from ingest.sources.contigs import ContigMatch

_TEXT_BYTES = 16  # a guess at the length of a gene's id or name


@dataclass(frozen=True)
class SourceFile:
    """A local file that values come from, and what its entry says about it.

    Attributes
    ----------
    path
        Where it lies now; never written to a store.
    name
        Its base name, of the URL where it was fetched.
    accession, description
        As the entry gives them.
    """

    path: Path
    name: str
    accession: str | None = None
    description: str | None = None

    @property
    def fingerprint(self) -> Fingerprint:
        """Size and sha256 of the content; the content is read once as long as the file does not change."""
        return fingerprint(self.path)

    @property
    def provenance(self) -> dict[str, Any]:
        """What a node's attributes say of it."""
        known = {"accession": self.accession, "description": self.description}
        content = self.fingerprint
        return {"source": self.name, "size": content.size, "sha256": content.sha256} | {
            k: v for k, v in known.items() if v is not None
        }


@dataclass(frozen=True)
class Values:
    """The values of one stored object.

    Attributes
    ----------
    values
        Of the extent and type of the array's schema there.
    counts
        Tallies that the array's attributes give as sums over all its objects.
    maxima
        Measures of which they give the greatest.
    """

    values: NDArray[Any]
    counts: Mapping[str, float] = field(default_factory=dict)
    maxima: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Node(ABC):
    """One node of the store, ready to be written. It pickles, so that any process may write parts of it.

    Attributes
    ----------
    path
        In the store.
    genome
        Whose axis it lies on.
    sources
        The files that its values come from; the first is named in its provenance.
    """

    kind: ClassVar[str]
    revision: ClassVar[int] = 1  # raised when the same source and options give other values

    path: str
    genome: Genome = field(repr=False)
    sources: tuple[SourceFile, ...]

    @property
    @abstractmethod
    def arrays(self) -> dict[str, ArraySchema]:
        """Schemas by name; ``""`` is the node itself."""

    @abstractmethod
    def read(self, name: str, block: int) -> Values:
        """Read the values of one stored object of an array from the sources.

        Raises
        ------
        SourceError
            If a source cannot be decoded, or holds what the store cannot keep.
        """

    @property
    @abstractmethod
    def options(self) -> dict[str, Any]:
        """What decides the values beside the sources' content, JSON."""

    @abstractmethod
    def attributes(self) -> dict[str, Any]:
        """Attributes of the node but ``kind``, ``digest`` and what staging adds."""

    def array_attributes(self) -> dict[str, dict[str, Any]]:
        """Attributes of the arrays of a group."""
        return {}

    @property
    def size(self) -> int:
        """Bytes of values, uncompressed; of text a guess."""
        return sum(math.prod(a.shape) * _width(a.dtype) for a in self.arrays.values())

    def block_size(self, name: str, block: int) -> int:
        """Bytes of values of one stored object."""
        schema = self.arrays[name]
        return math.prod(s.stop - s.start for s in schema.slices(block)) * _width(schema.dtype)

    @cached_property
    def digest(self) -> str:
        """Sha256 of all that decides the values: equal digests mean equal content."""
        content = {
            "format": FORMAT_VERSION,
            "kind": self.kind,
            "revision": self.revision,
            "node": self.path,
            "assembly": self.genome.name,
            "alignment": self.genome.alignment,
            "contigs": [[c.name, c.length] for c in self.genome],
            "sources": [s.fingerprint.sha256 for s in self.sources],
            "options": self.options,
        }
        return hashlib.sha256(dumps(content)).hexdigest()

    def provenance(self, options: Mapping[str, Any], contigs: ContigMatch | None = None) -> dict[str, Any]:
        """Give the provenance of the first source.

        Parameters
        ----------
        options
            Those that the entry states.
        contigs
            How the contigs of the source and of the assembly met.
        """
        from genostore import __version__

        out = {**self.sources[0].provenance, "options": dict(options), "writer": f"genostore {__version__}"}
        if contigs is not None:
            out["contigs"] = {"extra": contigs.extra, "absent": contigs.missing}
            if contigs.mismatched:
                out["contigs"]["mismatched"] = [list(m) for m in contigs.mismatched]
        return out

    def __getstate__(self) -> dict[str, Any]:
        return {f.name: self.__dict__[f.name] for f in fields(self)}


def _width(dtype: str) -> int:
    return _TEXT_BYTES if dtype == "string" else np.dtype(dtype).itemsize
