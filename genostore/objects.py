"""A store in a bucket of S3 or Google Cloud Storage, or read-only behind a web server.

Objects are read and written through obstore, chunks of arrays through TensorStore. Nothing can be renamed here, so a
node is published by copying its staged chunks to their places and putting its ``zarr.json`` last; it is retired by
taking its ``zarr.json`` away first. docs/object_stores.md says what follows from that.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import time
import uuid
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from genostore import leases
from genostore.access import CONCURRENCY, S3Access, check_url, client_options, redact, retry_config
from genostore.disk import event_record
from genostore.errors import ConflictError, ForkError, FormatError, GenostoreError, RemoteError
from genostore.storage import METADATA, PRIVATE, Argument, Result, Storage

_CONTESTED = 60  # times that a compare-and-swap is tried
_TENSORSTORE = re.compile(
    r"^(ABORTED|UNAVAILABLE|DEADLINE_EXCEEDED|PERMISSION_DENIED|UNAUTHENTICATED|RESOURCE_EXHAUSTED|UNKNOWN|CANCELLED"
    r"|INTERNAL)\b"
)
_NAMED = re.compile(r"<Code>(\w+)</Code>|\b([A-Z][a-z]+[A-Za-z]*): [A-Z]")  # of S3's errors
_NUMBERED = re.compile(r"status code: (\d+ [A-Za-z ]+)|http_response_code='(\d+)'")


@dataclass(frozen=True)
class Bucket(Storage):
    """A store below a URL: ``s3://bucket/prefix``, ``gs://bucket/prefix``, or read-only ``https://host/path``."""

    @classmethod
    def at(cls, url: str) -> Bucket:
        """Make the storage of a URL.

        Raises
        ------
        FormatError
            If its scheme is not served, or it carries credentials.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("s3", "gs", "https", "http"):
            raise FormatError(
                f"{redact(url)!r} is a {parts.scheme}:// URL; stores lie in folders, or at s3://, gs:// or https://"
            )
        if not parts.netloc:
            raise FormatError(f"{redact(url)!r} names no {'host' if 'http' in parts.scheme else 'bucket'}")
        return cls(check_url(url, "the URL"))

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    @property
    def _writable(self) -> bool:
        return not self.root.startswith("http")

    @cached_property
    def _access(self) -> S3Access | None:
        return S3Access.find() if self.root.startswith("s3:") else None

    @property
    def _client(self) -> Any:
        return _connect(self.root, self._access, os.getpid())

    # Reading.

    def get(self, key: str) -> tuple[bytes, dict[str, Any]] | None:
        """Read a whole object and what the store says of it; None where there is none."""
        import obstore

        with self._asking(f"read {key}"):
            try:
                found = obstore.get(self._client, key)
                return bytes(found.bytes()), dict(found.meta)
            except FileNotFoundError:
                return None

    def fetch(self, key: str) -> tuple[bytes, Hashable] | None:
        """Read a whole object with its stamp, in one request."""
        found = self.get(key)
        return None if found is None else (found[0], stamp_of(found[1]))

    def about(self, key: str) -> dict[str, Any] | None:
        """Ask for an object's size, time and ETag; None where there is none."""
        import obstore

        with self._asking(f"read {key}"):
            try:
                return dict(obstore.head(self._client, key))
            except FileNotFoundError:
                return None

    def stamp(self, key: str) -> Hashable | None:
        """Tell one content of an object from the next, by its ETag."""
        found = self.about(key)
        return None if found is None else stamp_of(found)

    def children(self, folder: str) -> list[str]:
        """Name the folders directly in a folder, sorted."""
        import obstore

        self._listable()
        with self._asking(f"list {folder or 'the root'}"):
            found = obstore.list_with_delimiter(self._client, folder or None)
        return sorted(prefix.rstrip("/").rpartition("/")[2] for prefix in found["common_prefixes"])

    def keys(self, folder: str) -> list[str]:
        """Give the keys of all objects below a folder."""
        return [item["path"] for item in self._items(folder)]

    def _items(self, folder: str) -> list[dict[str, Any]]:
        import obstore

        self._listable()
        with self._asking(f"list {folder or 'the root'}"):
            return [item for page in obstore.list(self._client, folder or None, chunk_size=1_000) for item in page]

    def _listable(self) -> None:
        if not self._writable:
            raise FormatError(
                f"{self.root} has no index.json, and nothing can be listed over http; run `genostore reindex` on the "
                "store that is served, and serve its index.json too"
            )

    def kvstore(self, key: str) -> dict[str, Any]:
        """Give the TensorStore specification of a folder of objects."""
        parts = urlsplit(self.root)
        if not self._writable:
            base = f"{parts.scheme}://{parts.netloc}"
            return {"driver": "http", "base_url": base, "path": f"{parts.path}/{key}/"}
        path = f"{parts.path.strip('/')}/{key}/".lstrip("/")
        if self._access is None:
            return {"driver": "gcs", "bucket": parts.netloc, "path": path}
        return {"driver": "s3", "bucket": parts.netloc, "path": path, **self._access.for_tensorstore()}

    def map(self, function: Callable[[Argument], Result], values: Iterable[Argument]) -> Sequence[Result]:
        """Apply a function to each value, side by side."""
        values = list(values)
        if len(values) < 2:
            return [function(value) for value in values]
        with ThreadPoolExecutor(min(CONCURRENCY, len(values)), "genostore-ask") as pool:
            return list(pool.map(function, values))

    def refusal(self, error: Exception) -> Exception | None:
        """Make a plain error of one of TensorStore's, if it is no fault of the stored bytes."""
        text = str(error)
        found = _TENSORSTORE.match(text)
        return self._error("read", text, found[1].startswith(("PERM", "UNAUTH"))) if found else None

    @contextlib.contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        """Turn obstore's errors into ours, without what they may carry of requests."""
        from obstore import exceptions

        try:
            yield
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
            raise self._error(what, str(error), True) from None
        except (exceptions.AlreadyExistsError, exceptions.PreconditionError, GenostoreError, FileNotFoundError):
            raise
        except (exceptions.BaseError, OSError) as error:
            raise self._error(what, str(error), False) from None

    def _error(self, what: str, text: str, refused: bool) -> RemoteError:
        text = text.split("Debug source")[0]
        found = [*_NUMBERED.finditer(text), *_NAMED.finditer(text)]
        reason = next(filter(None, found[-1].groups())).strip() if found else "no connection, or none that lasted"
        if refused:
            kind = self._access.kind if self._access else "the environment's"
            return RemoteError(
                f"cannot {what} of {self.root}: access is refused ({reason}) with {kind} credentials; set or renew "
                "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or AWS_PROFILE, and see whether they "
                "may do this"
            )
        hint = "; is AWS_REGION the bucket's region?" if "redirect" in text or "301" in text else ""
        return RemoteError(
            f"cannot {what} of {self.root}: the server gives no answer that can be used, after several attempts "
            f"({reason}){hint}; run again later, what is done is kept"
        )

    # Writing.

    def _write(self, key: str, content: bytes, mode: Any) -> Hashable:
        import obstore

        if not self._writable:
            raise RemoteError(f"{self.root} is read-only: nothing is written over http; open it as s3:// or gs://")
        with self._asking(f"write {key}"):
            try:
                put = obstore.put(self._client, key, content, mode=mode, use_multipart=False)
            except FileNotFoundError:
                if isinstance(mode, dict):  # the object to replace is gone
                    raise _Changed from None
                raise RemoteError(
                    f"cannot write {key} of {self.root}: there is no such bucket; make it first"
                ) from None
        return put.get("e_tag"), put.get("version")

    def put(self, key: str, content: bytes) -> None:
        """Write an object whole."""
        self._write(key, content, "overwrite")

    def swap(self, key: str, content: bytes, stamp: Hashable | None) -> Hashable | None:
        """Write an object if it is still the one of a stamp, or with None, if there still is none.

        Returns
        -------
        hashable or None
            The new stamp; None if another writer was first.
        """
        from obstore import exceptions

        mode: Any = "create"
        if stamp is not None:
            mode = dict(zip(("e_tag", "version"), stamp, strict=True))  # type: ignore[call-overload]
            mode = {name: value for name, value in mode.items() if value}
        for attempt in range(4):
            try:
                return self._write(key, content, mode)
            except (exceptions.AlreadyExistsError, exceptions.PreconditionError, _Changed):
                found = self.fetch(key)  # ours, if the answer to an earlier attempt was lost
                return found[1] if found is not None and found[0] == content else None
            except RemoteError as error:
                if attempt == 3 or "refused" in str(error):
                    raise
                time.sleep(0.1 * 2**attempt)
        return None

    def amend(self, key: str, change: Callable[[bytes | None], bytes]) -> None:
        """Replace an object by compare-and-swap."""
        for attempt in range(_CONTESTED):
            found = self.fetch(key)
            content = change(found[0] if found else None)
            if found is not None and found[0] == content:
                return
            if self.swap(key, content, found[1] if found else None) is not None:
                return
            time.sleep(random.SystemRandom().uniform(0, min(0.02 * 2**attempt, 2)))
        raise ConflictError(f"{key} of {self.root} was changed by others {_CONTESTED} times in a row; run again")

    def remove(self, key: str) -> None:
        """Delete one object, if it is there."""
        self._delete([key])

    def delete(self, folder: str) -> None:
        """Delete all objects below a folder."""
        self._delete(self.keys(folder))

    def _delete(self, keys: list[str]) -> None:
        import obstore

        if keys:
            with self._asking(f"delete {keys[0]}"), contextlib.suppress(FileNotFoundError):
                obstore.delete(self._client, keys)

    def copy(self, source: str, target: str) -> None:
        """Copy an object within the store; the server does it."""
        import obstore

        with self._asking(f"copy {source}"):
            obstore.copy(self._client, source, target)

    @contextlib.contextmanager
    def lock(self, name: str, what: str, wait: float = 0.0) -> Iterator[None]:
        """Hold a lease; see :mod:`genostore.leases` and :meth:`Storage.lock`."""
        if not self._writable:
            raise RemoteError(f"{self.root} is read-only: nothing is written over http; open it as s3:// or gs://")
        with leases.held(self, name, f"{what} of {self.root}", wait):
            yield

    def now(self) -> float:
        """Tell the time by the store's own clock, in seconds: that of its objects' times."""
        key = f"{PRIVATE}/clock/{uuid.uuid4().hex}"
        self.put(key, b"")
        about = self.about(key)
        self.remove(key)
        return float(about["last_modified"].timestamp()) if about else time.time()

    def prepare(self) -> None:
        """See that nothing but a store is there."""
        import obstore

        with self._asking("list the root"):
            found = obstore.list_with_delimiter(self._client, None)
        names = [item["path"] for item in found["objects"]] + [p.strip("/") for p in found["common_prefixes"]]
        if METADATA not in names and any(name.rpartition("/")[2] != PRIVATE for name in names):
            raise ConflictError(f"{self.root} is a prefix with other things below it; name a new one for the store")

    def publish(self, staged: str, node: str, metadata: Mapping[str, bytes], generation: int) -> None:
        """Copy a staged node's chunks to their places and put its metadata, its own ``zarr.json`` last."""
        if self.there(node):
            self.retire(node, generation)
        leases.check(self, node)
        self._clear(node)

        def place(key: str) -> None:
            leases.check(self, node)
            self.copy(key, node + key.removeprefix(staged))

        self.map(place, self.keys(staged))
        *arrays, own = metadata.items()
        self.map(lambda item: self.put(f"{node}/{item[0]}", item[1]), arrays)
        leases.check(self, node)
        self.put(f"{node}/{own[0]}", own[1])

    def _clear(self, node: str) -> None:
        """Delete what is left of a node that is out of sight, and what was kept to bring it back."""
        self.delete(node)
        for name in self.children(f"{PRIVATE}/retired"):
            if unquote(name.rpartition("@")[0]) == node:
                self.delete(f"{PRIVATE}/retired/{name}")

    def there(self, node: str) -> bool:
        """Tell whether there is a node."""
        return self.stamp(f"{node}/{METADATA}") is not None

    def retire(self, node: str, generation: int) -> None:
        """Take a node's metadata away, its own first; its chunks stay until they are replaced or collected."""
        leases.check(self, node)
        keys = sorted((k for k in self.keys(node) if k.endswith(f"/{METADATA}")), key=len)
        retired = f"{PRIVATE}/retired/{quote(node, safe='+')}@{generation}"
        self.map(lambda key: self.copy(key, retired + key.removeprefix(node)), keys)
        for key in keys[:1]:
            self.remove(key)
        self._delete(keys[1:])

    def collect(self, grace: float) -> list[str]:
        """Delete what is left over; see :meth:`Storage.collect`."""
        deleted = []
        retired: dict[str, list[str]] = {}
        for name in self.children(f"{PRIVATE}/retired"):
            retired.setdefault(unquote(name.rpartition("@")[0]), []).append(name)
        staged: dict[str, list[str]] = {}
        for name in self.children(f"{PRIVATE}/staging"):
            staged.setdefault(unquote(name.partition("@")[0]), []).append(name)
        leases.check_idle(self)
        with contextlib.ExitStack() as held:
            for node in sorted(retired.keys() | staged.keys()):
                held.enter_context(self.lock(node, node))
            for node, names in sorted(staged.items()):
                if node not in retired and not self.there(node):
                    self.delete(node)  # of a run that was killed while it published
                for name in names:
                    self.delete(f"{PRIVATE}/staging/{name}")
                    deleted.append(f"staged {node}")
            now = self.now() if retired else 0.0
            for node, names in sorted(retired.items()):
                for name in sorted(names):
                    items = self._items(f"{PRIVATE}/retired/{name}")
                    if any(now - item["last_modified"].timestamp() < grace for item in items):
                        continue
                    if not self.there(node):
                        self.delete(node)
                    self.delete(f"{PRIVATE}/retired/{name}")
                    deleted.append(f"retired {unquote(name)}")
        return deleted

    def log(self, **event: Any) -> None:
        """Note an event: an object each, since nothing can be appended to one."""
        record = event_record(event)
        key = f"{PRIVATE}/log/{record['time']}-{uuid.uuid4().hex[:12]}.json"
        self.put(key, json.dumps(record).encode())


