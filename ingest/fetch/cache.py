"""The cache of fetched files."""

from __future__ import annotations

import hashlib
import json
import os
from os import PathLike, fspath
from pathlib import Path
from typing import Any
from urllib.parse import urldefrag, urlsplit

from filelock import FileLock

from genostore.errors import SourceError
from ingest.fetch.download import Progress, download, patiently, unwritable
from ingest.fetch.names import URLS, at_home, check_source, file_name, redact, scheme, states_checksum
from ingest.fetch.portals import resolve

_RECORD = "fetched.json"


def cache_folder() -> Path:
    """Where fetched files are kept.

    Returns
    -------
    pathlib.Path
        ``GENOSTORE_CACHE``, or the user's cache folder of the operating system.
    """
    named = os.environ.get("GENOSTORE_CACHE")
    if named:
        return at_home(named)
    import platformdirs

    return Path(platformdirs.user_cache_dir("genostore"))


def fetch(
    source: str | PathLike[str],
    *,
    sha256: str | None = None,
    md5: str | None = None,
    cache: str | PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Make a source a verified local file.

    A local path is returned as it is. Anything else lands in the cache under its own name, is checked before it
    takes that name, and is not asked for again: with a checksum the cache answers without the network. A download
    that broke off is continued where it stopped, by this call or by a later one, if the server says that it is
    still the same version. Several processes may ask for one file at once: one fetches it, the others wait.

    Parameters
    ----------
    source
        A path; a URL (http, https, ftp, s3, gs); or an accession (``encode:ENCFF...``, ``4dn:4DNF...``,
        ``hf:owner/dataset[@revision]/path``), whose archive is asked where the file is and what its checksum is.
    sha256, md5
        Checked if given; for an accession they count before the archive's.
    cache
        A folder instead of `cache_folder`.
    progress
        Called with the bytes fetched so far and the whole size (None where the server does not say).

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    SourceError
        If there is no such file, it cannot be reached, its scheme is unknown, or its checksum is wrong (nothing
        of it is kept then). Messages hold no user, password or query of a URL.
    WriteError
        If the cache cannot be written or lacks space.
    """
    source = fspath(source)
    check_source(source)
    wanted = {name: digest.lower() for name, digest in (("sha256", sha256), ("md5", md5)) if digest}
    if not scheme(source):
        return _local(at_home(source), wanted)
    folder = Path(cache if cache is not None else cache_folder()) / _key(source, wanted)
    found = _untouched(folder)
    if found is not None:  # without a lock, so that a read-only cache serves what it has
        return found
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):
            return _untouched(folder) or _checked(folder, wanted) or _fetched(source, wanted, folder, progress)
    except OSError as error:
        raise unwritable(folder, error) from None


def cached(
    source: str | PathLike[str],
    *,
    sha256: str | None = None,
    md5: str | None = None,
    cache: str | PathLike[str] | None = None,
) -> Path | None:
    """Find a source that needs not be fetched: a local path, or what `fetch` left in the cache.

    Parameters
    ----------
    source, sha256, md5, cache
        As for `fetch`.

    Returns
    -------
    pathlib.Path or None
        The file; None where it would have to be fetched.

    Raises
    ------
    SourceError
        If it is a local path and no such file is there, or its checksum is wrong.
    """
    source = fspath(source)
    check_source(source)
    wanted = {name: digest.lower() for name, digest in (("sha256", sha256), ("md5", md5)) if digest}
    if not scheme(source):
        return _local(at_home(source), wanted)
    return _untouched(Path(cache if cache is not None else cache_folder()) / _key(source, wanted))


def _local(path: Path, wanted: dict[str, str]) -> Path:
    if not path.is_file():
        raise SourceError(f"no such file: {path}")
    wrong = _mismatch(path, wanted)
    if wrong:
        raise SourceError(f"{path}: {wrong}; it is not the file that was meant, or that has changed")
    return path


def _key(source: str, wanted: dict[str, str]) -> str:
    """The folder of a source: with a checksum the same content has one, wherever it is from."""
    if scheme(source) not in URLS:
        identity = source
    elif wanted:
        identity = file_name(source)
    else:
        parts = urlsplit(urldefrag(source).url)
        identity = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() + "#" + file_name(source)
    return hashlib.sha256(json.dumps([identity, wanted], sort_keys=True).encode()).hexdigest()[:20]


def _record(folder: Path) -> dict[str, Any] | None:
    """What an earlier call wrote of the file it fetched, if that file is there."""
    try:
        record = json.loads((folder / _RECORD).read_text())
        stat = (folder / record["name"]).stat()
        touched = [stat.st_size, stat.st_mtime_ns] != [record["size"], record["mtime_ns"]]
        return {**record, "path": folder / record["name"], "digests": dict(record["digests"]), "touched": touched}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _untouched(folder: Path) -> Path | None:
    """The file of an earlier call, if nobody changed it since; reads only."""
    record = _record(folder)
    return record["path"] if record is not None and not record["touched"] else None


def _checked(folder: Path, wanted: dict[str, str]) -> Path | None:
    """The file of an earlier call that was touched since, if its checksum is right still; else it is removed."""
    record = _record(folder)
    if record is None:
        return None
    path: Path = record["path"]
    digests = record["digests"] | wanted
    if digests and not _mismatch(path, digests):
        _write_record(folder, path, record["source"], record["digests"])
        return path
    path.unlink()
    return None


def _fetched(source: str, wanted: dict[str, str], folder: Path, progress: Progress | None) -> Path:
    remote = patiently(redact(source), lambda: resolve(source))
    digests = wanted or remote.digests
    if not digests and states_checksum(source):
        raise SourceError(f"{source}: its archive states no checksum; give its sha256 or md5")
    path, part = folder / remote.name, folder / (remote.name + ".part")
    state = part.with_name(part.name + ".json")
    resumed = download(remote, part, progress)
    wrong = _mismatch(part, digests)
    if wrong and resumed:  # the halves may be of two versions that the server did not tell apart
        state.unlink(missing_ok=True)
        download(remote, part, progress)
        wrong = _mismatch(part, digests)
    state.unlink(missing_ok=True)
    if wrong:
        part.unlink()
        raise SourceError(
            f"{redact(source)}: {wrong}; nothing of it is kept. Either the checksum is of another version of the "
            "file, or what came is not what was published"
        )
    part.replace(path)
    _write_record(folder, path, redact(source), digests)
    return path


def _write_record(folder: Path, path: Path, source: str, digests: dict[str, str]) -> None:
    stat = path.stat()
    record = {
        "source": source,
        "name": path.name,
        "digests": digests,
        "size": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
    }
    new = folder / (_RECORD + ".new")
    new.write_text(json.dumps(record, indent=1) + "\n")
    new.replace(folder / _RECORD)


def _mismatch(path: Path, wanted: dict[str, str]) -> str | None:
    """Say which checksum of a file is not the one wanted; None if all are."""
    for algorithm, expected in wanted.items():
        got = _digest(path, algorithm)
        if got != expected:
            return f"its {'git blob id' if algorithm == 'git' else algorithm} is {got}, expected {expected}"
    return None


def _digest(path: Path, algorithm: str) -> str:
    if algorithm == "git":  # what git calls a file: the sha1 of a header and its bytes
        running = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    else:
        running = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            running.update(chunk)
    return running.hexdigest()
