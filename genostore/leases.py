"""Locks on an object store: an object that says who holds it, written by conditional puts alone.

A holder renews its lease; one that was not renewed for the length of a lease is dead, by the store's own clock, so
that clocks of machines do not matter. A holder that died on the same machine is recognised at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import time
import uuid
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from genostore.errors import ConflictError, GenostoreError
from genostore.storage import PRIVATE

if TYPE_CHECKING:
    from genostore.objects import Bucket

#: Seconds that a lease lasts without being renewed; it is renewed four times as often.
LEASE = float(os.environ.get("GENOSTORE_LEASE", "60"))
_POLL = 0.25
_FREE = b"{}\n"
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # goes on while the machine sleeps

_leases: dict[tuple[str, str], Lease] = {}


class Lease:
    """A lock that this process holds."""

    def __init__(self, bucket: Bucket, key: str, what: str) -> None:
        self.bucket, self.key, self.what = bucket, key, what
        self.mine: dict[str, Any] = {"owner": uuid.uuid4().hex, "lease": LEASE, **_process()}
        self.stamp: Hashable = None
        self.until = 0.0
        self.beat = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="genostore-lease", daemon=True)

    def take(self, stamp: Hashable | None) -> bool:
        """Write the lock, if it still is what it was; says whether it is held now."""
        self.beat += 1
        until = time.clock_gettime(_CLOCK) + LEASE
        content = json.dumps(self.mine | {"beat": self.beat}, sort_keys=True).encode()
        got = self.bucket.swap(self.key, content, stamp)
        if got is None:
            return False
        self.stamp, self.until = got, until
        return True

    def start(self) -> None:
        """Renew it from now on."""
        self._thread.start()

    def _renew(self) -> None:
        while not self._end.wait(LEASE / 4):
            try:
                if not self.take(self.stamp):
                    self.until = 0.0
                    return
            except GenostoreError:
                continue  # the lease runs out by itself if this goes on

    def check(self) -> None:
        """Raise ConflictError unless the lock is held, and for a while yet."""
        if time.clock_gettime(_CLOCK) > self.until - LEASE / 4:
            raise ConflictError(
                f"the lock on {self.what} was lost: it could not be renewed in time, or was taken over; nothing was "
                "published. Run again, what is done is kept"
            )

    def release(self) -> None:
        """Give it back."""
        self._end.set()
        self._thread.join()
        if self.until:
            with contextlib.suppress(GenostoreError):  # it runs out
                self.bucket.swap(self.key, _FREE, self.stamp)


@contextlib.contextmanager
def held(bucket: Bucket, name: str, what: str, wait: float) -> Iterator[None]:
    """Hold the lock of a name; see :meth:`genostore.storage.Storage.lock`."""
    lease = Lease(bucket, f"{PRIVATE}/locks/{quote(name, safe='+')}.lock", what)
    deadline = time.monotonic() + wait
    while not _attempt(lease):
        if time.monotonic() >= deadline:
            holder = _holder(lease)
            raise ConflictError(
                f"another process is writing {what}{holder}; wait until it has finished, then run again. If it died, "
                f"its lock lapses within {LEASE:.0f} s"
            )
        time.sleep(_POLL)
    lease.start()
    _leases[bucket.root, name] = lease
    try:
        yield
    finally:
        del _leases[bucket.root, name]
        lease.release()


def check(bucket: Bucket, name: str) -> None:
    """Check that the lock of a name, if this process took it, is still held.

    Raises
    ------
    ConflictError
        If it ran out, so that another writer may be at work.
    """
    lease = _leases.get((bucket.root, name))
    if lease is not None:
        lease.check()


def check_idle(bucket: Bucket) -> None:
    """Check that no writer is at work.

    Raises
    ------
    ConflictError
        Naming what is being written.
    """

    def busy(key: str) -> bool:
        found = bucket.get(key)
        return found is not None and _alive(bucket, *found)

    keys = bucket.keys(f"{PRIVATE}/locks")
    for key, yes in zip(keys, bucket.map(busy, keys), strict=True):
        if yes:
            node = unquote(key.rpartition("/")[2].removesuffix(".lock"))
            raise ConflictError(f"another process is writing {node} of {bucket.root}; wait until it has finished")


def _attempt(lease: Lease) -> bool:
    found = lease.bucket.get(lease.key)
    if found is None:
        return lease.take(None)
    from genostore.objects import stamp_of

    return not _alive(lease.bucket, *found) and lease.take(stamp_of(found[1]))


def _alive(bucket: Bucket, content: bytes, about: dict[str, Any]) -> bool:
    """Tell whether a lock is held by someone who lives, as far as can be known."""
    holder = _parse(content)
    if not holder.get("owner") or _dead(holder):
        return False
    age = bucket.now() - about["last_modified"].timestamp()
    return bool(age <= float(holder.get("lease", LEASE)) + 1)  # objects' times are in whole seconds


def _holder(lease: Lease) -> str:
    found = lease.bucket.read(lease.key)
    host = _parse(found).get("host") if found else None
    return f" on {host}" if host else ""


def _parse(content: bytes) -> dict[str, Any]:
    try:
        holder = json.loads(content)
    except ValueError:
        return {"owner": "unknown"}
    return holder if isinstance(holder, dict) else {"owner": "unknown"}


def _process() -> dict[str, Any]:
    """Say which process this is, as far as another one on the same machine needs to see whether it lives."""
    return {"host": os.uname().nodename, "machine": _machine(), "pid": os.getpid(), "started": _started(os.getpid())}


def _machine() -> str | None:
    """Tell this machine, since it was started, and its space of process numbers, from others."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = Path("/proc/self/ns/pid").readlink()
    except OSError:
        return None
    return hashlib.sha256(f"{os.uname().nodename} {boot} {space}".encode()).hexdigest()[:16]


def _started(pid: int) -> str | None:
    """When a process started, in ticks of the machine; None where there is none, or a corpse."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def _dead(holder: dict[str, Any]) -> bool:
    """Tell that a process of this machine is gone; of others nothing is known."""
    machine = _machine()
    if machine is None or holder.get("machine") != machine or holder.get("started") is None:
        return False
    return _started(int(holder["pid"])) != holder["started"]
