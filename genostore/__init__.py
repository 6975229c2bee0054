"""genostore: a genome, its epigenome and its 3D contacts in one store, and windows of them for any model."""

from __future__ import annotations

from importlib.metadata import version

from genostore.batch import Batch
from genostore.contacts import Contacts
from genostore.genome import Contig, Genome, Region
from genostore.sequence import decode
from genostore.store import Store, open

__version__ = version("genostore")
__all__ = ["Batch", "Contacts", "Contig", "Genome", "Region", "Store", "decode", "open"]
