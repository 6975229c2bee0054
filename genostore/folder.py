"""A store in a folder of a file system."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from genostore.disk import (
    event_record,
    exchange,
    lock,
    make_folder,
    put_folder,
    remove_tree,
    sync_tree,
    write_file,
    writing,
)
from genostore.errors import ConflictError, FormatError
from genostore.storage import METADATA, PRIVATE, Storage


@dataclass(frozen=True)
class Folder(Storage):
    """A store in a folder. Nodes are renamed into their places; the operating system keeps the locks."""

    @property
    def local(self) -> bool:
        """Objects are files."""
        return True

    def path(self, key: str) -> Path:
        """Where the object ``key`` lies."""
        return Path(self.root, key)

    def read(self, key: str) -> bytes | None:
        """Read a whole object, None where there is none."""
        try:
            return self.path(key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def fetch(self, key: str) -> tuple[bytes, Hashable] | None:
        """Read a whole object with its stamp, which is taken first: a later content has a later stamp."""
        stamp = self.stamp(key)
        content = self.read(key)
        return None if content is None or stamp is None else (content, stamp)

    def stamp(self, key: str) -> Hashable | None:
        """Tell one content of an object from the next without reading it; None where there is none."""
        try:
            status = os.stat(f"{self.root}/{key}")  # noqa: PTH116 - on the hot path
        except (FileNotFoundError, NotADirectoryError):
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size

    def children(self, folder: str) -> list[str]:
        """Name the folders directly in a folder, sorted."""
        try:
            return sorted(entry.name for entry in os.scandir(self.path(folder)) if entry.is_dir())
        except FileNotFoundError:
            return []

    def keys(self, folder: str) -> list[str]:
        """Give the keys of all files below a folder."""
        return [
            Path(parent, name).relative_to(self.root).as_posix()
            for parent, _, names in os.walk(self.path(folder))
            for name in names
        ]

    def kvstore(self, key: str) -> dict[str, Any]:
        """Give the TensorStore specification of a folder."""
        return {"driver": "file", "path": f"{self.root}/{key}/"}

    def put(self, key: str, content: bytes) -> None:
        """Write a file; what a killed process leaves of it stays out of sight."""
        with writing(self.root):
            self._make(self.path(key).parent)
            write_file(self.path(key), content, self.path(f"{PRIVATE}/tmp"))

    def _make(self, folder: Path) -> None:
        """Make a folder and those above it, so that they survive a loss of power."""
        if not folder.is_dir():
            self._make(folder.parent)
            make_folder(folder)

    def amend(self, key: str, change: Callable[[bytes | None], bytes]) -> None:
        """Replace a file under a lock."""
        with self.lock(Path(key).stem, f"the {Path(key).stem}", wait=60):
            self.put(key, change(self.read(key)))

    def remove(self, key: str) -> None:
        """Delete a file, if it is there."""
        with writing(self.root):
            self.path(key).unlink(missing_ok=True)

    def delete(self, folder: str) -> None:
        """Delete a folder."""
        with writing(self.root):
            remove_tree(self.path(folder))

    @contextlib.contextmanager
    def lock(self, name: str, what: str, wait: float = 0.0) -> Iterator[None]:
        """Hold a lock that the operating system gives back when its holder dies; see :meth:`Storage.lock`."""
        path = self.path(f"{PRIVATE}/locks/{quote(name, safe='+')}.lock")
        with writing(self.root), lock(path, f"{what} of {self.root}", wait):
            yield

    def prepare(self) -> None:
        """Make the folder; see :meth:`Storage.prepare`."""
        folder = Path(self.root)
        with writing(self.root):
            if (
                folder.is_dir()
                and not self.path(METADATA).exists()
                and any(p.name != PRIVATE for p in folder.iterdir())
            ):
                raise ConflictError(f"{folder} is a folder with other things in it; name a new folder for the store")
            self.path(f"{PRIVATE}/locks").mkdir(parents=True, exist_ok=True)

    def publish(self, staged: str, node: str, metadata: Mapping[str, bytes], generation: int) -> None:
        """Complete the staged folder and rename it; see :meth:`Storage.publish`."""
        folder, target = self.path(staged), self.path(node)
        with writing(self.root):
            for key, content in metadata.items():
                write_file(folder / key, content)
            for pattern in ("*.__lock", "*.part", "*.partial"):  # of a writer that was killed
                for leftover in folder.rglob(pattern):
                    leftover.unlink()
            sync_tree(folder)
            self._make(target.parent)
            if not target.exists():
                put_folder(folder, target)
            elif exchange(folder, target):
                self._retire(node, generation, folder)
            else:
                self._retire(node, generation, target)
                put_folder(folder, target)

    def there(self, node: str) -> bool:
        """Tell whether anything lies in the place of a node."""
        return self.path(node).exists()

    def retire(self, node: str, generation: int) -> None:
        """Move a node's folder out of sight."""
        with writing(self.root):
            self._retire(node, generation, self.path(node))

    def _retire(self, node: str, generation: int, folder: Path) -> None:
        retired = self.path(f"{PRIVATE}/retired/{quote(node, safe='+')}@{generation}")
        remove_tree(retired)
        retired.parent.mkdir(parents=True, exist_ok=True)
        put_folder(folder, retired)

    def collect(self, grace: float) -> list[str]:
        """Delete what is left over; see :meth:`Storage.collect`."""
        deleted = []
        for name in ("", "staging", "retired", "tmp", "locks"):
            folder = self.path(f"{PRIVATE}/{name}")
            if folder.is_symlink():
                raise FormatError(f"{folder} is a link to another folder, of which nothing is deleted; remove the link")
        left = sorted(self.path(f"{PRIVATE}/staging").glob("*"))
        locks = sorted(self.path(f"{PRIVATE}/locks").glob("*.lock"))
        with writing(self.root), contextlib.ExitStack() as held:
            for file in locks:  # of every writer there was: none may be at work
                if file.name not in ("index.lock", "root.lock"):
                    name = unquote(file.name.removesuffix(".lock"))
                    held.enter_context(self.lock(name, name))
            for folder in left:
                remove_tree(folder)
                deleted.append(f"staged {unquote(folder.name.partition('@')[0])}")
            for folder in sorted(self.path(f"{PRIVATE}/retired").glob("*")):
                if time.time() - folder.stat().st_ctime >= grace:
                    remove_tree(folder)
                    deleted.append(f"retired {unquote(folder.name)}")
            for file in sorted(self.path(f"{PRIVATE}/tmp").glob("*")):
                if time.time() - file.stat().st_mtime >= grace:
                    file.unlink(missing_ok=True)
                    deleted.append(f"unfinished {file.name}")
        return deleted

    def log(self, **event: Any) -> None:
        """Append an event to a log of JSON lines."""
        with writing(self.root), self.path(f"{PRIVATE}/log.jsonl").open("a") as file:
            file.write(json.dumps(event_record(event)) + "\n")