class _Changed(Exception):
    """The object to replace is another one or gone."""


def stamp_of(about: Mapping[str, Any]) -> Hashable:
    """Tell one content of an object from another by what the store says of it."""
    if about.get("e_tag"):
        return about["e_tag"], about.get("version")
    return about["last_modified"].isoformat(), about["size"]


@lru_cache(64)
def _connect(root: str, access: S3Access | None, process: int) -> Any:
    """Open the connections of a process to a place."""
    if _processes and process not in _processes:
        raise ForkError(
            "this process was forked from one that had already read from an object store, and connections do not "
            "survive a fork; start workers with spawn: DataLoader(..., multiprocessing_context='spawn'), or "
            "multiprocessing.get_context('spawn')"
        )
    try:
        from obstore.store import GCSStore, HTTPStore, S3Store
    except ImportError:
        raise FormatError(f"{root} is remote, which takes obstore: pip install 'genostore[cloud]'") from None
    _processes.add(process)
    parts = urlsplit(root)
    prefix = parts.path.strip("/")
    common: dict[str, Any] = {"retry_config": retry_config()}
    if parts.scheme in ("http", "https"):
        return HTTPStore.from_url(root, client_options=client_options(root), **common)
    if access is None:
        return GCSStore(parts.netloc, prefix=prefix or None, client_options=client_options(root), **common)
    options = client_options(access.endpoint or root)
    return S3Store(parts.netloc, prefix=prefix or None, client_options=options, **access.for_obstore(), **common)


_processes: set[int] = set()
