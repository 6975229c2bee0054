"""Durable file operations: write whole files atomically, lock, and say plainly why a write failed."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from genostore.errors import ConflictError, WriteError

_ADVICE = {
    errno.ENOSPC: "there is no space left on the disk; free some and run again, what is done is kept",
    errno.EDQUOT: "the disk quota is used up; free some space and run again, what is done is kept",
    errno.EROFS: "the file system is read-only; choose another place for the store",
    errno.EACCES: "no permission to write there; check the folder's owner and mode",
    errno.EFBIG: "the file would pass the limit on the size of files (ulimit -f); raise it and run again",
    errno.EPERM: "no permission to write there; check the folder's owner and mode",
}
_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux
_OS_ERROR = re.compile(r"os_error_code='(\d+)'")  # TensorStore reports the same faults as text


@contextlib.contextmanager
def writing(where: str | os.PathLike[str]) -> Iterator[None]:
    """Turn the operating system's refusals to write below ``where`` into a :class:`WriteError`."""
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        if error.errno not in _ADVICE:
            raise
        raise WriteError(error.errno, f"cannot write {os.fspath(where)}: {_ADVICE[error.errno]}") from error
    except ValueError as error:
        found = _OS_ERROR.search(str(error))
        code = int(found[1]) if found else 0
        if code not in _ADVICE:
            raise
        raise WriteError(code, f"cannot write {os.fspath(where)}: {_ADVICE[code]}") from error


def sync(path: Path) -> None:
    """Make a file or folder survive a loss of power."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_file(path: Path, content: bytes, scratch: Path | None = None) -> None:
    """Write a file whole, durably and atomically; a reader sees the old content or the new.

    Parameters
    ----------
    path, content
        Of the file.
    scratch
        Folder of the same file system in which it is made, so that what a killed process leaves lies there; that of
        the file by default.
    """
    temporary = (scratch or path.parent) / f"{path.name}.{os.getpid()}.{threading.get_ident()}.part"
    if scratch is not None:
        scratch.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync_tree(folder: Path) -> None:
    """Make a folder and all in it survive a loss of power."""
    for parent, _, files in os.walk(folder, topdown=False):
        for name in files:
            sync(Path(parent, name))
        sync(Path(parent))


def remove_tree(folder: Path) -> None:
    """Remove a folder if it is there."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)


def make_folder(folder: Path) -> None:
    """Make a folder, if it is not there, that survives a loss of power."""
    try:
        folder.mkdir()
    except FileExistsError:
        return
    sync(folder.parent)


def put_folder(source: Path, target: Path) -> None:
    """Rename a folder into a place where none is, durably; what lies in it is to be synchronised before."""
    source.rename(target)
    sync(target.parent)
    sync(source.parent)


def exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step, where the system can; nobody ever finds either place empty.

    Returns
    -------
    bool
        Whether it was done; if not, nothing was.
    """
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    if rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) != 0:
        code = ctypes.get_errno()
        if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):  # an old kernel, or a file system without it
            return False
        raise OSError(code, os.strerror(code), str(other))
    sync(other.parent)
    sync(one.parent)
    return True


@contextlib.contextmanager
def lock(path: Path, what: str, wait: float = 0.0) -> Iterator[None]:
    """Hold a lock that the operating system gives back when its holder dies.

    Parameters
    ----------
    path
        Of the lock file.
    what
        Is locked, for the message.
    wait
        Seconds to wait for another holder.

    Raises
    ------
    ConflictError
        If another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(path)
    try:
        held.acquire(timeout=wait, poll_interval=0.02)
    except Timeout:
        raise ConflictError(f"another process is writing {what}; wait until it has finished, then run again") from None
    try:
        yield
    finally:
        held.release()


def event_record(event: Mapping[str, Any]) -> dict[str, Any]:
    """Add to an event of the log when and where it happened."""
    return {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "host": os.uname().nodename, **event}
