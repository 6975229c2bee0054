"""Arrays in memory that the processes of a machine share: made once, by whichever comes first.

An array is a file in memory (``/dev/shm``, where there is one), under a lock of the operating system that each of its
users holds together and its maker alone. The last user removes the file. What a killed process leaves behind is used by
the next one that wants it, and removed by the next one that does not.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import math
import mmap
import os
import random
import stat
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genostore.disk import writing
from genostore.errors import QueryError, WriteError

_HEADER = 4096
_DONE = b"genostore resident 1\n"
_TURN = 0.01  # seconds at most, so that two who want to make the same do not stay in step
_POPULATE = getattr(mmap, "MAP_POPULATE", 0)
_open: weakref.WeakValueDictionary[str, Shared] = weakref.WeakValueDictionary()
_lock = threading.RLock()


class Shared:
    """An array that lies in shared memory; read-only. It goes when its last user in any process does.

    Attributes
    ----------
    values
        The array. It is not to be used after the last reference to this object is gone.
    path
        Of the file.
    """

    def __init__(self, path: Path, descriptor: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.path = path
        size = _HEADER + math.prod(shape) * dtype.itemsize
        memory = mmap.mmap(descriptor, size, mmap.MAP_SHARED | _POPULATE, mmap.PROT_READ)
        self.values: NDArray[Any] = np.frombuffer(memory, dtype, offset=_HEADER).reshape(shape)
        weakref.finalize(self, _leave, str(path), descriptor, os.getpid())


def key(*what: object) -> str:
    """Name an array by all that decides its content."""
    return hashlib.sha256(repr(what).encode()).hexdigest()[:32]


def shared(name: str, shape: tuple[int, ...], dtype: np.dtype[Any], make: Callable[[NDArray[Any]], None]) -> Shared:
    """Find an array that is there already, or make it.

    Parameters
    ----------
    name
        Of :func:`key`.
    shape, dtype
        Of the array.
    make
        Fills the array, which comes as zeros. Others wait for it; where it fails, nothing is left.

    Raises
    ------
    WriteError
        If there is no room.
    """
    path = folder() / name
    with _lock:
        found = _open.get(str(path))
        if found is None:
            found = _open[str(path)] = _attach(path, shape, dtype, make)
    return found


def _attach(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], make: Callable[[NDArray[Any]], None]) -> Shared:
    size = _HEADER + math.prod(shape) * dtype.itemsize
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)  # waits for whoever makes it
            if _same(path, descriptor) and _complete(descriptor, size):
                return Shared(path, descriptor, shape, dtype)
            # Not waiting: whoever makes it then keeps it, and who waited to make it would wait until it is given back.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _same(path, descriptor) and not _complete(descriptor, size):
                _make(path, descriptor, size, shape, dtype, make)
        except BlockingIOError:  # somebody looks too, or makes it by now
            time.sleep(random.uniform(0, _TURN))
        except BaseException:
            os.close(descriptor)
            raise
        # Taking one lock for the other may let somebody in between: look again.
        os.close(descriptor)


def _make(
    path: Path,
    descriptor: int,
    size: int,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    make: Callable[[NDArray[Any]], None],
) -> None:
    try:
        with writing(path):
            os.ftruncate(descriptor, 0)
            if hasattr(os, "posix_fallocate"):  # a full memory is an error now, and not a signal later
                os.posix_fallocate(descriptor, 0, size)
            else:
                os.ftruncate(descriptor, size)
        memory = mmap.mmap(descriptor, size)
        make(np.frombuffer(memory, dtype, offset=_HEADER).reshape(shape))
        memory[: len(_DONE)] = _DONE
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _same(path: Path, descriptor: int) -> bool:
    """Tell whether the open file is still the one of that name."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    mine = os.fstat(descriptor)
    return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)


def _complete(descriptor: int, size: int) -> bool:
    return os.fstat(descriptor).st_size == size and os.pread(descriptor, len(_DONE), 0) == _DONE


def _leave(path: str, descriptor: int, process: int) -> None:
    """Remove the file unless somebody else uses it."""
    if process == os.getpid():  # a forked child shares its parent's lock
        _remove_unused(Path(path), descriptor)
    os.close(descriptor)


def _remove_unused(path: Path, descriptor: int) -> None:
    with contextlib.suppress(BlockingIOError, FileNotFoundError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _same(path, descriptor):
            path.unlink()


def sweep(keep: Iterable[str]) -> None:
    """Remove what killed processes left, except for some names."""
    kept = set(keep)
    for path in folder().iterdir():
        if path.name in kept:
            continue
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            _remove_unused(path, descriptor)
            os.close(descriptor)


def folder() -> Path:
    """Give this user's folder in shared memory; of temporary files where there is no such memory.

    The environment variable ``GENOSTORE_RESIDENT`` names another.
    """
    base = Path("/dev/shm")
    if not os.access(base, os.W_OK):
        base = Path(tempfile.gettempdir())
    path = Path(os.environ.get("GENOSTORE_RESIDENT") or base / f"genostore-{os.getuid()}")
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise WriteError(f"{path} is not a folder that this user alone can write to; remove it")
    return path


def complete(name: str, nbytes: int) -> bool:
    """Tell whether an array is there already."""
    try:
        descriptor = os.open(folder() / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        return _complete(descriptor, _HEADER + nbytes)
    finally:
        os.close(descriptor)


def free() -> int:
    """Bytes of memory that are free for shared arrays: of the machine, of this container, of the file system."""
    room = os.statvfs(folder())
    sizes = [room.f_bavail * room.f_frsize]
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        sizes.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]))
    with contextlib.suppress(OSError, StopIteration, ValueError):
        group = Path("/sys/fs/cgroup")
        most, used = int((group / "memory.max").read_text()), int((group / "memory.current").read_text())
        lines = (group / "memory.stat").read_text().splitlines()
        cached = int(next(line for line in lines if line.startswith("inactive_file ")).split()[1])
        sizes.append(most - used + cached)
    return min(sizes)


def check_room(what: dict[str, int], available: int, where: str) -> None:
    """Refuse to make arrays that would not fit.

    Parameters
    ----------
    what
        Bytes by what they are for.
    available
        Bytes that are free.
    where
        In words, for the message.

    Raises
    ------
    QueryError
        With the sizes named.
    """
    wanted = sum(what.values())
    if wanted > available:
        each = ", ".join(f"{name} {size / 2**30:.2f}" for name, size in what.items())
        raise QueryError(
            f"the resident data want {wanted / 2**30:.2f} GiB ({each}), and {available / 2**30:.2f} GiB of {where} are "
            "free; ask for fewer tracks, resident_dtype='float16', or a pack"
        )
