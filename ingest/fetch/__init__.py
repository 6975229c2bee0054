"""Fetch sources into a cache: resumable, verified, safe among processes."""

from ingest.fetch.cache import cache_folder, cached, fetch
from ingest.fetch.names import check_source, file_name, portal_accession, redact, scheme, states_checksum

__all__ = [
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
