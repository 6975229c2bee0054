"""Where a store's objects lie. Today a folder of a file system; every access to one goes through here."""

from __future__ import annotations

import os
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from genostore.errors import FormatError

PRIVATE = ".genostore"  # staging, locks, retired generations and the log: no part of the Zarr hierarchy
INDEX = "index.json"


@dataclass(frozen=True)
class Storage:
    """A folder that holds a store.

    Attributes
    ----------
    root
        Absolute path.
    """

    root: str

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> Storage:
        """Make the storage of a path.

        Raises
        ------
        FormatError
            For a URL: this version reads and writes local stores.
        """
        text = os.fspath(path)
        scheme = urlsplit(text).scheme
        if scheme == "file":
            text = urlsplit(text).path
        elif len(scheme) > 1:  # one letter is a drive
            raise FormatError(
                f"{text!r} is a {scheme}:// URL, and this version of genostore opens stores on file systems only; "
                "copy the store to a local folder, or mount it"
            )
        return cls(str(Path(text).absolute()))

    def path(self, key: str) -> Path:
        """Where the object ``key`` lies."""
        return Path(self.root, key)

    def read(self, key: str) -> bytes | None:
        """Read a whole object, None where there is none."""
        try:
            return self.path(key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def stamp(self, key: str) -> Hashable | None:
        """Tell one content of an object from the next without reading it; None where there is none."""
        try:
            status = os.stat(os.path.join(self.root, key))  # noqa: PTH116, PTH118 - on the hot path
        except (FileNotFoundError, NotADirectoryError):
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size

    def kvstore(self, key: str) -> dict[str, Any]:
        """Give the TensorStore specification of a folder of objects."""
        return {"driver": "file", "path": f"{self.root}/{key}/"}
