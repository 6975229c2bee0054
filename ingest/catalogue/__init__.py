"""The catalogue: what goes into a store, as a checked YAML file (``docs/catalogue.md``)."""

from ingest.catalogue.entries import (
    Assembly,
    ColumnSplit,
    Contacts,
    ContigSplit,
    ExpressionSignal,
    ExpressionTable,
    Features,
    GeneNames,
    Genes,
    GeneTable,
    GeometricMean,
    Regions,
    Source,
    Track,
)
from ingest.catalogue.load import VERSION, load
from ingest.catalogue.model import Catalogue
from ingest.catalogue.problems import Problem, report

__all__ = [
    "VERSION",
    "Assembly",
    "Catalogue",
    "ColumnSplit",
    "Contacts",
    "ContigSplit",
    "ExpressionSignal",
    "ExpressionTable",
    "Features",
    "GeneNames",
    "GeneTable",
    "Genes",
    "GeometricMean",
    "Problem",
    "Regions",
    "Source",
    "Track",
    "load",
    "report",
]
