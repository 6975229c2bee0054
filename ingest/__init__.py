"""Turn the files of biology into a genostore store.

``ingest.plan`` settles what a catalogue puts into a store, ``ingest.run`` writes it, ``ingest.add`` adds one file,
``ingest.verify`` compares a store with its sources, and ``ingest.export`` gives tracks back as files.
"""

from __future__ import annotations

from ingest.plan import Plan, plan
from ingest.run import Outcome, run

__all__ = ["Outcome", "Plan", "plan", "run"]
