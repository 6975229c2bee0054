"""The S3 server of the tests, and a proxy before it that counts and breaks requests."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from genostore import access, objects
from tests.genostore.conftest import Toy, build_toy

from .proxy import Proxy
from .server import BUCKET, environment, serve, upload


@dataclass(frozen=True)
class S3:
    """Where stores may be made: a prefix of its own in the bucket of a server behind a proxy."""

    proxy: Proxy
    upstream: str
    prefix: str

    def url(self, name: str) -> str:
        return f"s3://{BUCKET}/{self.prefix}/{name}"

    def upload(self, folder: Path, name: str, **options: Any) -> str:
        """Copy a local store to the server."""
        upload(self.upstream, folder, f"{self.prefix}/{name}", **options)
        return self.url(name)


@pytest.fixture(scope="session")
def moto() -> Iterator[tuple[str, int]]:
    """Host and port of the server."""
    with serve() as place:
        yield place


@pytest.fixture
def s3(moto: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """A place for stores, and the environment that leads there."""
    proxy = Proxy(moto).start()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in environment(proxy.url).items():
        monkeypatch.setenv(name, value)
    yield S3(proxy, f"http://{moto[0]}:{moto[1]}", uuid.uuid4().hex[:8])
    proxy.stop()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up soon, where a test waits for that."""
    monkeypatch.setattr(access, "RETRIES", 3)
    monkeypatch.setattr("genostore.arrays._context", None)  # made anew, with these settings
    monkeypatch.setattr(objects, "_connect", objects._connect.__wrapped__)


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """A small store on disk, to be copied and compared with."""
    return build_toy(tmp_path_factory.mktemp("toy") / "toy.zarr")
