"""zstd's own library, the one inside numcodecs, for compiled loops that call its functions by address."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

_LEVEL = 100  # the library's number of that parameter


@cache
def zstd() -> ctypes.CDLL:
    """Open the library."""
    import numcodecs.zstd

    library = ctypes.CDLL(numcodecs.zstd.__file__)
    library.ZSTD_createDCtx.restype = library.ZSTD_createCCtx.restype = ctypes.c_void_p
    library.ZSTD_freeDCtx.argtypes = library.ZSTD_freeCCtx.argtypes = [ctypes.c_void_p]
    library.ZSTD_CCtx_setParameter.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int]
    library.ZSTD_getFrameContentSize.restype = ctypes.c_ulonglong
    library.ZSTD_getFrameContentSize.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    return library


def address(function: Any) -> int:
    """Give the address of a C function."""
    return int(ctypes.cast(function, ctypes.c_void_p).value or 0)


@cache
def pread() -> int:
    """Give the address of ``pread``."""
    return address(ctypes.CDLL(None).pread)


@cache
def decompress() -> int:
    """Give the address of ``ZSTD_decompressDCtx``."""
    return address(zstd().ZSTD_decompressDCtx)


@cache
def compress() -> int:
    """Give the address of ``ZSTD_compress2``."""
    return address(zstd().ZSTD_compress2)


@cache
def available() -> bool:
    """Tell whether this machine has the C functions, with the calling convention that compiled loops expect."""
    try:
        return (
            ctypes.sizeof(ctypes.c_void_p) == 8 and os.name == "posix" and 0 not in (pread(), decompress(), compress())
        )
    except (ImportError, AttributeError, OSError):
        return False


class _State:
    """What the library works with, in one thread."""

    def __init__(self, make: Callable[[], int], free: Callable[[int], Any]) -> None:
        self._free = free
        self.address = int(make())

    def __del__(self) -> None:
        self._free(self.address)


_mine = threading.local()


def decoder() -> int:
    """Give the address of this thread's state for decoding."""
    if not hasattr(_mine, "decoder"):
        _mine.decoder = _State(zstd().ZSTD_createDCtx, zstd().ZSTD_freeDCtx)
    return int(_mine.decoder.address)


def encoder(level: int) -> int:
    """Give the address of this thread's state for encoding at a level."""
    states: dict[int, _State] = _mine.__dict__.setdefault("encoders", {})
    if level not in states:
        states[level] = _State(zstd().ZSTD_createCCtx, zstd().ZSTD_freeCCtx)
        zstd().ZSTD_CCtx_setParameter(states[level].address, _LEVEL, level)
    return states[level].address
