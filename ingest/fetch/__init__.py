"""Fetch sources into a cache: resumable, verified, safe among processes."""

from ingest.fetch.cache import cache_folder, cached, fetch
from ingest.fetch.names import at_home, check_source, file_name, portal_accession, redact, scheme, states_checksum

__all__ = [
    "at_home",
    "cache_folder",
    "cached",
    "check_source",
    "fetch",
    "file_name",
    "portal_accession",
    "redact",
    "scheme",
    "states_checksum",
]
