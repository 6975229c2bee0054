"""Turn the files of biology into a genostore store.

``ingest.plan`` settles what a catalogue puts into a store, ``ingest.run`` writes it, ``ingest.add`` adds one file,
``ingest.verify`` compares a store with its sources, and ``ingest.export`` gives tracks back as files.
"""

from __future__ import annotations

from ingest.add import add
from ingest.export import export
from ingest.plan import Plan, plan
from ingest.run import Outcome, run
from ingest.verify import Finding, Verification, verify

__all__ = ["Finding", "Outcome", "Plan", "Verification", "add", "export", "plan", "run", "verify"]
