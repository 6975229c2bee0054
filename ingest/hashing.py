"""Checksums of source files, each file read once as long as it does not change."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from pathlib import Path

from ingest.sources.reading import naming


@dataclass(frozen=True)
class Fingerprint:
    """What tells one content of a file from another."""

    size: int
    sha256: str


Stamp = tuple[str, int, int, int, int]
_known: dict[Stamp, Fingerprint] = {}
_locks: dict[Stamp, threading.Lock] = {}
_guard = threading.Lock()


def stamp(path: Path) -> Stamp:
    """Tell one state of a file from another without reading it: path, file, size and times.

    The time of change counts beside that of modification, which whoever writes a file can set back.
    """
    with naming(path):
        status = path.stat()
    return str(path.resolve()), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def fingerprint(path: Path) -> Fingerprint:
    """Return size and sha256 of a file; two threads that ask for the same one read it once.

    Raises
    ------
    SourceError
        If it cannot be read.
    """
    key = stamp(path)
    with _guard:
        held = _locks.setdefault(key, threading.Lock())
    with held:
        if key not in _known:
            with naming(path), path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256")
            _known[key] = Fingerprint(key[1], digest.hexdigest())
    return _known[key]
