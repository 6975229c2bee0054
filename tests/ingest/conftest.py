"""Small source files that tests write themselves."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from .small import Small, build_small

Write = Callable[[str, str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a file of the given name and content; a name that ends in .gz is compressed."""

    def write(name: str, content: str | bytes) -> Path:
        data = content.encode() if isinstance(content, str) else content
        path = tmp_path / name
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return write


@pytest.fixture(scope="session")
def data(shared: Path) -> Path:
    """The folder of public data sets."""
    return shared / "data"


@pytest.fixture(scope="session")
def small_files(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """The files of ``small``, written once."""
    return build_small(tmp_path_factory.mktemp("small"))


@pytest.fixture
def small(small_files: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Small:
    """A small genome with one file of every format; what is fetched or derived lands beside it."""
    monkeypatch.setenv("GENOSTORE_CACHE", str(tmp_path / "cache"))
    shutil.copytree(small_files.folder, tmp_path / "sources")
    return replace(small_files, folder=tmp_path / "sources")
