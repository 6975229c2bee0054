"""Files derived from a source (an index, a decompressed copy), never written beside the source."""

from __future__ import annotations

import atexit
import functools
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from genostore.errors import WriteError
from ingest.sources.reading import naming


@functools.cache
def _own() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="genostore-"))
    atexit.register(_remove, folder, os.getpid())
    return folder


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked child inherits the hook
        shutil.rmtree(folder, ignore_errors=True)


def derived(source: Path, kind: str, build: Callable[[Path], None], scratch: Path | None = None) -> Path:
    """Return the folder of files derived from ``source``, building it the first time.

    Parameters
    ----------
    source
        The file that the folder is derived from; another size or modification time of it makes a new folder.
    kind
        Ends the folder's name, such as ``fasta``.
    build
        Fills the empty folder it is given. What it raises leaves nothing behind.
    scratch
        Where the folder lies. Processes that share it share the work: one builds, the others wait. Without
        it, a temporary folder of this process, removed when the process ends.

    Returns
    -------
    Path
        The folder, complete.

    Raises
    ------
    SourceError
        If ``source`` is absent.
    WriteError
        If the scratch folder cannot be written, for want of space or permission.
    """
    from filelock import FileLock

    with naming(source):
        stat = source.stat()
    key = f"{source.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
    root = scratch if scratch is not None else _own()
    done = root / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.{kind}"
    if done.is_dir():
        return done
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{done}.lock"):
            if done.is_dir():
                return done
            partial = done.with_name(done.name + ".partial")
            shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
            partial.mkdir()
            try:
                build(partial)
                partial.replace(done)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise WriteError(
            f"{root}: cannot hold the files derived from {source.name} ({error.strerror or error}); "
            "name a scratch folder with more space"
        ) from error
    return done
