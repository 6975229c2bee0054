"""Where a store's objects lie: what the format needs of a file system or an object store, and nothing else.

:meth:`Storage.of` gives a :class:`genostore.folder.Folder` for a path and a :class:`genostore.objects.Bucket` for a
URL. Every access to a store goes through one.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

PRIVATE = ".genostore"  # staging, locks, retired generations and the log: no part of the Zarr hierarchy
INDEX = "index.json"
METADATA = "zarr.json"

Argument = TypeVar("Argument")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Storage(ABC):
    """A place that holds a store: objects by key, such as ``tracks/K562/DNase/zarr.json``.

    It is picklable and cheap to make; connections are opened on demand, in each process anew.

    Attributes
    ----------
    root
        Absolute path, or URL, free of credentials.
    """

    root: str

    @staticmethod
    def of(path: str | os.PathLike[str]) -> Storage:
        """Make the storage of a path or URL.

        Raises
        ------
        FormatError
            For a URL of a scheme that is not served, or with credentials in it.
        """
        from genostore.folder import Folder

        text = os.fspath(path)
        scheme = urlsplit(text).scheme
        if scheme == "file":
            text = urlsplit(text).path
        elif len(scheme) > 1 and "://" in text:  # one letter is a drive
            from genostore.objects import Bucket

            return Bucket.at(text)
        return Folder(str(Path(text).absolute()))

    @property
    def local(self) -> bool:
        """Whether objects are files, so that asking for one costs next to nothing."""
        return False

    def path(self, key: str) -> Path:
        """Where the object ``key`` lies as a file; of local stores alone."""
        raise TypeError(f"{self.root} is no folder: {key} has no path there")

    # Reading.

    def read(self, key: str) -> bytes | None:
        """Read a whole object, None where there is none."""
        found = self.fetch(key)
        return found[0] if found is not None else None

    @abstractmethod
    def fetch(self, key: str) -> tuple[bytes, Hashable] | None:
        """Read a whole object with its stamp, None where there is none."""

    @abstractmethod
    def stamp(self, key: str) -> Hashable | None:
        """Tell one content of an object from the next without reading it; None where there is none."""

    @abstractmethod
    def children(self, folder: str) -> list[str]:
        """Name the folders directly in a folder, sorted; ``""`` is the root."""

    @abstractmethod
    def keys(self, folder: str) -> list[str]:
        """Give the keys of all objects below a folder."""

    @abstractmethod
    def kvstore(self, key: str) -> dict[str, Any]:
        """Give the TensorStore specification of a folder of objects."""

    def map(self, function: Callable[[Argument], Result], values: Iterable[Argument]) -> Sequence[Result]:
        """Apply a function that waits for the storage to each value, side by side where that is quicker."""
        return [function(value) for value in values]

    def refusal(self, error: Exception) -> Exception | None:
        """Make of a failed read what should be raised if the storage refused it or gave no answer; else None."""
        return None

    # Writing.

    @abstractmethod
    def put(self, key: str, content: bytes) -> None:
        """Write an object whole and durably; a reader sees the old content or the new."""

    @abstractmethod
    def amend(self, key: str, change: Callable[[bytes | None], bytes]) -> None:
        """Replace an object by what a function makes of it, whatever other writers do meanwhile."""

    @abstractmethod
    def remove(self, key: str) -> None:
        """Delete one object, if it is there."""

    @abstractmethod
    def delete(self, folder: str) -> None:
        """Delete all objects below a folder."""

    @abstractmethod
    def lock(self, name: str, what: str, wait: float = 0.0) -> AbstractContextManager[None]:
        """Hold a lock that is given back, or is recognised as dead, when its holder dies.

        Parameters
        ----------
        name
            Of the lock.
        what
            Is locked, for the message.
        wait
            Seconds to wait for another holder.

        Raises
        ------
        ConflictError
            If another process holds it.
        """

    @abstractmethod
    def prepare(self) -> None:
        """Make ready for a new store.

        Raises
        ------
        ConflictError
            If other things than a store are there.
        """

    @abstractmethod
    def publish(self, staged: str, node: str, metadata: Mapping[str, bytes], generation: int) -> None:
        """Put a staged node into its place, whole; what is there is retired first.

        Parameters
        ----------
        staged
            Folder of its stored chunks.
        node
            Its path.
        metadata
            Its ``zarr.json`` objects by their key inside it, in the order in which they must appear.
        generation
            Of what is there, if anything is.
        """

    @abstractmethod
    def there(self, node: str) -> bool:
        """Tell whether anything lies in the place of a node."""

    @abstractmethod
    def retire(self, node: str, generation: int) -> None:
        """Take a node out of sight; readers that have it open find out at their next read."""

    @abstractmethod
    def collect(self, grace: float) -> list[str]:
        """Delete staged work that no writer holds, and nodes retired more than ``grace`` seconds ago.

        Returns
        -------
        list of str
            What was deleted.

        Raises
        ------
        ConflictError
            If a writer is at work; nothing is deleted then.
        """

    @abstractmethod
    def log(self, **event: Any) -> None:
        """Note an event; the one place where times, hosts and paths are kept."""
