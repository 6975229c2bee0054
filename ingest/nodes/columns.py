"""Columns: genes, features, expression from tables, and sets of intervals; read when they are planned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from genostore.schema import ArraySchema, column_array
from ingest.nodes.base import Node, Values


@dataclass(frozen=True)
class ColumnsNode(Node):
    """A node of one column, or a group of columns of one length.

    Attributes
    ----------
    columns
        Values by name, each ``(n,)``; the name ``""`` where the node is the column itself.
    settings
        What decides the values beside the sources' content.
    labels
        Attributes of the node.
    stated
        The options that the entry states, for the provenance.
    """

    dim: ClassVar[str] = "gene"

    columns: Mapping[str, NDArray[Any]] = field(repr=False)
    settings: dict[str, Any]
    labels: dict[str, Any]
    stated: dict[str, Any]

    @property
    def arrays(self) -> dict[str, ArraySchema]:
        """One array a column."""
        return {name: column_array(len(v), self.dim, _dtype(v)) for name, v in self.columns.items()}

    @property
    def options(self) -> dict[str, Any]:
        """The settings and labels."""
        return {"settings": self.settings, "labels": self.labels}

    def read(self, name: str, block: int) -> Values:
        """Give a column."""
        return Values(self.columns[name])

    def attributes(self) -> dict[str, Any]:
        """Give labels and provenance."""
        return {**self.labels, "provenance": self.provenance(self.stated)}


class GenesNode(ColumnsNode):
    """``genes``: the gene axis."""

    kind: ClassVar[str] = "genes"


class FeatureNode(ColumnsNode):
    """``features/<name>`` or ``features/<cell_type>/<name>``: one number a gene."""

    kind: ClassVar[str] = "feature"


class ExpressionNode(ColumnsNode):
    """``expression/<assay>/<cell_type>`` from a table: one number a gene, NaN = not measured."""

    kind: ClassVar[str] = "expression"


class RegionsNode(ColumnsNode):
    """``regions/<name>``: a set of intervals."""

    kind: ClassVar[str] = "regions"
    dim: ClassVar[str] = "interval"


def text(values: Any) -> NDArray[np.object_]:
    """Give a column of text as objects of type ``str``."""
    return np.asarray([str(v) for v in values], dtype=object)


def _dtype(values: NDArray[Any]) -> str:
    return "string" if values.dtype.kind in "OTU" else str(values.dtype)
