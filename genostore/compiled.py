"""numba's ``njit``, with a cache on disk that several processes can fill and read at once, and that knows its sources.

numba writes a function's new index before the machine code that it names. A process that looks in between, after the
source has changed, is given the old source's machine code for the new function; one that looks while another stores
other argument types is given those. Wrong results or a crash follow. Here one process at a time looks and stores; the
others wait, and then find the code made.

numba also takes machine code for a function's as long as the file of the function is what it was, though it holds code
of the files that the function calls. Here all of them count.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numba
from filelock import FileLock
from numba.core.caching import IndexDataCacheFile
from numba.core.compiler_lock import global_compiler_lock

LOCK = ".genostore-compile.lock"
WAIT = 60.0
"""Seconds; compiling takes a few."""


def njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """``numba.njit`` of these options, safe with ``cache=True``.

    Parameters
    ----------
    **options
        Of ``numba.njit``.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        made = numba.njit(**options)(function)
        if options.get("cache"):
            cache_ = made._cache
            cache_._cache_file = _Kept(cache_._cache_path, cache_._impl.filename_base, _stamp(function))
            compile_ = made.compile

            def compile_alone(signature: Any) -> Any:
                with _alone(Path(made.stats.cache_path)):
                    return compile_(signature)

            made.compile = compile_alone
        return made

    return decorate


class _Kept(IndexDataCacheFile):  # type: ignore[misc]  # numba has no types
    """What is on disk of a function; what cannot be read counts for nothing, and is made anew."""

    def _load_index(self) -> dict[Any, str]:
        try:
            return dict(super()._load_index())
        except Exception:  # cut short, or of types of an older version, which are no more: anything may be raised
            return {}


def _stamp(function: Callable[..., Any]) -> tuple[tuple[str, int, int], ...]:
    """Give name, time and size of the file of a function and of those that it takes code from."""
    ours = {"genostore", function.__module__.partition(".")[0]}
    files, todo = {function.__code__.co_filename}, [function.__globals__]
    while todo:
        for value in list(todo.pop().values()):
            name = getattr(value, "__module__", None) or ""
            file = getattr(sys.modules.get(name), "__file__", None)
            if file and name.partition(".")[0] in ours and file not in files:
                files.add(file)
                todo.append(vars(sys.modules[name]))
    paths = map(Path, sorted(files))
    return tuple((path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in paths)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other threads and processes from compiling what is cached in a folder."""
    # numba's own lock first, as compiling takes it too: two threads must not wait for each other.
    with global_compiler_lock, contextlib.ExitStack() as stack:
        # A cache that cannot be written, a file system without locks, a process that was stopped while it compiled: go
        # on without, which is what numba does.
        with contextlib.suppress(OSError, NotImplementedError):
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(_lock(folder, os.getpid()).acquire(timeout=WAIT))
        yield


@cache
def _lock(folder: Path, process: int) -> FileLock:
    """One object a folder and process: it lets the process in again, for a function that another calls, and no fork."""
    return FileLock(folder / LOCK)
