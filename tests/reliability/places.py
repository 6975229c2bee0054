"""Where stores lie that are killed: a folder, or a bucket of a real S3 server; and what kills before an operation."""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.objects.proxy import Proxy
from tests.objects.server import BUCKET, connect, environment, serve

ENDLESS = 1 << 40
_EVENTS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree")


class Trigger:
    """Counts operations, and kills a process before its n-th; shared by all that are forked after it was made."""

    def __init__(self) -> None:
        self._shared = memoryview(mmap.mmap(-1, 16)).cast("q")  # the process, and how many operations it has left
        self._lock = threading.Lock()

    def arm(self, number: int = ENDLESS) -> None:
        """Kill this process before its operation of this number, from 1."""
        self._shared[0], self._shared[1] = os.getpid(), number

    def tick(self) -> None:
        """Count an operation."""
        with self._lock:
            self._shared[1] -= 1
            if self._shared[1] == 0:
                os.kill(self._shared[0], signal.SIGKILL)

    @property
    def ticks(self) -> int:
        """Operations since it was armed without an end."""
        return ENDLESS - self._shared[1]


class Disk:
    """A folder; operations are those that change files, which an audit hook sees."""

    name = ""

    def __init__(self) -> None:
        self.trigger = Trigger()

    def watch(self) -> None:
        """Count what this process does; in a child, as a hook stays."""

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            if event in _EVENTS and (event != "open" or arguments[2] & (os.O_WRONLY | os.O_RDWR)):
                self.trigger.tick()

        sys.addaudithook(hook)

    def url(self, folder: Path, name: str) -> str:
        """A store's place."""
        return str(folder / name)

    def copy(self, one: Path, other: Path) -> None:
        """Copy all that is there."""
        shutil.copytree(one, other)

    def delete(self, folder: Path) -> None:
        """Delete all that is there."""
        shutil.rmtree(folder)

    def objects(self, folder: Path, name: str) -> dict[str, bytes]:
        """The bytes of a store's objects, private ones too."""
        top = folder / name
        return {p.relative_to(top).as_posix(): p.read_bytes() for p in sorted(top.rglob("*")) if p.is_file()}


class S3(Disk):
    """A bucket, source files in a folder; operations are the requests that change objects, which a proxy sees."""

    name = " on S3"

    @classmethod
    @contextlib.contextmanager
    def serve(cls) -> Iterator[S3]:
        """Start the server, and the proxy in a process of its own, as this one is to be forked."""
        with serve() as upstream:
            place = cls()
            place.client = connect("http://{}:{}".format(*upstream))
            reading, writing = os.pipe()
            proxy = os.fork()
            if proxy == 0:
                os.close(reading)
                _relay(upstream, place.trigger, writing)
            os.close(writing)
            try:
                with os.fdopen(reading) as said:
                    os.environ.update(environment(said.readline().strip()))
                yield place
            finally:
                os.kill(proxy, signal.SIGKILL)
                os.waitpid(proxy, 0)

    client: Any

    def watch(self) -> None:
        """Nothing to be done: the proxy counts."""

    def _prefix(self, folder: Path) -> str:
        return "/".join(folder.parts[-2:]) + "/"

    def _keys(self, prefix: str) -> Iterator[str]:
        for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix):
            yield from (item["Key"] for item in page.get("Contents", ()))

    def url(self, folder: Path, name: str) -> str:
        return f"s3://{BUCKET}/{self._prefix(folder)}{name}"

    def copy(self, one: Path, other: Path) -> None:
        super().copy(one, other)
        source, target = self._prefix(one), self._prefix(other)
        for key in self._keys(source):
            self.client.copy_object(
                Bucket=BUCKET, Key=target + key.removeprefix(source), CopySource={"Bucket": BUCKET, "Key": key}
            )

    def delete(self, folder: Path) -> None:
        super().delete(folder)
        for key in self._keys(self._prefix(folder)):
            self.client.delete_object(Bucket=BUCKET, Key=key)

    def objects(self, folder: Path, name: str) -> dict[str, bytes]:
        top = f"{self._prefix(folder)}{name}/"
        found = {key: self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in self._keys(top)}
        return {key.removeprefix(top): content for key, content in found.items()}


def _relay(upstream: tuple[str, int], trigger: Trigger, writing: int) -> None:
    """Pass requests on for ever, and count those that change objects."""

    def hook(request: str) -> None:
        if not request.startswith(("GET", "HEAD")):
            trigger.tick()

    proxy = Proxy(upstream, hook=hook).start()
    os.write(writing, f"{proxy.url}\n".encode())
    os.close(writing)
    while True:
        signal.pause()
