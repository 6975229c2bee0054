"""Bring a remote file to a partial file on disk, over as many attempts as it takes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from genostore.errors import SourceError, WriteError
from ingest.fetch.names import redact
from ingest.fetch.portals import Remote
from ingest.fetch.transports import TransientError, transport

Progress = Callable[[int, int | None], None]
Result = TypeVar("Result")

#: Attempts without progress before giving up, the pause after the first, and the longest pause, in seconds.
ATTEMPTS = 6
PAUSE = 0.5
LONGEST_PAUSE = 60.0


class _Patience:
    """Counts the attempts that brought nothing, and waits between them."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.tries = 0

    def wait(self, error: TransientError, kept: str = "") -> None:
        self.tries += 1
        if self.tries >= ATTEMPTS:
            raise SourceError(f"{self.what}: {error}; gave up after {self.tries} attempts{kept}") from None
        time.sleep(min(error.wait or PAUSE * 2 ** (self.tries - 1), LONGEST_PAUSE))


def patiently(what: str, action: Callable[[], Result]) -> Result:
    """Do something remote, again after each `TransientError`, with growing pauses.

    Parameters
    ----------
    what
        Named in the error.
    action
        What to do.

    Returns
    -------
    object
        What the action returned.

    Raises
    ------
    SourceError
        After `ATTEMPTS` failures.
    """
    patience = _Patience(what)
    while True:
        try:
            return action()
        except TransientError as error:
            patience.wait(error)


def download(remote: Remote, part: Path, progress: Progress | None = None) -> bool:
    """Complete a partial file.

    What an earlier call left is continued if the server says that it is the same version of the file, and
    otherwise replaced. Attempts are counted anew whenever one got further than any before.

    Parameters
    ----------
    remote
        What to fetch.
    part
        Where to; ``<part>.json`` beside it keeps what names the version.
    progress
        Called with the bytes on disk and the whole size, or None where that is not stated.

    Returns
    -------
    bool
        Whether the file was put together from more than one attempt.

    Raises
    ------
    SourceError
        If the file is refused, absent or cannot be completed; what was fetched is kept.
    WriteError
        If the disk is full or read-only.
    """
    channel = transport(remote.url, remote.headers)
    state = part.with_name(part.name + ".json")
    patience = _Patience(redact(remote.url))
    best, resumed = 0, False
    while True:
        offset, validator = _partial(part, state, remote.url)
        size, done = None, offset
        try:
            with channel.open(offset, validator) as reply:
                size, done = reply.size, reply.offset
                resumed |= done > 0
                _check_space(part.parent, size, done)
                state.write_text(json.dumps({"url": _hidden(remote.url), "validator": reply.validator}))
                with part.open("r+b" if done else "wb") as file:
                    file.seek(done)
                    file.truncate()
                    for chunk in reply.chunks:
                        file.write(chunk)
                        done += len(chunk)
                        if progress is not None:
                            progress(done, size)
            if size is not None and done != size:
                raise TransientError(f"the file ended after {done:,} of {size:,} bytes")
            return resumed
        except TransientError as error:
            if size is not None and done > size:
                part.unlink(missing_ok=True)
            if done > best:
                best, patience.tries = done, 0
            patience.wait(error, f"; {done:,} bytes are kept, run it again to go on" if done else "")
        except OSError as error:
            raise unwritable(part.parent, error) from None


def _partial(part: Path, state: Path, url: str) -> tuple[int, str | None]:
    """How many bytes are there of which version; 0 if they cannot be continued."""
    try:
        kept = json.loads(state.read_text())
        if kept["url"] == _hidden(url) and kept["validator"]:
            return part.stat().st_size, str(kept["validator"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return 0, None


def _hidden(url: str) -> str:
    """Tell URLs apart without keeping what may be secret in them."""
    return hashlib.sha256(url.encode()).hexdigest()


def _check_space(folder: Path, size: int | None, done: int) -> None:
    free = shutil.disk_usage(folder).free
    if size is not None and size - done > free:
        raise WriteError(
            f"{folder} has {free:,} bytes free and the rest of the file takes {size - done:,}; make room, or set "
            "GENOSTORE_CACHE to a folder on another disk"
        )


def unwritable(folder: Path, error: OSError) -> WriteError:
    """The error for a cache folder that cannot be written."""
    if isinstance(error, WriteError):
        return error
    advice = "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "give permission"
    said = (error.strerror or os.strerror(error.errno or errno.EIO)).lower()
    return WriteError(
        f"the cache {folder} cannot be written: {said}; {advice}, or set GENOSTORE_CACHE to another folder"
    )
